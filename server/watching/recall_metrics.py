"""Probe recall on Prometheus's page: of the generation that is live, per cohort, with what is needed to judge it.

Until the live model has been measured there is no series: an alert must not fire on what another model recalled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from indexer.catalogue import CohortCounts
from indexer.recall import Recall
from server.watching.cohorts import drift, labelled, merged
from server.watching.probes import Measured

_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)


class RecallMetrics(Collector):
    """Gauges of the last measurement, made at each scrape, and how long measurements take."""

    def __init__(self, registry: CollectorRegistry, last: Callable[[], Measured | None]) -> None:
        self._last = last
        self._seconds = Histogram(
            "everlook_probe_recall_seconds",
            "Time of one measurement of probe recall, pauses included.",
            buckets=_SECONDS,
            registry=registry,
        )
        registry.register(self)

    def observe(self, measured: Measured) -> None:
        """Counts a measurement in."""
        self._seconds.observe(measured.seconds)

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        measured = self._last()
        labels = labelled(measured.measurement.cohorts) if measured is not None else {}
        yield from _recalls({label: merged(cohorts) for label, cohorts in labels.items()})
        yield from _drifts(labels, measured.references if measured is not None else {})
        taken = _family("timestamp_seconds", "Unix time at which probe recall was measured.")
        if measured is not None:
            taken.add_metric([], measured.measurement.at)
        yield taken


def _recalls(counts: dict[str, CohortCounts]) -> Iterator[Metric]:
    ratio = _family("ratio", "Share of probes with their category among the k nearest items.", "cohort", "k")
    low = _family("low_ratio", "Lower end of Wilson's 95 % interval of the recall.", "cohort", "k")
    high = _family("high_ratio", "Upper end of Wilson's 95 % interval of the recall.", "cohort", "k")
    probes = _family("probes", "Probes that were searched.", "cohort")
    for label, each in counts.items():
        probes.add_metric([label], each.probes)
        for k, found in ((1, each.found_1), (5, each.found_5), (10, each.found_10)):
            recall = Recall(found, each.probes)
            ratio.add_metric([label, str(k)], recall.value)
            for family, end in zip((low, high), recall.interval(), strict=True):
                family.add_metric([label, str(k)], end)
    yield from (ratio, low, high, probes)


def _drifts(labels: dict[str, list[CohortCounts]], references: Mapping[int, CohortCounts]) -> Iterator[Metric]:
    reference = _family("reference_ratio", "Recall@1 when the cohort's stage went live.", "cohort")
    probes = _family("reference_probes", "Probes of the reference.", "cohort")
    change = _family("drift_ratio", "Recall@1 less its reference.", "cohort")
    error = _family("drift_error_ratio", "Standard error of the drift.", "cohort")
    compared = _family("drift_probes", "Probes of the cohorts that have a reference.", "cohort")
    for label, cohorts in labels.items():
        found = drift(cohorts, references)
        if found is not None:
            reference.add_metric([label], found.reference)
            probes.add_metric([label], found.reference_probes)
            change.add_metric([label], found.change)
            error.add_metric([label], found.error)
            compared.add_metric([label], found.probes)
    yield from (reference, probes, change, error, compared)


def _family(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"everlook_probe_recall_{name}", text, labels=labels)
