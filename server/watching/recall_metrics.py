"""Probe recall on Prometheus's page: of the generation that is live, per cohort, with what is needed to judge it.

Until the live model has been measured there is no series: an alert must not fire on what another model recalled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from indexer.catalogue import CohortCounts
from server.watching.cohorts import OLDER, WORST_OF_OLDER, drift, labelled, pooled, worst
from server.watching.probes import Measured

_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)


class RecallMetrics(Collector):
    """Gauges of the last measurement, made at each scrape, and how long measurements take."""

    def __init__(
        self,
        registry: CollectorRegistry,
        last: Callable[[], Measured | None],
        after_last_swap: Callable[[str], Mapping[int, CohortCounts]],
    ) -> None:
        """`after_last_swap` says what each cohort measured right after this model went live, the last time it did."""
        self._last = last
        self._after_last_swap = after_last_swap
        self._began: tuple[str, Mapping[int, CohortCounts]] = "", {}  # of which model, and what was measured then
        self._seconds = Histogram(
            "everlook_probe_recall_seconds",
            "Time of one measurement of probe recall, pauses included.",
            buckets=_SECONDS,
            registry=registry,
        )
        registry.register(self)

    def observe(self, measured: Measured) -> None:
        """Counts a measurement in. Errors: those of the history."""
        self._seconds.observe(measured.seconds)
        self._began = measured.model, self._after_last_swap(measured.model)

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        measured = self._last()
        labels = labelled(measured.measurement.cohorts) if measured is not None else {}
        in_all = measured.in_all if measured is not None else {}
        yield from _recalls(labels, in_all)
        yield from _drifts(_DRIFT, labels, measured.references if measured is not None else {}, in_all)
        model, began = self._began
        began = began if measured is not None and measured.model == model else {}
        yield from _drifts(_SINCE_SWAP, labels, began, in_all)
        taken = _family("timestamp_seconds", "Unix time at which probe recall was measured, by the server's clock.")
        if measured is not None:
            taken.add_metric([], measured.taken_at)
        yield taken


def _recalls(labels: Mapping[str, Sequence[CohortCounts]], in_all: Mapping[int | None, int]) -> Iterator[Metric]:
    ratio = _family("ratio", "Share of probes with their category among the k nearest items.", "cohort", "k")
    low = _family("low_ratio", "Lower end of Wilson's 95 % interval of the recall.", "cohort", "k")
    high = _family("high_ratio", "Upper end of Wilson's 95 % interval of the recall.", "cohort", "k")
    probes = _family("probes", "Probes that were searched.", "cohort")
    for label, cohorts in labels.items():
        probes.add_metric([label], sum(each.probes for each in cohorts))
        for k, found in pooled(cohorts, in_all).items():
            for family, value in ((ratio, found.value), (low, found.low), (high, found.high)):
                family.add_metric([label, str(k)], value)
    yield from (ratio, low, high, probes)


_DRIFT = (
    ("reference_ratio", "Recall@1 when the cohort's stage went live."),
    ("reference_probes", "Probes of the reference."),
    ("drift_ratio", "Recall@1 less its reference."),
    ("drift_error_ratio", "Standard error of the drift."),
    ("drift_probes", "Probes of the cohorts that have a reference."),
)
_SINCE_SWAP = (
    ("after_swap_ratio", "Recall@1 right after the latest swap."),
    ("after_swap_probes", "Probes that were searched then."),
    ("since_swap_ratio", "Recall@1 less what it was right after the latest swap."),
    ("since_swap_error_ratio", "Standard error of that difference."),
    ("since_swap_probes", "Probes of the cohorts that were measured then."),
)


def _drifts(
    names: Sequence[tuple[str, str]],
    labels: Mapping[str, Sequence[CohortCounts]],
    references: Mapping[int, CohortCounts],
    in_all: Mapping[int | None, int],
) -> Iterator[Metric]:
    """Five families: the reference and its probes; the drift against it, its error and its probes. The worst of the
    older cohorts has a label here, since in their mean it does not show: with an error so wide that to judge by it as
    by any other is to judge all of them at once."""
    families = [_family(name, text, "cohort") for name, text in names]
    drifts = {label: drift(cohorts, references, in_all) for label, cohorts in labels.items()}
    drifts[WORST_OF_OLDER] = worst(labels.get(OLDER, ()), references, in_all)
    for label, found in drifts.items():
        if found is not None:
            values = (found.reference, found.reference_probes, found.change, found.error, found.probes)
            for family, value in zip(families, values, strict=True):
                family.add_metric([label], value)
    yield from families


def _family(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"everlook_probe_recall_{name}", text, labels=labels)
