"""How work waits and how it is taken: queries before ingestion, no waiting when idle, whatever is queued when busy."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, Protocol, TypeVar

from indexer.errors import NotServing, QueueFull


class Lane(IntEnum):
    """Whose work it is; the lower number goes first."""

    QUERY = 0
    INGEST = 1

    @property
    def label(self) -> str:
        return self.name.lower()


class Waiting(Protocol):
    """What a job must tell while it waits."""

    lane: Lane
    enqueued_at: float
    """`time.monotonic()` when it was queued."""

    @property
    def size(self) -> int:
        """Bytes that it holds."""
        ...

    @property
    def expired(self) -> bool:
        """Nobody waits for its answer any more: dropped unrun."""
        ...


J = TypeVar("J", bound=Waiting)


@dataclass(frozen=True)
class LaneLimits:
    """Bounds of one lane."""

    capacity: int
    """Jobs that may wait."""
    capacity_bytes: int
    """Bytes that the jobs that wait may hold. One job alone may hold more."""
    max_batch: int
    """Jobs taken together."""


def collect(
    lanes: Mapping[Lane, deque[J]],
    limits: Mapping[Lane, LaneLimits],
    served_at: MutableMapping[Lane, float],
    now: float,
    patience_s: float,
) -> tuple[list[J], list[J]]:
    """Takes the next batch out of `lanes`: `(jobs to run, jobs that expired)`, both empty when nothing waits.

    A batch is of one lane: the first in order that has work, except that a lane goes first which has had work and no
    turn for longer than `patience_s`, so that a flood of queries slows ingestion down and never stops it. It gets one
    turn by that: a long queue of ingestion is no reason to keep queries waiting. `served_at` keeps the last turns.
    """
    waiting = [lane for lane in sorted(lanes) if lanes[lane]]
    if not waiting:
        return [], []
    starved = [lane for lane in waiting[1:] if now - max(lanes[lane][0].enqueued_at, served_at[lane]) > patience_s]
    lane = starved[0] if starved else waiting[0]
    served_at[lane] = now
    jobs: list[J] = []
    expired: list[J] = []
    queue = lanes[lane]
    while queue and len(jobs) < limits[lane].max_batch:
        job = queue.popleft()
        (expired if job.expired else jobs).append(job)
    return jobs, expired


class WorkQueue(Generic[J]):
    """Bounded lanes shared by the event loop, which puts, and worker threads, which take. Thread-safe."""

    def __init__(
        self, limits: Mapping[Lane, LaneLimits], *, patience_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits = limits
        self._patience_s = patience_s
        self._clock = clock
        self._lanes: dict[Lane, deque[J]] = {lane: deque() for lane in limits}
        self._bytes = dict.fromkeys(limits, 0)
        self._served_at = dict.fromkeys(limits, -math.inf)
        self._ready = threading.Condition()
        self._closed = False

    def put(self, job: J) -> None:
        """Errors, at once: QueueFull when the job's lane is at capacity, NotServing when the queue is closed."""
        with self._ready:
            if self._closed:
                raise NotServing("the server is stopping", retry_after_s=1.0)
            lane, held, limits = self._lanes[job.lane], self._bytes[job.lane], self._limits[job.lane]
            if len(lane) >= limits.capacity or (lane and held + job.size > limits.capacity_bytes):
                raise QueueFull(
                    f"too much is waiting in the {job.lane.label} queue",
                    got=f"{len(lane)} waiting, {held} bytes",
                    expected=f"at most {limits.capacity} waiting, {limits.capacity_bytes} bytes",
                    retry_after_s=0.1,
                )
            lane.append(job)
            self._bytes[job.lane] += job.size
            self._ready.notify()

    def take(self) -> tuple[list[J], list[J]] | None:
        """Blocks until there is work, and returns what `collect` does; None once closed and empty."""
        with self._ready:
            while True:
                jobs, expired = collect(self._lanes, self._limits, self._served_at, self._clock(), self._patience_s)
                if jobs or expired:
                    for job in (*jobs, *expired):
                        self._bytes[job.lane] -= job.size
                    return jobs, expired
                if self._closed:
                    return None
                self._ready.wait()

    def depth(self, lane: Lane) -> int:
        """Jobs waiting in one lane."""
        return len(self._lanes[lane])

    def oldest_s(self, lane: Lane) -> float:
        """Seconds since the oldest job of one lane came; 0 when none waits."""
        with self._ready:
            waiting = self._lanes[lane]
            return max(0.0, self._clock() - waiting[0].enqueued_at) if waiting else 0.0

    def capacity(self, lane: Lane) -> int:
        """Jobs that may wait in one lane."""
        return self._limits[lane].capacity

    def close(self) -> None:
        """Takers finish what waits, then get None."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
