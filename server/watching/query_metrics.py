"""What Prometheus reads of watched queries."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from server.watching.drift import Comparison
from server.watching.index_recall import IndexRecall

TESTS: Final = ("mmd", "score")
FLOOR_QUANTILE: Final = 0.05
_LEAST_PROBES: Final = 20  # of fewer, no twentieth part can be told
_SCORES: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)


@dataclass(frozen=True)
class Floor:
    """What the best score of all but a twentieth of the probes reaches, by one model."""

    model: str
    score: float


def floor_of(model: str, top_scores: Sequence[float]) -> Floor | None:
    """The floor from the best score of each probe, itself left out, not a number where it found nothing; None where the
    probes are too few."""
    known = [score for score in top_scores if not math.isnan(score)]
    if len(known) < _LEAST_PROBES:
        return None
    return Floor(model, float(np.quantile(known, FLOOR_QUANTILE)))


class QueryMetrics(Collector):
    """Counters that the watch writes to, and gauges of which there are only those that mean something: of the live
    generation, and once there is anything to tell."""

    def __init__(self, registry: CollectorRegistry, live_model: Callable[[], str]) -> None:
        """`live_model` says the id of the model that serves."""
        self._live_model = live_model
        self._samples = Counter(
            "everlook_query_samples", "Live queries taken for watching.", ["result"], registry=registry
        )
        self._top_score = Histogram(
            "everlook_query_top_score", "Best score of each watched query.", buckets=_SCORES, registry=registry
        )
        self._unfamiliar = Counter(
            "everlook_query_unfamiliar", "Watched queries whose best score is below the floor.", registry=registry
        )
        self._familiar = Counter(
            "everlook_query_familiar", "Watched queries whose best score is not below the floor.", registry=registry
        )
        self._windows = Counter(
            "everlook_query_drift_windows",
            "Windows of live queries compared with the reference window.",
            ["test", "result"],
            registry=registry,
        )
        self._p_value = Gauge(
            "everlook_query_drift_p_value", "p-value of the last window.", ["test"], registry=registry
        )
        self._distance = Gauge(
            "everlook_query_drift_distance",
            "Distance of the last window: MMD squared, or how far best scores have fallen.",
            ["test"],
            registry=registry,
        )
        for result in ("taken", "dropped"):
            self._samples.labels(result=result)
        for test in TESTS:
            for result in ("same", "drifted"):
                self._windows.labels(test=test, result=result)
        self.index_recall: IndexRecall | None = None
        self.floor: Floor | None = None
        self.reference_queries = 0
        registry.register(self)

    def taken(self) -> None:
        """Counts a query that is watched."""
        self._samples.labels(result="taken").inc()

    def dropped(self) -> None:
        """Counts a query that was to be watched and is not."""
        self._samples.labels(result="dropped").inc()

    def scored(self, model: str, score: float) -> None:
        """Counts the best score of a query by photo or vector. It is neither familiar nor the opposite where the floor
        of its model is not known."""
        self._top_score.observe(score)
        if self.floor is not None and self.floor.model == model:
            (self._unfamiliar if score < self.floor.score else self._familiar).inc()

    def tested(self, comparisons: Mapping[str, Comparison], alpha: float) -> None:
        """Counts a window by the p-value of each test."""
        for test, comparison in comparisons.items():
            self._windows.labels(test=test, result="drifted" if comparison.p_value < alpha else "same").inc()
            self._p_value.labels(test=test).set(comparison.p_value)
            self._distance.labels(test=test).set(comparison.distance)

    def forget_windows(self) -> None:
        """What the tests said is of a model that does not serve any more."""
        self._p_value.clear()
        self._distance.clear()

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        yield from _index_recall(self.index_recall)
        floor = GaugeMetricFamily(
            "everlook_probe_top_score_floor", "Best score that 95 % of the probes reach, themselves left out."
        )
        known = self.floor
        if known is not None and known.model == self._live_model():
            floor.add_metric([], known.score)
        yield floor
        yield GaugeMetricFamily(
            "everlook_query_reference_queries", "Queries in the reference window.", value=self.reference_queries
        )


def _index_recall(now: IndexRecall | None) -> Iterator[Metric]:
    labels = ["generation"]
    shares = SummaryMetricFamily(
        "everlook_index_recall_query_ratio",
        "Of each watched query, the share of exact search's hits that it found.",
        labels=labels,
    )
    ratio = GaugeMetricFamily("everlook_index_recall_ratio", "Index recall of the queries watched last.", labels=labels)
    queries = GaugeMetricFamily("everlook_index_recall_queries", "Queries that the index recall is of.", labels=labels)
    if now is not None:
        generation = [str(now.generation)]
        shares.add_metric(generation, now.queries, now.shares)
        queries.add_metric(generation, now.recent_queries)
        if now.recent_mean is not None:
            ratio.add_metric(generation, now.recent_mean)
    yield from (shares, ratio, queries)
