"""The reference window of the live model, and the live window that fills beside it and is compared with it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from indexer.datadir import DataDir
from server.watching import reference
from server.watching.drift import Comparison, compare_embeddings, compare_scores, median_distance
from server.watching.limits import WatchLimits
from server.watching.reference import Query, Reference

log = logging.getLogger(__name__)

_SAVE_EVERY: Final = 64  # queries of a reference that a kill may lose
_SAVE_SHARE: Final = 8  # of a longer one an eighth, so that it is written seldom however many queries come


class QueryWindows:
    """The queries of the first while after a model went live make its reference, a sample of them where they are many;
    each full window after them is tested against it.

    For one thread; `gathered` may be read by any.
    """

    def __init__(
        self,
        data: DataDir,
        limits: WatchLimits,
        rng: np.random.Generator,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` tells the Unix time, which goes on while the server does not run."""
        self._data = data
        self._limits = limits
        self._rng = rng
        self._clock = clock
        self._model = ""
        self._reference = Reference()
        self._saved = 0
        self._save_at = _next_save(0)
        self._save_fails = False
        self._formed = False
        self._window: list[Query] = []
        self._width: float | None = None

    @property
    def gathered(self) -> int:
        """Queries in the reference window."""
        return len(self._reference.queries)

    def follow(self, model: str) -> None:
        """Goes on with the reference of this model, as far as there is one, and begins a live window."""
        if model == self._model:
            return
        self.save()
        try:
            reference.tidy(self._data)
        except OSError as error:
            log.warning("reference windows of models that are gone could not be removed: %s", error)
        found = reference.load(self._data, model)
        del found.queries[self._limits.reference :]
        self._model, self._reference, self._saved = model, found, found.seen
        self._save_at = _next_save(found.seen)
        self._formed, self._window, self._width = False, [], None

    def add(
        self, vector: NDArray[np.float32], score: float, between: Callable[[], None] = lambda: None
    ) -> Mapping[str, Comparison]:
        """Takes one query: its embedding (D,), and its best score. Returns what the tests say where a window is full;
        `between` is called during them, every few milliseconds."""
        query = (vector.copy(), score)  # a row of a batch would keep the batch
        if not self._has_formed():
            self._reference.draw(query, self._clock(), self._limits.reference, self._rng)
            if self._reference.seen >= self._save_at:
                self.save()
            return {}
        self._window.append(query)
        if len(self._window) < self._limits.window:
            return {}
        self.save()  # where the disk was full before
        window, self._window = self._window, []
        return self._compare(window, between)

    def save(self) -> None:
        """Puts what has been gathered of the reference on the disk. Where that fails, it is tried again some queries
        later; the log hears of the first failure in a row."""
        seen = self._reference.seen
        if seen == self._saved:
            return
        self._save_at = seen + _SAVE_EVERY  # whatever comes of it: a try packs all of the reference
        try:
            reference.save(self._data, self._model, self._reference)
        except OSError as error:
            if not self._save_fails:
                log.warning("the reference window could not be saved; it is tried again until it can: %s", error)
            self._save_fails = True
        else:
            self._saved, self._save_at, self._save_fails = seen, _next_save(seen), False

    def _has_formed(self) -> bool:
        """Whether the reference is full, and its time is over; it then stays as it is."""
        if not self._formed and self.gathered == self._limits.reference:
            self._formed = self._clock() - self._reference.began >= self._limits.reference_s
            if self._formed:
                self.save()
        return self._formed

    def _compare(self, window: list[Query], between: Callable[[], None]) -> Mapping[str, Comparison]:
        first_vectors, first_scores = _arrays(self._reference.queries)
        vectors, scores = _arrays(window)
        if self._width is None:
            self._width = median_distance(first_vectors, between)
        between()
        return {
            "mmd": compare_embeddings(first_vectors, vectors, self._width, self._rng, between=between),
            "score": compare_scores(first_scores, scores, self._rng, between=between),
        }


def _next_save(saved: int) -> int:
    """From how many queries on a reference is saved again that was saved with so many."""
    return saved + max(_SAVE_EVERY, saved // _SAVE_SHARE)


def _arrays(queries: list[Query]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Vectors (n, D) and best scores (n,)."""
    return np.array([vector for vector, _ in queries], np.float32), np.array([score for _, score in queries])
