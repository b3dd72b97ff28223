"""Index recall: what counts as found, what says nothing of the index, and an index that does not look far enough."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from indexer.index import Filter, SearchParams, Segment
from server.watching.index_recall import IndexRecall, IndexRecallCount, compared, found_of, repeat
from tests.indexer.vectors import clustered
from tests.server.watching.samples import approximate_of, sample_of, serving_of, serving_over


def scores(*values: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("found", "exact", "wanted"),
    [
        ((0.9, 0.8, 0.7), (0.9, 0.8, 0.7), (3, 3)),
        ((0.9, 0.7, 0.6), (0.9, 0.8, 0.7), (2, 3)),
        ((0.6, 0.5), (0.9, 0.8), (0, 2)),
        ((0.9,), (0.9, 0.8), (1, 2)),
        ((), (0.9, 0.8), (0, 2)),
        ((), (), (0, 0)),
    ],
    ids=["all", "one is farther", "none", "too few", "nothing found", "nothing there"],
)
def test_what_scores_as_well_as_the_last_exact_hit_is_found(
    found: tuple[float, ...], exact: tuple[float, ...], wanted: tuple[int, int]
) -> None:
    assert found_of(scores(*found), scores(*exact)) == wanted


def test_another_item_with_the_score_of_the_last_exact_hit_is_as_good_as_it() -> None:
    """Five twins, of which three come within k: which ones, is chance."""
    twin, other = clustered(2, 8, 2, seed=1)
    serving = serving_of(np.array([twin, twin, twin, twin, twin, other]))
    sample = sample_of(serving, twin, SearchParams(k=3))
    last_three = sample.hits.__class__(serving.view, np.array([2, 3, 4]), sample.hits.scores)
    assert compared(replace(sample, hits=last_three), repeat(sample)) == (3, 3)


def test_a_query_is_repeated_with_its_own_k_and_filter_on_its_own_view() -> None:
    vectors = clustered(60, 8, 6)
    serving = serving_of(vectors)
    sample = sample_of(serving, vectors[7], SearchParams(k=4, filter=Filter(categories=frozenset({"c1"}))))
    exact = repeat(sample)
    assert exact.view is serving.view
    assert set(exact.categories) == {"c1"}
    assert exact.ids == sample.hits.ids
    assert compared(sample, exact) == (4, 4)


def test_hits_below_the_least_score_that_was_asked_for_are_not_missed() -> None:
    vectors = clustered(60, 8, 6)
    serving = serving_of(vectors)
    tenth = float(sample_of(serving, vectors[0]).hits.scores[9])
    sample = sample_of(serving, vectors[0], SearchParams(k=20, min_score=tenth))
    exact = repeat(sample)
    assert len(exact) == 20
    assert compared(sample, exact) == (10, 10)


def test_a_query_that_was_exact_or_can_find_nothing_says_nothing_of_the_index() -> None:
    vectors = clustered(20, 8, 4)
    exact = sample_of(serving_of(vectors), vectors[0], SearchParams(exact=True))
    assert compared(exact, repeat(exact)) is None
    nowhere = sample_of(serving_of(vectors), vectors[0], SearchParams(filter=Filter(categories=frozenset({"none"}))))
    assert compared(nowhere, repeat(nowhere)) is None


def test_a_search_that_few_matches_made_exact_says_nothing_of_an_index_with_another_way() -> None:
    vectors = clustered(2000, 16, 40)
    serving = serving_over(approximate_of(vectors))
    few = sample_of(serving, vectors[0], SearchParams(filter=Filter(categories=frozenset({"c1"}))))
    assert len(few.hits) == 10
    assert compared(few, repeat(few)) is None
    plain = sample_of(serving, vectors[0])
    assert compared(plain, repeat(plain)) is not None


def measured(segment: Segment, queries: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> float:
    serving = serving_over(segment)
    counts = IndexRecallCount(1)
    for query in queries:
        sample = sample_of(serving, query)
        counts.add(*(compared(sample, repeat(sample)) or (0, 10)))
    assert counts.current.recent_mean is not None
    return counts.current.recent_mean


def test_an_index_with_too_little_search_effort_is_seen_and_one_with_enough_is_not() -> None:
    vectors = clustered(6200, 32, 400)
    assert measured(approximate_of(vectors[:6000]), vectors[6000:]) >= 0.98
    assert measured(approximate_of(vectors[:6000], effort=False), vectors[6000:]) < 0.9


def test_totals_are_of_all_and_the_ratio_of_the_last() -> None:
    counts = IndexRecallCount(7, recent=2)
    for hits in (1, 5, 10):
        counts.add(hits, 10)
    assert counts.current == IndexRecall(7, queries=3, shares=1.6, recent_queries=2, recent_mean=0.75)


def test_each_query_counts_alike_whatever_its_k() -> None:
    """Pooled, the one that asked for a thousand would hide the nine that found half."""
    counts = IndexRecallCount(7)
    counts.add(1000, 1000)
    for _ in range(9):
        counts.add(1, 2)
    assert counts.current == IndexRecall(7, queries=10, shares=5.5, recent_queries=10, recent_mean=0.55)


def test_another_generation_begins_anew_and_the_same_one_goes_on() -> None:
    counts = IndexRecallCount(7)
    counts.add(9, 10)
    counts.follow(7)
    assert counts.current.queries == 1
    counts.follow(8)
    assert counts.current == IndexRecall(8)
    counts.add(10, 10)
    assert counts.current == IndexRecall(8, 1, 1.0, 1, 1.0)
