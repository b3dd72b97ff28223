"""Every metric of the server, on a registry that the caller passes in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric

from indexer.errors import EverlookError, Overloaded, QueueFull, StorageFull
from server.batching import Lane
from server.status import FAULTS
from server.supervisor import PROGRAMS
from server.swapper import Attempt
from server.wire import pb

_FAST = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_SLOW = (0.001, 0.01, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)


class Metrics:
    """Counters and histograms that the code writes to. Gauges are read off at each scrape: `OperatorCollector`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.calls = Counter("everlook_calls", "Finished calls.", ["rpc", "code"], registry=registry)
        self.call_seconds = Histogram(
            "everlook_call_seconds", "Time of a call in the server.", ["rpc", "code"], buckets=_FAST, registry=registry
        )
        self.parts = Counter(
            "everlook_parts",
            "Queries of batches and items of ingest streams that were answered.",
            ["rpc", "code"],
            registry=registry,
        )
        self.refusals = Counter(
            "everlook_refusals", "Work refused because a bound was reached.", ["reason"], registry=registry
        )
        self.expired = Counter(
            "everlook_expired", "Jobs dropped unrun: nobody waited for them any more.", ["lane"], registry=registry
        )
        self.stage_seconds = Histogram(
            "everlook_stage_seconds",
            "Time of one stage of processing a batch: queue (per job), decode, encode, search, commit.",
            ["lane", "stage"],
            buckets=_FAST,
            registry=registry,
        )
        self.batch_jobs = Histogram(
            "everlook_batch_jobs", "Jobs taken together.", ["lane"], buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        self.items_written = Counter("everlook_items_written", "Acknowledged writes.", ["outcome"], registry=registry)
        self.items_refused = Counter(
            "everlook_items_refused", "Items of ingest streams refused.", ["reason"], registry=registry
        )
        self.merges = Counter(
            "everlook_merges", "Merges of the delta into the main segment.", ["result"], registry=registry
        )
        self.swaps = Counter(
            "everlook_swaps",
            "Attempts to make a generation of another model live: refused by a gate, or failed otherwise.",
            ["result"],
            registry=registry,
        )
        self.rollbacks = Counter(
            "everlook_rollbacks",
            "Those of the swaps that somebody asked for to go back to an earlier generation.",
            ["result"],
            registry=registry,
        )
        self.swap_seconds = Histogram(
            "everlook_swap_seconds",
            "Time of one phase of making a generation live: loading, catching up, checking, swap.",
            ["phase"],
            buckets=_SLOW,
            registry=registry,
        )
        self.program_restarts = Counter(
            "everlook_program_restarts",
            "Starts of a program by the server after it had died.",
            ["program"],
            registry=registry,
        )
        # What alerts look at is 0 from the start: the first increase of a series that appears with it goes unseen.
        for lane in Lane:
            self.expired.labels(lane=lane.label)
        for kind in (QueueFull, StorageFull):
            self.refusals.labels(reason=kind.reason)
        for code in ("OK", *(fault.name for fault in FAULTS)):
            for service in pb.DESCRIPTOR.services_by_name.values():
                for method in service.methods:
                    self.calls.labels(rpc=f"{service.name}/{method.name}", code=code)
            for rpc in ("Search/BatchSearch", "Catalog/Ingest"):
                self.parts.labels(rpc=rpc, code=code)
        for result in ("ok", "failed"):
            self.merges.labels(result=result)
        for result in ("ok", "refused", "failed"):
            self.swaps.labels(result=result)
            self.rollbacks.labels(result=result)
        for program in PROGRAMS:
            self.program_restarts.labels(program=program)

    def count_swap(self, attempt: Attempt) -> None:
        """Times a swap that has ended, and counts it when it was a rollback. `Swapper` itself counts all of them."""
        for phase, _, seconds in attempt.phases:
            self.swap_seconds.labels(phase=phase).observe(seconds)
        if attempt.back and attempt.result != "impossible":
            self.rollbacks.labels(result=attempt.result).inc()

    def count_refusal(self, error: EverlookError) -> None:
        """Counts an error that ends a call, or one query or item of it, when the reason is a bound that was reached."""
        if isinstance(error, Overloaded):
            self.refusals.labels(reason=error.reason).inc()


@dataclass(frozen=True)
class Snapshot:
    """The state of the server at one scrape."""

    gauges: dict[str, tuple[str, float]]
    """Name without prefix -> (help, value)."""
    queues: dict[str, tuple[int, int]]
    """Lane -> (depth, capacity)."""
    info: dict[str, str]
    """Labels of everlook_generation_info."""


def snapshot_families(now: Snapshot) -> Iterator[Metric]:
    """The families of a snapshot."""
    yield from gauge_families(now.gauges)
    depth = GaugeMetricFamily("everlook_queue_depth", "Jobs waiting.", labels=["lane"])
    capacity = GaugeMetricFamily("everlook_queue_capacity", "Jobs that may wait.", labels=["lane"])
    for lane, (waiting, most) in now.queues.items():
        depth.add_metric([lane], waiting)
        capacity.add_metric([lane], most)
    yield depth
    yield capacity
    yield InfoMetricFamily("everlook_generation", "The live generation.", value=now.info)


def gauge_families(gauges: Mapping[str, tuple[str, float]]) -> Iterator[Metric]:
    """Gauges by name without prefix, with their help."""
    for name, (text, value) in gauges.items():
        yield GaugeMetricFamily(f"everlook_{name}", text, value=value)
