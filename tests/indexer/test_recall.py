"""Recall@K, counted by hand and against a literal loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.recall import Recall, leave_one_out, recall_at, recall_of, values, wilson
from tests.indexer.vectors import unit


def test_recall_at_k_is_the_share_of_queries_with_their_category_among_the_first_k() -> None:
    hits = [["a", "b", "b"], ["a", "a", "b"], ["c", "c", "c"]]
    recalls = recall_at(["a", "b", "b"], hits, (1, 2, 3))
    assert values(recalls) == pytest.approx({1: 1 / 3, 2: 1 / 3, 3: 2 / 3})
    assert recalls[3] == Recall(2, 3)


def test_fewer_hits_than_the_largest_k_are_refused() -> None:
    with pytest.raises(ValueError, match="recall at 5"):
        recall_at(["a"], [["a"]], (5,))


@given(st.integers(0, 10_000), st.integers(1, 25), st.integers(1, 6))
def test_leave_one_out_is_what_a_loop_counts(seed: int, count: int, categories: int) -> None:
    rng = np.random.default_rng(seed)
    vectors, labels = unit(rng.standard_normal((count, 8))), rng.integers(0, categories, count)
    for k, recall in leave_one_out(vectors, labels, (1, 3)).items():
        found = counted = 0
        for query in range(count):
            if np.count_nonzero(labels == labels[query]) < 2:
                continue
            scores = vectors @ vectors[query]
            scores[query] = -np.inf
            nearest = [row for row in np.argsort(-scores)[:k] if row != query]
            counted += 1
            found += any(labels[row] == labels[query] for row in nearest)
        assert recall == Recall(found, counted)


def test_a_query_that_cannot_be_found_does_not_count() -> None:
    gallery = unit(np.eye(3))
    recall = recall_of(gallery, ["a", "zebra", "c"], gallery, ["a", "b", "c"])[1]
    assert recall == Recall(2, 2)
    alone = leave_one_out(gallery, ["a", "b", "c"])[1]
    assert alone.queries == 0
    assert math.isnan(alone.value)
    assert recall_of(gallery, ["a"] * 3, np.empty((0, 3), np.float32), [])[1] == Recall(0, 0)


def test_many_queries_are_counted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors, labels = unit(rng.standard_normal((50, 8))), rng.integers(0, 5, 50)
    whole = leave_one_out(vectors, labels, (1, 5))
    monkeypatch.setattr("indexer.recall._CHUNK_ELEMENTS", 100)
    assert leave_one_out(vectors, labels, (1, 5)) == whole


@pytest.mark.parametrize(
    ("successes", "trials", "interval"),
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0.0, 0.1611)), (1, 29, (0.0061, 0.1718))],
)
def test_wilsons_interval_is_the_published_one(successes: int, trials: int, interval: tuple[float, float]) -> None:
    """R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3."""
    assert wilson(successes, trials) == pytest.approx(interval, abs=5e-5)


def test_the_interval_ends_at_the_ends() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == 1.0
    assert Recall(15, 50).interval() == wilson(15, 50)


@given(st.integers(0, 500), st.integers(1, 500))
def test_the_interval_holds_the_share(successes: int, trials: int) -> None:
    successes = min(successes, trials)
    low, high = wilson(successes, trials)
    assert 0.0 <= low <= successes / trials <= high <= 1.0
