"""Watching probe recall: the probes of every cohort are searched through the live generation, from time to time.

At the start, after each generation of another model that went live, and every so many seconds: in small batches with
pauses between them, so that queries go first. What was measured goes into the history of the catalogue. A failure is
logged: a measurement that failed is made again a little later. One that cannot be written is not: it is shown all the
same, and waits until it can be written or the next one takes its place.

No view is held during the pauses, or the segment from before a merge would stay in memory beside the new one.

| crash at this step                              | found so at restart                                              |
|-------------------------------------------------|------------------------------------------------------------------|
| while the probes are searched                   | the history as before; the measurement is made again             |
| after the measurement, before the history's row | the same; one for a swap is still one for that swap: it is the   |
|                                                 | history that knows which swap has none yet                       |
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from indexer.catalogue import Cause, CohortCounts, History, Measurement
from indexer.generation import Live
from indexer.index import View
from indexer.probe_recall import MOST_PROBES, CohortProbes, Place, all_probes, places
from indexer.recall import recall_from
from server.watching.pace import Pace, Stopped

log = logging.getLogger(__name__)

KS = (1, 5, 10)

_BATCH = 16
_FIRST_PAUSE_S, _MOST_PAUSE_S = 5.0, 300.0
_NEVER_S = 1e9  # what an event can be waited for
_BEHIND_S = 60.0  # a clock that lags the history by more is worth a word


class Watched(Protocol):
    """The engine, as far as it is needed here."""

    @property
    def live(self) -> Live: ...

    @property
    def history(self) -> History: ...

    def note_live(self) -> None: ...

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
    """By cohort, what was measured right after the swap at which its stage went live, where that is known; as long as
    this measurement is not in the history, as it was known to the one before."""
    in_all: Mapping[int | None, int]
    """How many probes each of its cohorts has, of which at most so many were searched."""
    seconds: float
    """How long it took, pauses included."""
    taken_at: float
    """Unix seconds by the clock of this process. It is the measurement's own time, unless the clock was put back: that
    one is never before what the history has."""

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
        self._behind = False
        self._thread = threading.Thread(target=self._work, name="probe-watch", daemon=True)
        self.on_measured: list[Callable[[Measured], None]] = []
        """Who is told of each measurement, in the watch's thread: when it is in the history, or could not be written at
        the first attempt. To be added to before the watch begins."""

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
                measured = self._measure(cause)
            except Stopped:
                return
            except _Overtaken:
                continue
            except Exception as error:
                failures += 1
                log.warning("probe recall could not be measured; again in %.0f s: %s", _again_s(failures), error)
            else:
                cause, failures = Cause.TIMER, 0
                self._keep(measured)
                continue
            self._woken.wait(_again_s(failures))

    def _keep(self, measured: Measured) -> None:
        """Puts a measurement into the history, shows and tells of it, and waits until the next one is due. Where it
        cannot be written, that is tried again meanwhile."""
        due = time.monotonic() + (self._every_s or _NEVER_S)
        for attempt in itertools.count(1):
            again_s = _NEVER_S
            try:
                measured = self._recorded(measured)
            except Exception as error:
                again_s = _again_s(attempt)
                log.warning("what the probes measured is not in the history; again in %.0f s: %s", again_s, error)
            self._last = measured
            if attempt == 1:
                self._tell(measured)
            if self._woken.wait(max(0.0, min(again_s, due - time.monotonic()))) or time.monotonic() >= due:
                return

    def _recorded(self, measured: Measured) -> Measured:
        """Puts it into the history, if it is not there: an attempt that failed may have written it. Returns it with the
        references that are known now. Errors: those of the engine."""
        history, measurement = self._engine.history, measured.measurement
        if measurement.cohorts and history.last_at() != measurement.at:
            self._engine.record(measurement)
        return replace(measured, references=history.references(measured.model))

    def _tell(self, measured: Measured) -> None:
        """Tells who watches. One that fails keeps no other from being told."""
        for told in self.on_measured:
            try:
                told(measured)
            except Exception:
                log.exception("a measurement of probe recall could not be watched")

    def _measure(self, cause: Cause) -> Measured:
        """Errors: Stopped; _Overtaken when another model goes live meanwhile; those of the engine."""
        began = time.perf_counter()
        self._engine.note_live()
        measurement, probes, in_all, taken_at = self._measured(cause)
        last = self._last
        known = last.references if last is not None and last.model == measurement.model else {}
        return Measured(measurement, probes, known, in_all, time.perf_counter() - began, taken_at)

    def _measured(self, cause: Cause) -> tuple[Measurement, tuple[Probe, ...], Mapping[int | None, int], float]:
        history = self._engine.history
        model = self._engine.live.current.generation.model.id
        if history.awaits_measurement(model):
            cause = Cause.SWAP
        self._pace.begin()
        found: list[Probe] = []
        counts: list[CohortCounts] = []
        probes = self._probes(model)
        for cohort, held in probes.items():
            of_cohort: list[Place] = []
            for start in range(0, len(held.ids), _BATCH):
                of_batch = places(self._view(model), held.ids[start : start + _BATCH])
                of_cohort += [place for place in of_batch if place.category]  # those that are still there
                self._pace.rest()
            if of_cohort:
                counts.append(counted(cohort, of_cohort))
            found += [Probe(cohort, place) for place in of_cohort]
        now = self._clock()
        measurement = Measurement(self._time(history, now), self._number(model), model, cause, tuple(counts))
        return measurement, tuple(found), {cohort: held.in_all for cohort, held in probes.items()}, now

    def _probes(self, model: str) -> dict[int | None, CohortProbes]:
        """Those of the live gallery. Errors: Stopped, _Overtaken."""

        def pause() -> None:
            self._pace.rest()
            self._number(model)

        return all_probes(self._view(model), self._cohort_of(model), self._most_probes, pause)

    def _number(self, model: str) -> int:
        """Of the live generation. Errors: _Overtaken when it is of another model."""
        generation = self._engine.live.current.generation
        if generation.model.id != model:
            raise _Overtaken
        return generation.number

    def _view(self, model: str) -> View:
        """What is live, for as long as nobody pauses. Errors: _Overtaken when it is of another model."""
        serving = self._engine.live.current
        if serving.generation.model.id != model:
            raise _Overtaken
        return serving.view

    def _time(self, history: History, now: float) -> float:
        """Now; but not before the last swap, and after every other measurement: a clock that was put back must neither
        part a swap from its measurement nor make several of them one. Whether it is behind now or was ahead then nobody
        here can tell, so what was written stays."""
        swap, last_at = history.last_swap(), history.last_at()
        least = -math.inf if last_at is None else math.nextafter(last_at, math.inf)
        at = max(now, least if swap is None else max(least, swap.at))
        was_behind, self._behind = self._behind, at - now > _BEHIND_S
        if self._behind and not was_behind:
            words = "the clock is %.0f s behind the history of recall, or was ahead: what is measured goes to its end"
            log.warning(words, at - now)
        return at


class _Overtaken(Exception):
    """Another model has gone live."""


def _again_s(failures: int) -> float:
    """Seconds until what has failed so often in a row is tried again."""
    return min(_MOST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(failures - 1, 16))


def counted(cohort: int | None, found: Sequence[Place]) -> CohortCounts:
    """The counts of one cohort."""
    recalls = recall_from(np.array([each.place for each in found], np.int64), KS)
    return CohortCounts(cohort, len(found), *(recalls[k].found for k in KS))
