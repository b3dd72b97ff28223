"""A worker without its process: does the same jobs in the calling thread, one each time that an answer is asked for."""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Self

from indexer.catalogue import Catalogue
from indexer.datadir import DataDir
from indexer.devices import detect
from indexer.encoder import Encoder
from indexer.model import Manifest
from indexer.worker import Answer, Effort, Embed, Hand, Job


class InProcess:
    """Takes the place of `indexer.worker.Worker`. Remembers what it was asked."""

    def __init__(self, data: DataDir, database_url: str, model: Manifest, effort: Effort) -> None:
        self._catalogue = Catalogue.open(database_url)
        self._answers: deque[Answer | Exception] = deque()
        encoder = Encoder.load(data.model(model.id), detect(), 1)
        self._hand = Hand(data, self._catalogue, encoder, detect(), effort, self._answers.append)
        self._jobs: deque[Job] = deque()
        self.most_in_hand = 0
        self.embedded: list[str] = []
        """The photos that it was asked for, in order."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._catalogue.close()

    def send(self, job: Job) -> None:
        self._jobs.append(job)
        self.most_in_hand = max(self.most_in_hand, len(self._jobs))
        if isinstance(job, Embed):
            self.embedded += job.shas

    def receive(self, timeout_s: float) -> Answer | None:
        if not self._answers and self._jobs:
            self._hand.do(self._jobs.popleft())
        answer = self._answers.popleft() if self._answers else None
        if isinstance(answer, Exception):
            raise answer
        return answer
