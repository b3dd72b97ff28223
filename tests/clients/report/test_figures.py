"""Shares, their bounds, recall over time, and what a swap changed: against figures worked out elsewhere."""

from __future__ import annotations

import math

import pytest

from clients.recall import RecallHistory
from clients.report.figures import Change, Share, changes_of, mean_reference, series_of, together
from tests.clients.report.conftest import MINUTE, NOON, Counts, measured, swapped


@pytest.mark.parametrize(
    ("found", "probes", "low", "high"),
    [
        pytest.param(81, 263, 0.2553, 0.3662, id="Newcombe-1998-table-1"),
        pytest.param(15, 148, 0.0624, 0.1605, id="Newcombe-1998-few"),
        pytest.param(0, 20, 0.0, 0.1611, id="none"),
        pytest.param(29, 29, 0.8830, 1.0, id="all"),
        pytest.param(0, 0, 0.0, 1.0, id="without-probes"),
    ],
)
def test_the_bounds_of_a_share_are_wilsons(found: int, probes: int, low: float, high: float) -> None:
    assert Share(found, probes).interval == pytest.approx((low, high), abs=5e-5)


def test_the_bounds_of_a_change_are_newcombes() -> None:
    """56/70 less 48/80, from the paper's table of differences: 0.2, between 0.0524 and 0.3339."""
    change = Change(before=Share(48, 80), after=Share(56, 70))
    assert change.value == pytest.approx(0.2)
    assert change.interval == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_a_share_without_probes_is_no_number() -> None:
    assert math.isnan(Share(0, 0).value)


def test_a_cohort_that_was_not_measured_leaves_a_gap() -> None:
    zero, one, waiting = series_of(
        [
            measured(0, 1, {0: (8, 10), None: (2, 4)}, {0: 0.9}),
            measured(5, 2, {0: (7, 10), 1: (3, 4)}, {0: 0.9, 1: 0.75}),
            measured(10, 1, {0: (8, 10), None: (2, 4), 7: (0, 0)}, {0: 0.9}),
        ]
    )
    assert [series.name for series in (zero, one, waiting)] == ["cohort 0", "cohort 1", "waiting"]
    assert [point.share for point in zero.known] == [Share(8, 10), Share(7, 10), Share(8, 10)]
    assert [len(run) for run in zero.runs] == [3]
    assert [len(run) for run in waiting.runs] == [1, 1]
    assert (one.points[0], one.now) == (None, None)
    assert zero.now is not None
    assert (zero.now.at, zero.now.generation, zero.now.reference) == (NOON + 10 * MINUTE, 2, 0.9)


def test_all_probes_are_those_that_wait_too() -> None:
    everything = together([measured(0, 1, {0: (8, 10), None: (2, 4)}, {0: 0.9}), measured(5, 1, {})])
    assert [point and point.share for point in everything.points] == [Share(10, 14), None]


def test_the_mean_drift_weighs_cohorts_by_their_probes_and_leaves_out_those_without_a_reference() -> None:
    measurement = measured(0, 2, {0: (24, 30), 1: (5, 10), 2: (1, 9), None: (0, 8)}, {0: 0.9, 1: 0.6})
    reference, drift = mean_reference(measurement.cohorts) or (0, 0)
    assert reference == pytest.approx(0.75 * 0.9 + 0.25 * 0.6)
    assert drift == pytest.approx(0.75 * (0.8 - 0.9) + 0.25 * (0.5 - 0.6))
    assert mean_reference(measured(0, 0, {None: (3, 8)}).cohorts) is None


BEFORE: Counts = {0: (45, 50), 1: (16, 20), None: (3, 10)}
AFTER: Counts = {0: (44, 50), 1: (14, 20), 2: (8, 10)}


def test_a_swap_is_compared_with_what_was_measured_just_before_it() -> None:
    history = RecallHistory(
        (measured(0, 2, {0: (1, 50)}), measured(5, 2, BEFORE), measured(7, 3, AFTER), measured(9, 3, {2: (1, 10)})),
        (swapped(-9, 2), swapped(6, 3)),
    )
    unknown, change = changes_of(history)
    assert (change.swap, change.learning) == (swapped(6, 3), Change(Share(3, 10), Share(8, 10)))
    assert change.forgetting == Change(Share(61, 70), Share(58, 70))
    assert (unknown.learning, unknown.forgetting) == (None, None)  # nothing was measured before it
    assert changes_of(history, since=NOON) == [change]


def test_the_first_stage_has_no_old_cohorts() -> None:
    history = RecallHistory((measured(0, 0, {None: (3, 9)}), measured(5, 1, {0: (6, 9)})), (swapped(4, 1),))
    (change,) = changes_of(history)
    assert (change.learning, change.forgetting) == (Change(Share(3, 9), Share(6, 9)), None)


def test_back_and_forward_teach_nothing() -> None:
    history = RecallHistory(
        (measured(0, 2, BEFORE), measured(5, 1, {0: (1, 2)}), measured(10, 2, BEFORE)),
        (swapped(-9, 0), swapped(4, 1, again=True), swapped(9, 2, again=True)),
    )
    assert changes_of(history) == []


def test_across_a_model_that_was_never_measured_nothing_is_compared() -> None:
    """Model 3 went live and away again between two measurements: what is measured next changed by two swaps."""
    history = RecallHistory(
        (measured(0, 2, BEFORE), measured(9, 4, AFTER)), (swapped(-9, 2), swapped(3, 3), swapped(6, 4))
    )
    assert [(each.learning, each.forgetting) for each in changes_of(history)] == [(None, None)] * 3


def test_a_measurement_that_a_swap_overtook_belongs_to_the_model_that_was_measured() -> None:
    """It ended after the swap, of the model before."""
    history = RecallHistory(
        (measured(0, 2, {0: (1, 2)}), measured(7, 2, BEFORE), measured(8, 3, AFTER)), (swapped(-9, 2), swapped(6, 3))
    )
    assert changes_of(history)[1].learning == Change(Share(3, 10), Share(8, 10))
