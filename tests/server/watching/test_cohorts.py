"""Which cohorts have a series, and what drift is, with figures worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from indexer.catalogue import CohortCounts
from server.watching.cohorts import drift, labelled, merged


def counts(cohort: int | None, found: int, probes: int) -> CohortCounts:
    return CohortCounts(cohort, probes, found, found, found)


def test_every_cohort_has_its_label_while_there_are_few() -> None:
    cohorts = [counts(0, 1, 2), counts(3, 1, 2), counts(None, 1, 2)]
    assert labelled(cohorts) == {"all": cohorts, "0": cohorts[:1], "3": cohorts[1:2], "waiting": cohorts[2:]}


def test_of_forty_cohorts_the_first_and_the_newest_have_labels_and_the_others_share_one() -> None:
    cohorts = [*(counts(stage, stage, 100) for stage in range(40)), counts(None, 3, 4)]
    found = labelled(cohorts)
    assert list(found) == ["all", "0", "older", *map(str, range(29, 40)), "waiting"]
    assert [each.cohort for each in found["older"]] == list(range(1, 29))
    assert merged(found["older"]) == CohortCounts(None, 2800, sum(range(1, 29)), sum(range(1, 29)), sum(range(1, 29)))
    assert merged(found["all"]).probes == 4004


def test_twelve_cohorts_need_no_label_for_others() -> None:
    assert list(labelled([counts(stage, 1, 2) for stage in range(12)])) == ["all", *map(str, range(12))]
    assert "older" in labelled([counts(stage, 1, 2) for stage in range(13)])


def test_a_cohort_without_probes_has_no_label() -> None:
    assert labelled([]) == {}
    assert labelled([counts(0, 0, 0)]) == {}


def test_drift_is_the_difference_of_two_shares_with_the_error_of_both() -> None:
    found = drift([counts(0, 60, 100)], {0: counts(0, 75, 90)})
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
            found = drift([reference], {0: reference})
            assert found is not None
            assert found.change == 0.0
            assert found.error > 0


def test_cohorts_taken_together_do_not_drift_because_one_has_grown() -> None:
    """Pooled, recall would have fallen from 0.75 to 0.65."""
    references = {0: counts(0, 60, 100), 1: counts(1, 90, 100)}
    found = drift([counts(0, 300, 500), counts(1, 90, 100)], references)
    assert found is not None
    assert found.change == pytest.approx(0.0, abs=1e-15)
    assert found.reference == pytest.approx((500 * 0.6 + 100 * 0.9) / 600)


def test_the_drift_of_cohorts_is_their_mean_weighted_with_their_probes_now() -> None:
    references = {0: counts(0, 80, 100), 1: counts(1, 50, 50)}
    now = [counts(0, 60, 100), counts(1, 15, 50)]
    together, first, second = (drift(each, references) for each in (now, now[:1], now[1:]))
    assert together is not None
    assert first is not None
    assert second is not None
    assert together.change == pytest.approx((100 * -0.2 + 50 * -0.7) / 150)
    assert together.error == pytest.approx(math.hypot(100 * first.error, 50 * second.error) / 150)
    assert together.reference_probes == 150


def test_what_has_no_reference_has_no_drift_and_changes_that_of_no_other() -> None:
    assert drift([counts(1, 1, 2), counts(None, 1, 2)], {0: counts(0, 1, 2)}) is None
    assert drift([counts(0, 1, 0)], {0: counts(0, 1, 2)}) is None
    references = {0: counts(0, 80, 100), 7: counts(7, 0, 0)}
    alone = drift([counts(0, 60, 100)], references)
    assert alone == drift([counts(0, 60, 100), counts(7, 5, 5), counts(8, 5, 5), counts(None, 0, 90)], references)


def test_probes_that_nothing_is_compared_with_are_not_behind_the_drift() -> None:
    cohorts = [counts(0, 1, 3), counts(1, 200, 300), counts(None, 200, 300)]
    found = drift(cohorts, {0: counts(0, 3, 3)})
    assert found is not None
    assert (found.probes, found.reference_probes) == (3, 3)


def test_the_error_is_about_as_large_as_the_scatter_of_simulated_differences() -> None:
    rng = np.random.default_rng(5)
    for share, probes, before in ((0.6, 100, 80), (0.95, 60, 200), (0.2, 500, 300)):
        found = rng.binomial(probes, share, 20_000) / probes - rng.binomial(before, share, 20_000) / before
        expected = drift([counts(0, round(share * probes), probes)], {0: counts(0, round(share * before), before)})
        assert expected is not None
        assert expected.error == pytest.approx(found.std(), rel=0.15)
