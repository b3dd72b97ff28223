"""Watching probe recall: the probes of every cohort are searched through the live generation, from time to time.

At the start, after each generation of another model that went live, and every so many seconds: in small batches with
pauses between them, so that queries go first. What was measured goes into the history of the catalogue; a failure is
logged, and the measurement made again a little later.

| crash at this step                              | found so at restart                                              |
|-------------------------------------------------|------------------------------------------------------------------|
| while the probes are searched                   | the history as before; the measurement is made again             |
| after the measurement, before the history's row | the same; one for a swap is still one for that swap: it is the   |
|                                                 | history that knows which swap has none yet                       |
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from indexer.catalogue import Cause, CohortCounts, History, Measurement
from indexer.generation import Live
from indexer.probe_recall import MOST_PROBES, Place, all_probes, places
from indexer.recall import recall_from
from server.watching.pace import Pace, Stopped

log = logging.getLogger(__name__)

KS = (1, 5, 10)

_BATCH = 16
_FIRST_PAUSE_S, _MOST_PAUSE_S = 5.0, 300.0


class Watched(Protocol):
    """The engine, as far as it is needed here."""

    @property
    def live(self) -> Live: ...

    @property
    def history(self) -> History: ...

    def record(self, measured: Measurement) -> None: ...


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe of a measurement: its cohort, None where it waits, and what it found."""

    cohort: int | None
    place: Place


@dataclass(frozen=True)
class Measured:
    """The last measurement, probe by probe."""

    measurement: Measurement
    probes: tuple[Probe, ...]
    references: Mapping[int, CohortCounts]
    """By cohort, what was measured right after the swap at which its stage went live, where that is known."""
    in_all: Mapping[int | None, int]
    """How many probes each of its cohorts has, of which at most so many were searched."""
    seconds: float
    """How long it took, pauses included."""

    @property
    def model(self) -> str:
        """The id of the model that was measured."""
        return self.measurement.model


class ProbeWatch:
    """`with ProbeWatch(...)` measures in a thread of its own, and ends it. Any thread may ask for what was measured."""

    def __init__(
        self,
        engine: Watched,
        cohort_of: Callable[[str], Mapping[str, int]],
        *,
        every_s: float,
        most_probes: int = MOST_PROBES,
        clock: Callable[[], float] = time.time,
        pace: Pace | None = None,
    ) -> None:
        """`cohort_of` says of a model's id which stage taught it each category. With `every_s` 0 nothing is measured
        but after the start and after swaps."""
        self._engine = engine
        self._cohort_of = cohort_of
        self._every_s = every_s
        self._most_probes = most_probes
        self._clock = clock
        self._pace = pace or Pace()
        self._woken = threading.Event()
        self._stopping = False
        self._last: Measured | None = None
        self._thread = threading.Thread(target=self._work, name="probe-watch", daemon=True)
        self.on_measured: list[Callable[[Measured], None]] = []
        """Who is told of each measurement, in the watch's thread. To be added to before the watch begins."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the measurement that is under way; what it has done is not kept."""
        self._stopping = True
        self._pace.stop()
        self._woken.set()
        self._thread.join()

    def last(self) -> Measured | None:
        """What was measured last; None when nothing has been of the model that is live."""
        last = self._last
        return last if last is not None and last.model == self._engine.live.current.generation.model.id else None

    def wake(self) -> None:
        """A generation of another model has gone live: it is measured at once."""
        self._woken.set()

    # ------------------------------------------------------------------------------------------------ the thread

    def _work(self) -> None:
        cause, failures = Cause.START, 0
        while not self._stopping:
            self._woken.clear()
            try:
                self._measure(cause)
                cause, failures, wait_s = Cause.TIMER, 0, self._every_s
            except Stopped:
                return
            except _Overtaken:
                continue
            except Exception as error:
                failures += 1
                wait_s = min(_MOST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(failures - 1, 16))
                log.warning("probe recall could not be measured; again in %.0f s: %s", wait_s, error)
            self._woken.wait(wait_s or None)

    def _measure(self, cause: Cause) -> None:
        """Errors: Stopped; _Overtaken when another model goes live meanwhile; those of the engine."""
        began = time.perf_counter()
        measurement, probes, in_all = self._measured(cause)
        if measurement.cohorts:
            self._engine.record(measurement)
        references = self._engine.history.references(measurement.model)
        measured = self._last = Measured(measurement, probes, references, in_all, time.perf_counter() - began)
        for told in self.on_measured:
            told(measured)

    def _measured(self, cause: Cause) -> tuple[Measurement, tuple[Probe, ...], Mapping[int | None, int]]:
        serving = self._engine.live.current
        generation, view = serving.generation, serving.view
        history = self._engine.history
        if history.awaits_measurement(generation.model.id):
            cause = Cause.SWAP

        def pause() -> None:
            self._pace.rest()
            if self._engine.live.current.generation.model.id != generation.model.id:
                raise _Overtaken

        self._pace.begin()
        found: list[Probe] = []
        counts: list[CohortCounts] = []
        probes = all_probes(view, self._cohort_of(generation.model.id), self._most_probes, pause)
        for cohort, held in probes.items():
            ids = held.ids
            of_cohort: list[Place] = []
            for start in range(0, len(ids), _BATCH):
                of_cohort += places(view, ids[start : start + _BATCH])
                pause()
            counts.append(counted(cohort, of_cohort))
            found += [Probe(cohort, place) for place in of_cohort]
        measurement = Measurement(self._time(history), generation.number, generation.model.id, cause, tuple(counts))
        return measurement, tuple(found), {cohort: held.in_all for cohort, held in probes.items()}

    def _time(self, history: History) -> float:
        """Now; but not before the last swap, and after every other measurement: a clock that was put back must neither
        part a swap from its measurement nor make several of them one."""
        swap, last_at = history.last_swap(), history.last_at()
        least = -math.inf if last_at is None else math.nextafter(last_at, math.inf)
        return max(self._clock(), least if swap is None else max(least, swap.at))


class _Overtaken(Exception):
    """Another model has gone live."""


def counted(cohort: int | None, found: Sequence[Place]) -> CohortCounts:
    """The counts of one cohort."""
    recalls = recall_from(np.array([each.place for each in found], np.int64), KS)
    return CohortCounts(cohort, len(found), *(recalls[k].found for k in KS))
