"""A few of the live queries, put aside for watching. The worker threads pay next to nothing for it, and never wait."""

from __future__ import annotations

import queue
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from indexer.engine import Serving
from indexer.index import Hits, SearchParams
from server.jobs import Answer, ItemQuery, QueryJob

CAPACITY: Final = 64  # samples that may wait: each keeps a view alive, none a photo


@dataclass(frozen=True, eq=False)
class Sample:
    """A query that was answered, without the photo that it may have come with."""

    serving: Serving
    vector: NDArray[np.float32]
    """(D,) of unit length."""
    params: SearchParams
    hits: Hits
    by_item: bool
    """Whether the query was an item of the gallery, and no photo or vector."""


class QueryTap:
    """A bounded queue between the workers, who offer, and the one thread that watches."""

    def __init__(
        self, share: float, rng: random.Random, dropped: Callable[[], None], *, capacity: int = CAPACITY
    ) -> None:
        """`share` (0 to 1) of the searches is taken; `dropped` hears of each that finds no room, or is thrown away."""
        self._share = share
        self._rng = rng
        self._dropped = dropped
        self._waiting: queue.Queue[Sample] = queue.Queue(capacity)

    def offer(self, answered: Sequence[tuple[QueryJob, Answer]]) -> None:
        """Takes each of these answers by chance. For any thread; never waits."""
        for job, answer in answered:
            if job.params is None or answer.hits is None or self._rng.random() >= self._share:
                continue
            by_item = isinstance(job.query, ItemQuery)
            try:
                self._waiting.put_nowait(Sample(answer.serving, answer.vector, job.params, answer.hits, by_item))
            except queue.Full:
                self._dropped()

    def take(self, wait_s: float) -> Sample | None:
        """The sample that has waited longest; None when there is none within `wait_s`."""
        try:
            return self._waiting.get(timeout=wait_s)
        except queue.Empty:
            return None

    def empty(self) -> None:
        """Throws away what waits, and so lets go of the views that it was answered by."""
        while True:
            try:
                self._waiting.get_nowait()
            except queue.Empty:
                return
            self._dropped()
