"""The watch of live queries: index recall, drift, and photos of things that the gallery does not hold.

A worker hands each batch that it has answered to the tap, which takes a few. One thread repeats them exactly, off the
hot path and at its pace, and gives what they score to the windows. What comes faster is dropped, and counted.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from indexer.datadir import DataDir
from indexer.generation import Live
from server.watching.index_recall import IndexRecallCount, compared, repeat
from server.watching.limits import WatchLimits
from server.watching.pace import Pace, Stopped
from server.watching.query_metrics import QueryMetrics, floor_of
from server.watching.tap import QueryTap, Sample
from server.watching.windows import QueryWindows

log = logging.getLogger(__name__)

_LOOK_S: Final = 0.25  # between two looks at what is live: and so about how long a view that has gone is kept
_PAUSE_S: Final = 1.0  # after a failure, which may come again at once


@dataclass(frozen=True, eq=False)
class _Seen:
    """What the windows take of a query: without the view, which may be gone before they are done with it."""

    model: str
    vector: NDArray[np.float32]
    score: float


class _Gone(Exception):
    """The generation of a sample does not serve any more."""


class QueryWatch:
    """`with QueryWatch(...)` runs the thread, where any share is to be watched; `tap.offer` is for the workers."""

    def __init__(
        self, data: DataDir, live: Live, registry: CollectorRegistry, limits: WatchLimits, *, seed: int | None = None
    ) -> None:
        """`seed` fixes which queries are taken and how windows are split."""
        self._live = live
        self._limits = limits
        self._metrics = QueryMetrics(registry, lambda: live.current.generation.model.id)
        self._windows = QueryWindows(data, limits, np.random.default_rng(seed))
        self._index_recall = IndexRecallCount(live.current.generation.number)
        self._metrics.index_recall = self._index_recall.current
        self._pace = Pace()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="query-watch", daemon=True)
        self._model = ""  # that the windows are of
        # Chance, not secrecy, decides which queries are watched.
        self.tap = QueryTap(limits.share, random.Random(seed), self._metrics.dropped)  # noqa: S311

    def __enter__(self) -> Self:
        if self._limits.share > 0:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        self._pace.stop()
        if self._thread.is_alive():
            self._thread.join()
        self.tap.empty()

    def know_probes(self, model: str, top_scores: Sequence[float]) -> None:
        """Takes the best score of each probe, itself left out, as it was last measured. For any thread."""
        self._metrics.floor = floor_of(model, top_scores)

    # ------------------------------------------------------------------------------------------------ the thread

    def _run(self) -> None:
        try:
            while not self._stopping:
                try:
                    self.work(_LOOK_S)
                    self._rest()
                except Stopped:
                    return
                except Exception:
                    log.exception("a live query could not be watched")  # which costs the server no more than this
                    time.sleep(_PAUSE_S)
        finally:
            self._windows.save()

    def work(self, wait_s: float) -> None:
        """Waits for a sample and works it off. Errors: Stopped."""
        self.follow()
        sample = self.tap.take(wait_s)
        self._pace.begin()
        if sample is None:
            return
        try:
            seen = self._repeat(sample)
        except _Gone:
            self._metrics.dropped()
            return
        del sample  # and with it the view, before the pauses below
        if seen is not None:
            self._rest()
            self._compare(seen)

    def follow(self) -> None:
        """Lets go of everything that belongs to a generation or a model that does not serve any more."""
        generation = self._live.current.generation  # once: after a swap in between, two readings would not fit together
        self._let_go(generation.number)
        model = generation.model.id
        if model != self._model:
            self._metrics.forget_windows()
            self._windows.follow(model)
            self._metrics.reference_queries = self._windows.gathered
            self._model = model  # last: what fails above is done again

    def _let_go(self, number: int) -> None:
        """Throws away what waits and what was counted for another generation than the one of this number, which
        serves."""
        if number != self._index_recall.current.generation:
            self._index_recall.follow(number)
            self._metrics.index_recall = self._index_recall.current
            self.tap.empty()

    def _rest(self) -> None:
        """Pauses. A generation that goes meanwhile is not kept until the work under way is done."""
        self._pace.rest()
        self._let_go(self._live.current.generation.number)

    def _repeat(self, sample: Sample) -> _Seen | None:
        """Counts what the index has found; returns what the windows are to see, which are of queries by photo or vector
        over the whole gallery: what a filter or an item finds says nothing of how familiar photos are. Errors: _Gone,
        Stopped."""
        generation = sample.serving.generation

        def rest() -> None:
            self._rest()
            self._still_serves(generation.number)

        self._still_serves(generation.number)
        exact = repeat(sample, rest)
        self._metrics.taken()
        if (counts := compared(sample, exact)) is not None:
            self._index_recall.add(*counts)
            self._metrics.index_recall = self._index_recall.current
        if sample.by_item or sample.params.filter or len(exact) == 0:
            return None
        return _Seen(generation.model.id, sample.vector, float(exact.scores[0]))

    def _still_serves(self, generation: int) -> None:
        """Errors: _Gone."""
        if generation != self._index_recall.current.generation:
            raise _Gone

    def _compare(self, seen: _Seen) -> None:
        self._metrics.scored(seen.model, seen.score)
        self._metrics.tested(self._windows.add(seen.vector, seen.score, self._rest), self._limits.alpha)
        self._metrics.reference_queries = self._windows.gathered
