"""Exact search over the rows of a matrix, by faiss's kernels: what answers `exact`, the delta, and small subsets.

Float32 kernels sum in an order that depends on the batch, so their scores carry noise. A scan therefore returns
candidates: every row that can be among the k best once scores are computed without noise (exact.cosine).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import faiss
import numpy as np
from numpy.typing import NDArray

from indexer.index.rows import RowSet

Found: TypeAlias = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Scores and rows, (Q, C) each, best first; row -1 and score -inf where a query has fewer."""

Dense: TypeAlias = Callable[[NDArray[np.float32], int], Found]
"""Finds the `k` best of all rows for a batch of queries."""

NOISE = 1e-5  # far above the float32 noise of a dot product of unit vectors (1e-6 at 2,048 dimensions)
_MARGIN = 8  # fetched beyond k, so that noise and duplicates at the end rarely need a second look
_BATCH = 4  # queries from which one matrix product beats a scan for each query
_GATHER_ROWS = 2_000  # rows for each query, up to which copying a subset out is cheaper than skipping through the rest
_GATHER_MOST = 16_000

# faiss compares this with queries x dimension before it uses a matrix product. Its own value, 128,000, leaves batches
# of 4 to 249 queries at 512 dimensions on the slow path, by up to six times (tests/bench/results).
faiss.cvar.distance_compute_blas_threshold = 2048


@contextlib.contextmanager
def faiss_threads(count: int) -> Iterator[None]:
    """Lets faiss use `count` threads in calls of the calling thread; other threads keep their own number."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def scan(
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    k: int,
    keep: RowSet | None = None,
    dense: Dense | None = None,
) -> Found:
    """Candidates for the `k` best rows of `vectors` (N, D) for each of `queries` (Q, D), among the rows in `keep`.

    `dense` searches all rows instead of the CPU, such as on a GPU.
    """
    available = len(vectors) if keep is None else keep.count
    k = min(k, available)
    if k == 0 or len(queries) == 0:
        return _nothing(len(queries))
    if keep is not None and keep.count <= min(_GATHER_ROWS * len(queries), _GATHER_MOST):
        subset = keep.rows()
        scores, found = scan(vectors[subset], queries, k)
        return scores, np.where(found >= 0, subset[found], -1)
    if dense is None or len(queries) < _BATCH:
        dense = _on_cpu(vectors)
    fetch = min(k + _MARGIN, available)
    scores, rows = dense(queries, fetch) if keep is None else _top(vectors, queries, fetch, keep, dense)
    if fetch == available:
        return scores, rows
    for query in np.flatnonzero(scores[:, -1] >= scores[:, k - 1] - 2 * NOISE):
        threshold = float(scores[query, k - 1]) - 2 * NOISE
        scores, rows = _replaced(scores, rows, int(query), _above(vectors, queries[query], threshold, keep))
    return scores, rows


def selector_of(keep: RowSet | None) -> Any:
    """faiss's form of a row set, which must outlive it; None stays None."""
    return None if keep is None else faiss.IDSelectorBitmap(len(keep.bits), faiss.swig_ptr(keep.bits))


def _nothing(queries: int) -> Found:
    return np.empty((queries, 0), np.float32), np.empty((queries, 0), np.int64)


def _on_cpu(vectors: NDArray[np.float32]) -> Dense:
    return lambda queries, k: _knn(vectors, queries, k, None)


def _knn(vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int, selector: Any) -> Found:
    scores = np.empty((len(queries), k), np.float32)
    rows = np.empty((len(queries), k), np.int64)
    faiss.knn_inner_product(
        faiss.swig_ptr(queries),
        faiss.swig_ptr(vectors),
        vectors.shape[1],
        len(queries),
        len(vectors),
        k,
        faiss.swig_ptr(scores),
        faiss.swig_ptr(rows),
        selector,
    )
    return scores, rows


def _top(vectors: NDArray[np.float32], queries: NDArray[np.float32], fetch: int, keep: RowSet, dense: Dense) -> Found:
    """The best `fetch` rows of `keep`. A batch fetches more from all rows and drops what is not in `keep`: the kernel
    that skips rows works on one query at a time. A query that is left with too few is asked again, skipping."""
    selector = selector_of(keep)
    if len(queries) < _BATCH or 4 * keep.count < len(vectors):
        return _knn(vectors, queries, fetch, selector)
    wide = min(len(vectors), int(1.25 * fetch * len(vectors) / keep.count) + _MARGIN)
    scores, rows = dense(queries, wide)
    inside = keep.has(rows)
    first = np.argsort(~inside, axis=1, kind="stable")[:, :fetch]
    scores, rows = np.take_along_axis(scores, first, axis=1), np.take_along_axis(rows, first, axis=1)
    short = np.count_nonzero(inside, axis=1) < fetch
    if short.any():
        scores[short], rows[short] = _knn(vectors, queries[short], fetch, selector)
    return scores, rows


def _above(vectors: NDArray[np.float32], query: NDArray[np.float32], threshold: float, keep: RowSet | None) -> Found:
    """All rows of `keep` that score more than `threshold` for one query (D,): scores and rows (C,), best first."""
    selector = selector_of(keep)
    result = faiss.RangeSearchResult(1)
    faiss.range_search_inner_product(
        faiss.swig_ptr(query),
        faiss.swig_ptr(vectors),
        vectors.shape[1],
        1,
        len(vectors),
        threshold,
        result,
        selector,
    )
    total = int(faiss.rev_swig_ptr(result.lims, 2)[1])
    scores, rows = faiss.rev_swig_ptr(result.distances, total), faiss.rev_swig_ptr(result.labels, total)
    best = np.argsort(-scores, kind="stable")
    return scores[best], rows[best]


def _replaced(scores: NDArray[np.float32], rows: NDArray[np.int64], query: int, found: Found) -> Found:
    """`scores` and `rows` with one query's candidates replaced, and widened where those are more."""
    pad = ((0, 0), (0, max(0, len(found[0]) - rows.shape[1])))
    scores, rows = np.pad(scores, pad, constant_values=-np.inf), np.pad(rows, pad, constant_values=-1)
    scores[query], rows[query] = -np.inf, -1
    scores[query, : len(found[0])], rows[query, : len(found[1])] = found
    return scores, rows
