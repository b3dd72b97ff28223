"""Recall@K, the one definition that gates, probes, tests and benches use.

A query counts as found at K when at least one of its K nearest items, itself left out, is of its own category. Recall@K
is the share of found queries among those that could be found: a query whose category has no other item in the gallery
says nothing about the model and is left out of the count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CHUNK_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class Recall:
    """Recall@K with the counts that it comes from."""

    found: int
    queries: int

    @property
    def value(self) -> float:
        """The share, 0 to 1; not a number when no query counts."""
        return self.found / self.queries if self.queries else math.nan

    def interval(self, z: float = 1.96) -> tuple[float, float]:
        """Wilson's interval of the share; `z` 1.96 is 95 %."""
        return wilson(self.found, self.queries, z)


def wilson(successes: float, trials: float, z: float = 1.96) -> tuple[float, float]:
    """The score interval of a share: E. B. Wilson, Probable Inference, JASA 22 (1927). (0, 1) without trials, of which
    there may be a broken number where they are weighted."""
    if trials == 0:
        return 0.0, 1.0
    share, z2 = successes / trials, z * z
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = z / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials))
    # At the ends the interval reaches 0 or 1 exactly; rounding must not leave it just inside.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return low, high


def ranks(
    query_categories: NDArray[Any] | Sequence[Any], hit_categories: NDArray[Any] | Sequence[Sequence[Any]]
) -> NDArray[np.int64]:
    """The place (Q,), from 1 on, of the first hit of each query's own category; 0 where there is none.

    `hit_categories` (Q, K) are as `recall_at` takes them.
    """
    right = np.asarray(hit_categories) == np.asarray(query_categories)[:, None]
    return np.where(right.any(axis=1), right.argmax(axis=1) + 1, 0)


def recall_from(ranks: NDArray[np.int64], ks: Sequence[int]) -> dict[int, Recall]:
    """Recall@K for each K of `ks`, from the place (Q,) of each query's first hit of its own category, as `ranks`."""
    return {k: Recall(int(np.count_nonzero((ranks > 0) & (ranks <= k))), len(ranks)) for k in ks}


def recall_at(
    query_categories: NDArray[Any] | Sequence[Any],
    hit_categories: NDArray[Any] | Sequence[Sequence[Any]],
    ks: Sequence[int],
    *,
    counts: NDArray[np.bool_] | None = None,
) -> dict[int, Recall]:
    """Recall@K for each K of `ks`, from the categories (Q, K) of each query's hits, best first, the query left out.

    Fill rows that have fewer hits with a value that is no category. `counts` (Q,) says which queries could be found;
    None: all. Errors: ValueError when `hit_categories` holds fewer hits than the largest K.
    """
    wanted, hits = np.asarray(query_categories), np.asarray(hit_categories)
    if hits.ndim != 2 or len(hits) != len(wanted) or hits.shape[1] < max(ks):
        raise ValueError(f"hits {hits.shape} do not give recall at {max(ks)} for {len(wanted)} queries")
    found = ranks(wanted, hits)
    return recall_from(found if counts is None else found[counts], ks)


def recall_of(
    queries: NDArray[np.float32],
    query_categories: NDArray[Any] | Sequence[Any],
    gallery: NDArray[np.float32],
    gallery_categories: NDArray[Any] | Sequence[Any],
    ks: Sequence[int] = (1,),
    *,
    self_rows: NDArray[np.int64] | None = None,
) -> dict[int, Recall]:
    """Recall@K of unit vectors `queries` (Q, D) searched exactly in `gallery` (N, D).

    `self_rows` (Q,) is each query's own row in the gallery, -1 where it has none; it never counts as a hit.
    """
    codes, hits, counts = _search(queries, query_categories, gallery, gallery_categories, max(ks), self_rows)
    return recall_at(codes, hits, ks, counts=counts)


def found_first(
    vectors: NDArray[np.float32], categories: NDArray[Any] | Sequence[Any]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """For each of `vectors` (N, D), searched among all others: whether the nearest is of its own category (N,), and
    whether it counts (N,), since its category has another member."""
    codes, hits, counts = _search(vectors, categories, vectors, categories, 1, np.arange(len(vectors)))
    return hits[:, 0] == codes, counts


def _search(
    queries: NDArray[np.float32],
    query_categories: NDArray[Any] | Sequence[Any],
    gallery: NDArray[np.float32],
    gallery_categories: NDArray[Any] | Sequence[Any],
    k: int,
    self_rows: NDArray[np.int64] | None,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """The queries' categories (Q,) and their hits' (Q, k) as numbers, and which queries could be found (Q,)."""
    categories, gallery_codes = np.unique(np.asarray(gallery_categories), return_inverse=True)
    wanted = np.asarray(query_categories)
    at = np.minimum(np.searchsorted(categories, wanted), max(0, len(categories) - 1))
    known = categories[at] == wanted if len(categories) else np.zeros(len(wanted), np.bool_)
    codes = np.where(known, at, -2)
    own = np.full(len(queries), -1) if self_rows is None else np.asarray(self_rows)
    others = np.bincount(gallery_codes, minlength=len(categories))[at] if len(categories) else np.zeros(len(wanted))
    counts = known & (others - (own >= 0) >= 1)
    hits = np.full((len(queries), k), -1)
    step = max(1, _CHUNK_ELEMENTS // max(1, len(gallery)))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        rows = _nearest(queries[part] @ gallery.T, own[part], k)
        hits[part, : rows.shape[1]] = np.where(rows >= 0, gallery_codes[rows], -1)
    return codes, hits, counts


def leave_one_out(
    vectors: NDArray[np.float32], categories: NDArray[Any] | Sequence[Any], ks: Sequence[int] = (1,)
) -> dict[int, Recall]:
    """Recall@K where each of `vectors` (N, D) is searched among all others."""
    return recall_of(vectors, categories, vectors, categories, ks, self_rows=np.arange(len(vectors)))


def values(recalls: Mapping[int, Recall]) -> dict[int, float]:
    """Only the shares."""
    return {k: recall.value for k, recall in recalls.items()}


def _nearest(scores: NDArray[np.float32], own: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Rows of the `k` highest `scores` (Q, N), best first, without each query's own row; -1 where there are fewer."""
    with_own = np.flatnonzero(own >= 0)
    scores[with_own, own[with_own]] = -np.inf
    k = min(k, scores.shape[1])
    rows = np.argpartition(-scores, k - 1, axis=1)[:, :k] if k else np.empty((len(scores), 0), np.int64)
    kept = np.take_along_axis(scores, rows, axis=1)
    order = np.lexsort((rows, -kept), axis=-1)
    best = np.take_along_axis(rows, order, axis=1)
    return np.where(np.isneginf(np.take_along_axis(kept, order, axis=1)), -1, best)
