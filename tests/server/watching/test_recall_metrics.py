"""Probe recall as Prometheus reads it: the figures, which series there are, and which are not any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from indexer.catalogue import Cause, CohortCounts, Measurement
from indexer.recall import wilson
from server.watching.probes import Measured
from server.watching.recall_metrics import RecallMetrics
from tests.server.test_metrics import documented

P = "everlook_probe_recall"


class Page:
    """The metrics on a registry of their own, and what was measured last."""

    def __init__(self) -> None:
        self.last: Measured | None = None
        self.after_swap: dict[int, CohortCounts] = {}
        self.registry = CollectorRegistry()
        self.metrics = RecallMetrics(self.registry, lambda: self.last, lambda model: self.after_swap)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"{P}_{name}", labels)

    def cohorts(self, name: str) -> list[str]:
        return [
            each.labels["cohort"]
            for family in self.registry.collect()
            for each in family.samples
            if each.name == f"{P}_{name}" and each.labels.get("k", "1") == "1"
        ]


@pytest.fixture
def page() -> Page:
    return Page()


def measured(
    cohorts: Sequence[CohortCounts],
    references: Mapping[int, CohortCounts] | None = None,
    in_all: Mapping[int | None, int] | None = None,
) -> Measured:
    """All probes were searched, if nothing else is said."""
    measurement = Measurement(1_700_000_000.5, 7, "model", Cause.TIMER, tuple(cohorts))
    all_searched = {each.cohort: each.probes for each in cohorts}
    return Measured(measurement, (), references or {}, in_all or all_searched, 12.5, 1_600_000_000.5)


def test_recall_is_exposed_with_its_interval_and_its_probes(page: Page) -> None:
    page.last = measured([CohortCounts(0, 30, 7, 11, 29), CohortCounts(None, 3, 0, 1, 3)])
    for label, counts in {"0": (7, 11, 29, 30), "waiting": (0, 1, 3, 3), "all": (7, 12, 32, 33)}.items():
        *found, probes = counts
        assert page.value("probes", cohort=label) == probes
        for k, hits in zip(("1", "5", "10"), found, strict=True):
            assert page.value("ratio", cohort=label, k=k) == hits / probes
            low, high = wilson(hits, probes)
            assert page.value("low_ratio", cohort=label, k=k) == low
            assert page.value("high_ratio", cohort=label, k=k) == high


def test_the_time_of_the_measurement_is_the_clocks_though_the_history_has_a_later_one(page: Page) -> None:
    """Which a clock that was ahead has left: a measurement that is an hour old would never look it."""
    page.last = measured([])
    assert page.value("timestamp_seconds") == 1_600_000_000.5 < page.last.measurement.at


def test_drift_is_exposed_where_there_is_a_reference(page: Page) -> None:
    cohorts = [CohortCounts(0, 100, 60, 80, 90), CohortCounts(1, 50, 40, 45, 50), CohortCounts(None, 9, 9, 9, 9)]
    page.last = measured(cohorts, {0: CohortCounts(0, 80, 60, 70, 80)})
    assert page.cohorts("drift_ratio") == ["all", "0"]
    for label in ("all", "0"):
        assert page.value("reference_ratio", cohort=label) == 0.75
        assert page.value("reference_probes", cohort=label) == 80
        assert page.value("drift_probes", cohort=label) == 100
        assert page.value("drift_ratio", cohort=label) == pytest.approx(-0.15)
        assert page.value("drift_error_ratio", cohort=label) == pytest.approx(
            0.0692, abs=1e-4
        )  # sqrt(61 41 / 102^2 100 + 61 21 / 82^2 80)


def test_the_change_since_the_swap_is_exposed_beside_the_drift(page: Page) -> None:
    """Cohort 0 lost 0.15 with swaps and nothing since; what came with the latest swap has fallen by 0.1."""
    cohorts = [CohortCounts(0, 100, 60, 80, 90), CohortCounts(1, 50, 40, 45, 50), CohortCounts(None, 9, 9, 9, 9)]
    page.after_swap = {0: cohorts[0], 1: CohortCounts(1, 50, 45, 45, 50)}
    page.last = measured(cohorts, {0: CohortCounts(0, 80, 60, 70, 80)})
    assert page.cohorts("since_swap_ratio") == []
    page.metrics.observe(page.last)
    assert page.cohorts("since_swap_ratio") == ["all", "0", "1"]
    assert page.value("drift_ratio", cohort="0") == pytest.approx(-0.15)
    assert page.value("since_swap_ratio", cohort="0") == 0.0
    assert page.value("since_swap_ratio", cohort="1") == pytest.approx(-0.1)
    assert page.value("since_swap_ratio", cohort="all") == pytest.approx(-0.1 * 50 / 150)
    assert page.value("after_swap_ratio", cohort="1") == 0.9
    assert page.value("after_swap_probes", cohort="all") == page.value("since_swap_probes", cohort="all") == 150
    assert page.value("since_swap_error_ratio", cohort="1") == pytest.approx(
        0.0733, abs=1e-4
    )  # sqrt((41 11 + 46 6) / 52^2 50)


def test_cohorts_taken_together_count_with_all_their_probes_those_that_wait_too(page: Page) -> None:
    """Of 900 and of 60 probes 30 were searched; of the 40 that wait all."""
    cohorts = [CohortCounts(0, 30, 27, 30, 30), CohortCounts(1, 30, 15, 20, 25), CohortCounts(None, 40, 10, 20, 30)]
    page.after_swap = {0: CohortCounts(0, 30, 30, 30, 30), 1: CohortCounts(1, 30, 15, 20, 25)}
    page.last = measured(cohorts, page.after_swap, {0: 900, 1: 60, None: 40})
    page.metrics.observe(page.last)
    assert page.value("probes", cohort="all") == 100
    assert page.value("ratio", cohort="all", k="1") == (900 * 0.9 + 60 * 0.5 + 40 * 0.25) / 1000
    assert page.value("ratio", cohort="all", k="5") == pytest.approx((900 + 60 * 2 / 3 + 40 * 0.5) / 1000)
    effective = 1000**2 / (900**2 / 30 + 60**2 / 30 + 40)  # 36.84
    ends = page.value("low_ratio", cohort="all", k="1"), page.value("high_ratio", cohort="all", k="1")
    assert ends == pytest.approx(wilson(0.85 * effective, effective))
    for name in ("drift_ratio", "since_swap_ratio"):
        assert page.value(name, cohort="all") == pytest.approx(-0.1 * 900 / 960)


def test_what_another_model_measured_after_its_swap_is_compared_with_nothing(page: Page) -> None:
    page.after_swap = {0: CohortCounts(0, 10, 5, 6, 7)}
    page.last = measured([CohortCounts(0, 10, 5, 6, 7)])
    page.metrics.observe(replace(page.last, measurement=replace(page.last.measurement, model="before")))
    assert page.cohorts("since_swap_ratio") == []


def test_forty_cohorts_have_no_more_series_than_the_labels_that_are_bounded(page: Page) -> None:
    cohorts = [CohortCounts(stage, 10, 5, 6, 7) for stage in range(40)]
    page.last = measured([*cohorts, CohortCounts(None, 10, 5, 6, 7)], {each.cohort or 0: each for each in cohorts})
    numbers = ["0", "older", *map(str, range(29, 40))]
    assert page.cohorts("ratio") == ["all", *numbers, "waiting"]
    assert page.cohorts("drift_ratio") == ["all", *numbers, "worst of older"]
    assert page.value("probes", cohort="older") == 280
    assert page.value("drift_ratio", cohort="older") == 0.0
    page.after_swap = {each.cohort or 0: each for each in cohorts}
    page.metrics.observe(page.last)
    assert page.cohorts("since_swap_ratio") == ["all", *numbers, "worst of older"]
    assert sum(len(family.samples) for family in page.registry.collect()) < 320


def test_one_of_thirty_cohorts_that_collapses_has_a_drift_of_its_own_though_it_is_among_the_older_ones(
    page: Page,
) -> None:
    """From 90 % to 30 %: of the eighteen that are taken together it is three points. Its error is for all of them."""
    before = [CohortCounts(stage, 500, 450, 480, 490) for stage in range(30)]
    now = [CohortCounts(each.cohort, 500, 150, 200, 250) if each.cohort == 7 else each for each in before]
    page.last, page.after_swap = measured(now, dict(enumerate(before))), dict(enumerate(before))
    page.metrics.observe(page.last)
    assert page.value("drift_ratio", cohort="older") == pytest.approx(-0.6 / 18)
    for drift in ("drift", "since_swap"):
        change = page.value(f"{drift}_ratio", cohort="worst of older")
        error = page.value(f"{drift}_error_ratio", cohort="worst of older")
        assert change == pytest.approx(-0.6)
        # sqrt((151 351 + 451 51) / 502^2 500) = 0.02454, times z(1 - 0.05 / 18) / z(0.95)
        assert error == pytest.approx(0.02454 * 2.7729 / 1.6449, abs=1e-4)
        assert page.value(f"{drift}_probes", cohort="worst of older") == 500
    assert page.value("reference_ratio", cohort="worst of older") == 0.9
    assert page.value("reference_probes", cohort="worst of older") == 500
    assert "worst of older" not in page.cohorts("ratio")


def test_where_no_cohorts_are_taken_together_none_of_them_is_the_worst(page: Page) -> None:
    cohorts = [CohortCounts(stage, 10, 5, 6, 7) for stage in range(12)]
    page.last = measured(cohorts, dict(enumerate(cohorts)))
    assert page.cohorts("drift_ratio") == ["all", *map(str, range(12))]


def test_series_of_what_is_gone_disappear_and_all_do_while_nothing_is_measured(page: Page) -> None:
    reference = {0: CohortCounts(0, 10, 5, 6, 7), 1: CohortCounts(1, 10, 5, 6, 7)}
    page.last = measured([*reference.values(), CohortCounts(None, 10, 5, 6, 7)], reference)
    assert page.cohorts("ratio") == ["all", "0", "1", "waiting"]
    page.last = measured([reference[0]], {0: reference[0]})
    for name in ("ratio", "low_ratio", "high_ratio", "probes", "reference_ratio", "drift_ratio", "drift_error_ratio"):
        assert page.cohorts(name) == ["all", "0"]
    page.last = None
    for family in page.registry.collect():
        assert not family.samples or family.name == f"{P}_seconds", family.name


def test_a_measurement_is_counted_with_its_time(page: Page) -> None:
    page.metrics.observe(measured([]))
    assert page.value("seconds_count") == 1
    assert page.value("seconds_sum") == 12.5


def test_labels_are_documented_as_they_are(page: Page) -> None:
    page.after_swap = {0: CohortCounts(0, 10, 5, 6, 7)}
    page.last = measured([CohortCounts(0, 10, 5, 6, 7)], page.after_swap)
    page.metrics.observe(page.last)
    found = {
        family.name: (family.type, {label for each in family.samples for label in each.labels} - {"le"})
        for family in page.registry.collect()
    }
    assert found == {name: facts for name, facts in documented().items() if name.startswith(P)}
    assert len(found) == 16
