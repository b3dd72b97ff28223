"""What an operator needs besides calls and recall, read off at each scrape.

Each reading is cheap: it looks at memory, at a handful of files, and at what others keep up to date; what does not
change is read once. One that fails is logged and counted, and takes no other with it.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

log = logging.getLogger(__name__)

Reading = Callable[[], Iterable[Metric]]

_LIBRARIES = {"grpc": "grpcio", "onnxruntime": "onnxruntime", "faiss": "faiss-cpu"}


class OperatorCollector(Collector):
    """The families of all readings, by their names."""

    def __init__(self, readings: Mapping[str, Reading], registry: CollectorRegistry) -> None:
        self._readings = readings
        self._failing: set[str] = set()
        self._failures = Counter(
            "everlook_reading_failures", "Scrapes at which a reading failed.", ["reading"], registry=registry
        )
        for name in readings:
            self._failures.labels(reading=name)

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        for name, reading in self._readings.items():
            try:
                found = list(reading())
            except Exception as error:  # whatever it is: the others are read all the same
                self._failures.labels(reading=name).inc()
                if name not in self._failing:
                    log.exception("the metrics of %s cannot be read", name, exc_info=error)
                self._failing.add(name)
                continue
            self._failing.discard(name)
            yield from found


# ------------------------------------------------------------------------------------------------ families


def gauge(name: str, text: str, value: float | None) -> Metric:
    """A gauge without labels; without a sample where there is no value."""
    family = GaugeMetricFamily(name, text)
    if value is not None:
        family.add_metric([], value)
    return family


def gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """A gauge with one label."""
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def counters(name: str, text: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], float]) -> Metric:
    """A counter, by the values of its labels."""
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


# ------------------------------------------------------------------------------------------------ small readings


def build(version: str) -> Reading:
    """What runs: the server's version and those of what it stands on, where they are installed."""
    facts = {"version": version, "python": platform.python_version()}
    for label, name in _LIBRARIES.items():
        try:
            facts[label] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            facts[label] = "unknown"  # another build of it, such as for GPUs
    return lambda: [InfoMetricFamily("everlook_build", "The server's version and those of its libraries.", facts)]


def disk(root: Path) -> Reading:
    """The file system of the data directory."""

    def read() -> Iterator[Metric]:
        found = os.statvfs(root)
        free, size = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
        yield gauge("everlook_disk_free_bytes", "Free space on the data directory's file system, in bytes.", free)
        yield gauge("everlook_disk_size_bytes", "Size of the data directory's file system in bytes.", size)

    return read


def queues(oldest_s: Callable[[], Mapping[str, float]]) -> Reading:
    """How long the oldest job of each lane has waited: the lag of ingestion, and of queries."""
    text = "Time of the oldest job in the queue since it came, 0 when none waits."
    return lambda: [gauges("everlook_queue_oldest_seconds", text, "lane", oldest_s())]
