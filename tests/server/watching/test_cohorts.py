"""Which cohorts have a series, and what drift is, with figures worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.catalogue import CohortCounts
from indexer.recall import Recall, wilson
from server.watching.cohorts import LEAST_PROBES, Drift, Estimate, drift, labelled, pooled, worst

COLLAPSED = -0.1
"""Below which an alert says so, by the bound."""


def counts(cohort: int | None, found: int, probes: int) -> CohortCounts:
    return CohortCounts(cohort, probes, found, found, found)


def searched(cohorts: Sequence[CohortCounts]) -> dict[int | None, int]:
    """How many probes each has where all are searched."""
    return {each.cohort: each.probes for each in cohorts}


def drift_of_all(now: Sequence[CohortCounts], references: Mapping[int, CohortCounts]) -> Drift | None:
    """Where all probes are searched."""
    return drift(now, references, searched(now))


def test_every_cohort_has_its_label_while_there_are_few() -> None:
    cohorts = [counts(0, 1, 2), counts(3, 1, 2), counts(None, 1, 2)]
    assert labelled(cohorts) == {"all": cohorts, "0": cohorts[:1], "3": cohorts[1:2], "waiting": cohorts[2:]}


def test_of_forty_cohorts_the_first_and_the_newest_have_labels_and_the_others_share_one() -> None:
    cohorts = [*(counts(stage, stage, 100) for stage in range(40)), counts(None, 3, 4)]
    found = labelled(cohorts)
    assert list(found) == ["all", "0", "older", *map(str, range(29, 40)), "waiting"]
    assert [each.cohort for each in found["older"]] == list(range(1, 29))
    assert found["all"] == cohorts


def test_twelve_cohorts_need_no_label_for_others() -> None:
    assert list(labelled([counts(stage, 1, 2) for stage in range(12)])) == ["all", *map(str, range(12))]
    assert "older" in labelled([counts(stage, 1, 2) for stage in range(13)])


def test_a_cohort_without_probes_has_no_label() -> None:
    assert labelled([]) == {}
    assert labelled([counts(0, 0, 0)]) == {}


LARGE = [counts(0, 450, 500), *(counts(stage, 10, 20) for stage in range(1, 11))]
"""Cohort 0 has 20,000 probes, of which 500 are searched; all of ten others that have 20 each."""
LARGE_IN_ALL: dict[int | None, int] = {0: 20_000, **dict.fromkeys(range(1, 11), 20)}


def test_a_large_cohort_counts_with_all_its_probes_among_small_ones() -> None:
    """The counts added up, 550 of 700, are at 0.786; 18,100 of the 20,200 probes would be found."""
    found = pooled(LARGE, LARGE_IN_ALL)[1]
    assert found.value == 18_100 / 20_200
    # The sample is worth 20,200^2 / (20,000^2 / 500 + 200) probes.
    assert (found.low, found.high) == pytest.approx(wilson(0.896040 * 509.9225, 509.9225), abs=1e-6)
    assert found.low > 550 / 700


def literal(cohorts: Sequence[CohortCounts], in_all: Mapping[int | None, int]) -> tuple[float, float]:
    """The share and the effective number of probes, probe by probe: each with the weight of those it stands for."""
    weights, hits = [], []
    for each in cohorts:
        for number in range(each.probes):
            weights.append(in_all[each.cohort] / each.probes)
            hits.append(1.0 if number < each.found_1 else 0.0)
    share = sum(weight * hit for weight, hit in zip(weights, hits, strict=True)) / sum(weights)
    return share, sum(weights) ** 2 / sum(weight**2 for weight in weights)


@st.composite
def some_cohorts(draw: st.DrawFn) -> list[CohortCounts]:
    """One or more, each with probes; the last may be those that wait."""
    cohorts = []
    numbers: list[int | None] = list(range(draw(st.integers(1, 12))))
    if draw(st.booleans()):
        numbers[-1] = None
    for cohort in numbers:
        probes = draw(st.integers(1, 200))
        found = sorted(draw(st.tuples(*[st.integers(0, probes)] * 3)))
        cohorts.append(CohortCounts(cohort, probes, *found))
    return cohorts


@given(some_cohorts(), st.data())
def test_together_they_are_what_the_probes_are_that_stand_for_all(
    cohorts: list[CohortCounts], data: st.DataObject
) -> None:
    in_all = {each.cohort: each.probes + data.draw(st.integers(0, 100_000)) for each in cohorts}
    share, effective = literal(cohorts, in_all)
    found = pooled(cohorts, in_all)[1]
    assert found.value == pytest.approx(share, abs=1e-9)
    assert (found.low, found.high) == pytest.approx(wilson(share * effective, effective), abs=1e-6)
    assert 0 <= found.low <= found.value <= found.high <= 1


def added_up(cohorts: Sequence[CohortCounts]) -> dict[int, Estimate]:
    probes = sum(each.probes for each in cohorts)
    found = zip(*((each.found_1, each.found_5, each.found_10) for each in cohorts), strict=True)
    recalls = [Recall(sum(hits), probes) for hits in found]
    return {k: Estimate(each.value, *each.interval()) for k, each in zip((1, 5, 10), recalls, strict=True)}


@given(some_cohorts(), st.data())
def test_where_all_probes_are_searched_it_is_the_counts_added_up_to_the_digit(
    cohorts: list[CohortCounts], data: st.DataObject
) -> None:
    assert pooled(cohorts, searched(cohorts)) == added_up(cohorts)
    known = [each for each in cohorts if each.cohort is not None]
    references = {each.cohort or 0: counts(each.cohort, data.draw(st.integers(0, 90)), 90) for each in known}
    found = drift(cohorts, references, searched(cohorts))
    if found is None:
        assert not known
        return
    probes = sum(each.probes for each in known)
    before = [reference.recall_1 for reference in references.values()]
    assert (found.probes, found.reference_probes) == (probes, 90 * len(known))
    weighed = list(zip(known, before, strict=True))
    assert found.reference == sum(each.probes * share for each, share in weighed) / probes
    assert found.change == sum(each.probes * (each.recall_1 - share) for each, share in weighed) / probes


@given(some_cohorts(), st.integers(1, 1_000_000))
def test_a_cohort_by_itself_is_what_was_searched_of_it_however_much_there_is(
    cohorts: list[CohortCounts], more: int
) -> None:
    for each in cohorts:
        assert pooled([each], {each.cohort: each.probes + more}) == added_up([each])


def test_the_interval_holds_the_recall_of_all_probes_at_least_as_often_as_it_says() -> None:
    rng = np.random.default_rng(11)
    shares, in_all, n = np.array([0.9, 0.5, 0.7]), np.array([20_000, 200, 3_000]), np.array([500, 200, 500])
    sizes = dict[int | None, int](enumerate(in_all.tolist()))
    held = added = 0
    for _ in range(2_000):
        of_all = rng.binomial(in_all, shares)
        truth = of_all.sum() / in_all.sum()
        found = rng.hypergeometric(of_all, in_all - of_all, n)
        cohorts = [
            counts(stage, int(hits), int(probes)) for stage, (hits, probes) in enumerate(zip(found, n, strict=True))
        ]
        together, plain = pooled(cohorts, sizes)[1], added_up(cohorts)[1]
        held += together.low <= truth <= together.high
        added += plain.low <= truth <= plain.high
    assert 0.95 < held / 2_000 < 0.99
    assert added == 0


def test_drift_is_the_difference_of_two_shares_with_the_error_of_both() -> None:
    found = drift_of_all([counts(0, 60, 100)], {0: counts(0, 75, 90)})
    assert found is not None
    assert found.reference == pytest.approx(75 / 90)
    assert (found.reference_probes, found.probes) == (90, 100)
    assert found.change == pytest.approx(0.6 - 75 / 90)
    now, before = 61 / 102, 76 / 92
    assert found.error == pytest.approx(math.sqrt(now * (1 - now) / 100 + before * (1 - before) / 90))


def test_a_repeat_of_the_reference_is_no_drift_at_all_and_its_error_is_not_zero() -> None:
    for probes in (1, 3, 7, 10, 499):
        for share in range(probes + 1):
            reference = counts(0, share, probes)
            found = drift_of_all([reference], {0: reference})
            assert found is not None
            assert found.change == 0.0
            assert found.error > 0


def test_cohorts_taken_together_do_not_drift_because_one_has_grown() -> None:
    """Pooled, recall would have fallen from 0.75 to 0.65."""
    references = {0: counts(0, 60, 100), 1: counts(1, 90, 100)}
    found = drift_of_all([counts(0, 300, 500), counts(1, 90, 100)], references)
    assert found is not None
    assert found.change == pytest.approx(0.0, abs=1e-15)
    assert found.reference == pytest.approx((500 * 0.6 + 100 * 0.9) / 600)


def test_the_drift_of_cohorts_is_their_mean_weighted_with_their_probes_now() -> None:
    references = {0: counts(0, 80, 100), 1: counts(1, 50, 50)}
    now = [counts(0, 60, 100), counts(1, 15, 50)]
    together, first, second = (drift_of_all(each, references) for each in (now, now[:1], now[1:]))
    assert together is not None
    assert first is not None
    assert second is not None
    assert together.change == pytest.approx((100 * -0.2 + 50 * -0.7) / 150)
    assert together.error == pytest.approx(math.hypot(100 * first.error, 50 * second.error) / 150)
    assert together.reference_probes == 150


def test_drift_weighs_a_large_cohort_with_all_its_probes_and_not_with_those_that_were_searched() -> None:
    """Cohort 0 has kept its recall; the ten small ones have lost 0.4 each, which is 0.004 of all."""
    references = {0: LARGE[0]} | {stage: counts(stage, 18, 20) for stage in range(1, 11)}
    found = drift(LARGE, references, LARGE_IN_ALL)
    assert found is not None
    assert found.change == pytest.approx(200 * -0.4 / 20_200)
    assert found.reference == pytest.approx((20_000 * 0.9 + 200 * 0.9) / 20_200)
    large, small = 451 / 502, (11 / 22, 19 / 22)
    of_large = math.sqrt(2 * large * (1 - large) / 500)
    of_small = math.sqrt(sum(share * (1 - share) for share in small) / 20)
    assert found.error == pytest.approx(math.hypot(20_000 * of_large, math.sqrt(10) * 20 * of_small) / 20_200)
    assert (found.probes, found.reference_probes) == (700, 700)


def test_what_has_no_reference_has_no_drift_and_changes_that_of_no_other() -> None:
    assert drift_of_all([counts(1, 1, 2), counts(None, 1, 2)], {0: counts(0, 1, 2)}) is None
    assert drift_of_all([counts(0, 1, 0)], {0: counts(0, 1, 2)}) is None
    references = {0: counts(0, 80, 100), 7: counts(7, 0, 0)}
    alone = drift_of_all([counts(0, 60, 100)], references)
    assert alone == drift_of_all(
        [counts(0, 60, 100), counts(7, 5, 5), counts(8, 5, 5), counts(None, 0, 90)], references
    )


def test_probes_that_nothing_is_compared_with_are_not_behind_the_drift() -> None:
    cohorts = [counts(0, 1, 3), counts(1, 200, 300), counts(None, 200, 300)]
    found = drift_of_all(cohorts, {0: counts(0, 3, 3)})
    assert found is not None
    assert (found.probes, found.reference_probes) == (3, 3)


def worst_of_all(now: Sequence[CohortCounts], references: Mapping[int, CohortCounts]) -> Drift | None:
    """Where all probes are searched."""
    return worst(now, references, searched(now))


def test_the_worst_cohort_is_one_that_has_fallen_for_certain_and_not_one_whose_few_probes_say_so() -> None:
    """Upper bounds: -0.4 + 0.341 of ten probes, -0.25 + 0.094 of a hundred; for three at once 2.128 for 1.645."""
    references = {0: counts(0, 8, 10), 1: counts(1, 90, 100), 2: counts(2, 450, 500)}
    now = [counts(0, 4, 10), counts(1, 65, 100), counts(2, 450, 500)]
    found = worst_of_all(now, references)
    (few, certain) = (drift_of_all([each], references) for each in now[:2])
    assert few is not None
    assert certain is not None
    assert few.high == pytest.approx(-0.4 + 1.645 * math.sqrt((5 * 7 + 9 * 3) / 12**2 / 10))
    assert certain.high < few.high
    assert found is not None
    assert replace(found, error=certain.error) == certain
    assert found.error / certain.error == pytest.approx(2.128 / 1.645, rel=1e-3)


def test_the_worst_of_one_cohort_is_that_cohort() -> None:
    references = {0: counts(0, 80, 100)}
    assert worst_of_all([counts(0, 60, 100)], references) == drift_of_all([counts(0, 60, 100)], references)


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_of_a_hundred_cohorts_that_have_not_changed_the_worst_has_hardly_ever_collapsed_by_chance(share: float) -> None:
    """Of ten to twenty probes each. At every share of these some cohort's own bound is over the limit more often."""
    rng = np.random.default_rng(17)
    by_itself = together = 0
    for draw in range(400):
        sizes = rng.integers(10, 21, (2, 100))
        hits = rng.binomial(sizes, share).tolist()
        now, before = (
            [counts(stage, *each) for stage, each in enumerate(zip(found, probes, strict=True))]
            for found, probes in zip(hits, sizes.tolist(), strict=True)
        )
        references = dict(enumerate(before))
        found = worst_of_all(now, references)
        assert found is not None
        together += found.high < COLLAPSED
        if draw < 100:
            alone = [drift_of_all([each], references) for each in now]
            by_itself += any(each is not None and each.high < COLLAPSED for each in alone)
    assert by_itself > 0.1 * 100
    assert together <= 0.05 * 400


def test_one_of_thirty_that_collapses_is_the_worst_though_its_bound_is_for_all_of_them() -> None:
    """From 90 % to 30 % of fifty probes."""
    references = {stage: counts(stage, 45, 50) for stage in range(30)}
    now = [counts(stage, 15 if stage == 7 else 45, 50) for stage in range(30)]
    found = worst_of_all(now, references)
    assert found is not None
    assert found.change == pytest.approx(-0.6)
    assert found.high < 3 * COLLAPSED


def test_of_cohorts_of_which_nothing_can_be_said_none_is_the_worst() -> None:
    few = LEAST_PROBES - 1
    fallen = [counts(0, 0, few), counts(1, 0, 50), counts(2, 0, 50)]
    references = {0: counts(0, few, few), 1: counts(1, few, few)}
    assert worst_of_all([], {}) is None
    assert worst_of_all(fallen, references) is None
    held = [*fallen, counts(3, 9, LEAST_PROBES)]
    references |= {3: counts(3, 9, LEAST_PROBES)}
    assert worst_of_all(held, references) == drift_of_all(held[3:], references)


def test_the_error_is_about_as_large_as_the_scatter_of_simulated_differences() -> None:
    rng = np.random.default_rng(5)
    for share, probes, before in ((0.6, 100, 80), (0.95, 60, 200), (0.2, 500, 300)):
        found = rng.binomial(probes, share, 20_000) / probes - rng.binomial(before, share, 20_000) / before
        expected = drift_of_all(
            [counts(0, round(share * probes), probes)], {0: counts(0, round(share * before), before)}
        )
        assert expected is not None
        assert expected.error == pytest.approx(found.std(), rel=0.15)
