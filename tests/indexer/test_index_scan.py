"""An exact scan holds every row that the oracle returns, for any batch, subset and duplicates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from indexer.index import exact
from indexer.index import scan as scanning
from indexer.index.rows import RowSet
from indexer.index.scan import Found, faiss_threads, scan
from tests.indexer.vectors import unit


@pytest.fixture(autouse=True)
def _no_gathering(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small subsets also take the ways that large ones take."""
    monkeypatch.setattr(scanning, "_GATHER_MOST", 20)


def _with_duplicates(seed: int, count: int, distinct: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return unit(rng.standard_normal((distinct, 16)))[rng.integers(0, distinct, count)]


def _holds(found: Found, vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int, keep: RowSet) -> None:
    scores, rows = found
    assert scores.shape == rows.shape
    expected = exact.search(vectors, queries, k, keep.mask())
    for query, (want, _) in enumerate(expected):
        got = rows[query][rows[query] >= 0]
        assert len(set(got.tolist())) == len(got)
        assert set(want.tolist()) <= set(got.tolist())
        assert keep.has(got).all()
        assert scores[query][rows[query] >= 0] == pytest.approx(vectors[got] @ queries[query], abs=1e-5)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 1000),
    count=st.integers(0, 300),
    distinct=st.sampled_from([1, 3, 200]),
    queries=st.sampled_from([0, 1, 3, 4, 9]),
    k=st.sampled_from([1, 5, 12, 1000]),
    share=st.sampled_from([0.0, 0.1, 0.5, 0.95, 1.0]),
)
def test_a_scan_holds_what_the_oracle_finds(
    seed: int, count: int, distinct: int, queries: int, k: int, share: float
) -> None:
    vectors = _with_duplicates(seed, count, distinct)
    rng = np.random.default_rng(seed)
    asked = unit(rng.standard_normal((queries, 16)))
    if count and queries:
        asked[0] = vectors[0]
    keep = RowSet.of(rng.random(count) < share)
    _holds(scan(vectors, asked, k, keep), vectors, asked, k, keep)
    if keep.count == count:
        _holds(scan(vectors, asked, k), vectors, asked, k, keep)


def test_a_query_whose_nearest_rows_are_all_left_out_still_gets_its_k() -> None:
    vectors = unit(np.random.default_rng(0).standard_normal((400, 16)))
    queries = vectors[:8]
    near = np.argsort(-(queries[0] @ vectors.T))[:90]
    mask = np.ones(400, bool)
    mask[near] = False
    _holds(scan(vectors, queries, 10, RowSet.of(mask)), vectors, queries, 10, RowSet.of(mask))


def test_another_device_may_search_all_rows_in_a_batch_and_subsets_stay_right() -> None:
    vectors = _with_duplicates(1, 300, 100)
    asked: list[int] = []

    def device(queries: NDArray[np.float32], k: int) -> Found:
        asked.append(k)
        scores = queries @ vectors.T
        rows = np.argsort(-scores, axis=1)[:, :k]
        return np.take_along_axis(scores, rows, axis=1), rows

    everything, most = RowSet.full(300), RowSet.full(300).without([*range(0, 300, 5)])
    _holds(scan(vectors, vectors[:6], 10, None, device), vectors, vectors[:6], 10, everything)
    _holds(scan(vectors, vectors[:6], 10, most, device), vectors, vectors[:6], 10, most)
    assert len(asked) == 2
    scan(vectors, vectors[:1], 10, None, device)
    assert len(asked) == 2, "one query is not worth the way to a device"


def test_the_number_of_threads_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss

    before = faiss.omp_get_max_threads()

    def fail() -> None:
        with faiss_threads(before + 3):
            assert faiss.omp_get_max_threads() == before + 3
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert faiss.omp_get_max_threads() == before


Ranking = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]


@settings(max_examples=60)
@given(
    seed=st.integers(0, 1000), dimension=st.sampled_from([4, 7, 64, 512, 1000]), batch=st.integers(1, 9), at=st.data()
)
def test_equal_vectors_have_bit_equal_scores_in_any_batch(
    seed: int, dimension: int, batch: int, at: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    vector, query = unit(rng.standard_normal((2, dimension)))
    others = unit(rng.standard_normal((batch, dimension)))
    others[at.draw(st.integers(0, batch - 1))] = vector
    alone = exact.cosine(vector, query)
    scores = exact.cosine(others, query)
    grid = exact.cosine(np.broadcast_to(vector, (3, batch, dimension)), np.broadcast_to(query, (3, 1, dimension)))
    assert alone in scores
    assert (grid == alone).all()
