"""The reference window of the live model, and the live window that fills beside it and is compared with it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from indexer.datadir import DataDir
from server.watching import reference
from server.watching.drift import Comparison, compare_embeddings, compare_scores, median_distance
from server.watching.reference import Query

log = logging.getLogger(__name__)

_SAVE_EVERY: Final = 64  # queries of a reference that a kill may lose


class QueryWindows:
    """The first queries after a model went live make its reference; each full window after them is tested against it.

    For one thread; `gathered` may be read by any.
    """

    def __init__(self, data: DataDir, reference: int, window: int, rng: np.random.Generator) -> None:
        """`reference` and `window` are how many queries make each."""
        self._data = data
        self._most_reference = reference
        self._most_window = window
        self._rng = rng
        self._model = ""
        self._reference: list[Query] = []
        self._saved = 0
        self._window: list[Query] = []
        self._width: float | None = None

    @property
    def gathered(self) -> int:
        """Queries in the reference window."""
        return len(self._reference)

    def follow(self, model: str) -> None:
        """Goes on with the reference of this model, as far as there is one, and begins a live window."""
        if model == self._model:
            return
        self.save()
        try:
            reference.tidy(self._data)
        except OSError as error:
            log.warning("reference windows of models that are gone could not be removed: %s", error)
        self._model = model
        self._reference = reference.load(self._data, model)[: self._most_reference]
        self._saved = len(self._reference)
        self._window = []
        self._width = None

    def add(
        self, vector: NDArray[np.float32], score: float, between: Callable[[], None] = lambda: None
    ) -> Mapping[str, Comparison]:
        """Takes one query: its embedding (D,), and its best score. Returns what the tests say where a window is full;
        `between` is called during them, every few milliseconds."""
        query = (vector.copy(), score)  # a row of a batch would keep the batch
        if len(self._reference) < self._most_reference:
            self._reference.append(query)
            if self.gathered == self._most_reference or self.gathered % _SAVE_EVERY == 0:
                self.save()
            return {}
        self._window.append(query)
        if len(self._window) < self._most_window:
            return {}
        self.save()  # where the disk was full before
        window, self._window = self._window, []
        return self._compare(window, between)

    def save(self) -> None:
        """Puts what has been gathered of the reference on the disk. Where that fails, it is tried again later."""
        if len(self._reference) == self._saved:
            return
        try:
            reference.save(self._data, self._model, self._reference)
        except OSError as error:
            log.warning("the reference window could not be saved: %s", error)
        else:
            self._saved = len(self._reference)

    def _compare(self, window: list[Query], between: Callable[[], None]) -> Mapping[str, Comparison]:
        first_vectors, first_scores = _arrays(self._reference)
        vectors, scores = _arrays(window)
        if self._width is None:
            self._width = median_distance(first_vectors)
        between()
        return {
            "mmd": compare_embeddings(first_vectors, vectors, self._width, self._rng, between=between),
            "score": compare_scores(first_scores, scores, self._rng, between=between),
        }


def _arrays(queries: list[Query]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Vectors (n, D) and best scores (n,)."""
    return np.array([vector for vector, _ in queries], np.float32), np.array([score for _, score in queries])
