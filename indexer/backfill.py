"""Backfill: the gallery is embedded by a candidate model, and a generation is made of it.

The catalogue itself says what is to be done: the photos that have no vector of the model. So whatever was stored is
never repeated, and what comes in the meantime is found. A `Worker` embeds and indexes; here its vectors are stored, a
batch in a transaction.

| crash at this step           | found so at restart                                                          |
|------------------------------|------------------------------------------------------------------------------|
| while batches are embedded   | the vectors of those before; the batches that were in hand are embedded again |
| while one is stored          | all of it or nothing                                                         |
| while the index is made      | all vectors; the index is made again (`candidate`)                           |
| after it was published       | the generation, which the server takes up; this model is done                |
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from indexer.catalogue import Catalogue
from indexer.datadir import DataDir
from indexer.embedding import Vectors
from indexer.errors import CatalogueDamaged, StorageFull
from indexer.gates import failures
from indexer.generation import GenerationInfo, sweep_generations
from indexer.lineage import load_lineage
from indexer.model import Manifest
from indexer.programs import Activity
from indexer.worker import Effort, Embed, Embedded, Index, Indexed, Indexing, StartWorker, Worker, Works

log = logging.getLogger(__name__)

_LOOK_S: Final = 0.2  # between two looks at whether to go on
_AHEAD: Final = 2  # batches in hand for each thread: one that it works on, and one that waits for it
_FULL_S: Final = 5.0  # until a database that refuses is asked again
_NAMED: Final = 5  # photos that a message names


@dataclass
class Backfill:
    """The backfill of one model.

    `pause` sleeps for so many seconds, or ends the backfill by raising; with 0 it only looks. Whatever it raises, all
    that was stored stays.
    """

    data: DataDir
    catalogue: Catalogue
    database_url: str
    model: Manifest
    effort: Effort
    say: Callable[[Activity], None]
    pause: Callable[[float], None]
    start_worker: StartWorker = Worker
    _last: Activity = field(init=False, default=Activity(""))

    def run(self) -> GenerationInfo:
        """Embeds what is missing and makes the generation, which is rejected when its index fails a gate.

        Errors: CatalogueDamaged when a photo cannot be embedded, with all others done; ModelDamaged; NotServing when
        the worker died; OSError, EverlookError.
        """
        sweep_generations(self.data)  # what a worker that was killed left
        began = time.monotonic()
        cohorts = load_lineage(self.data.model(self.model.id)).cohorts
        self._last = Activity("", stage=max(0, len(cohorts) - 1), categories=len(cohorts[-1]) if cohorts else 0)
        with self.start_worker(self.data, self.database_url, self.model, self.effort) as worker:
            boundary = self._embed_gallery(worker)
            info = self._index(worker, boundary)
        log.info("backfilled model %s in %.1f s: generation %d", self.model.id, time.monotonic() - began, info.number)
        if reasons := failures(info.gates):
            log.warning("generation %d is rejected: %s", info.number, reasons)
        return info

    # ------------------------------------------------------------------------------------------------ embedding

    def _embed_gallery(self, worker: Works) -> int:
        """Embeds until hardly anything is missing; returns a change up to which nothing is.

        New items go on coming. A pass that found no fewer than the one before is not overtaking them, so it is the last
        one too: the server embeds the rest.
        """
        before = None
        while True:
            boundary = self.catalogue.last_seq  # all that an entry up to here shows is found by the pass that follows
            found = self._embed_missing(worker)
            if found <= self.effort.batch or (before is not None and found >= before):
                return boundary
            before = found

    def _embed_missing(self, worker: Works) -> int:
        """Embeds the photos that have no vector. Returns how many there were. Errors: CatalogueDamaged."""
        began, photos = time.monotonic(), self.catalogue.totals().photos
        before = self.catalogue.vector_count(self.model.id)
        # The oldest come first, so these are all that are there now. Without a limit it could run after new ones.
        missing = itertools.islice(self.catalogue.missing_vectors(self.model.id), max(0, photos - before))
        found = stored = in_hand = 0
        unreadable: dict[str, str] = {}
        batches = _batches(missing, self.effort.batch)
        self._say_embedding(before, 0, 0.0)
        while True:
            while in_hand < _AHEAD * self.effort.threads and (batch := next(batches, None)):
                worker.send(Embed(batch))
                found += len(batch)
                in_hand += 1
            if in_hand == 0:
                break
            embedded = self._embedded(worker)
            in_hand -= 1
            stored += self._store(embedded.vectors)
            unreadable |= embedded.unreadable
            self._say_embedding(before, stored, time.monotonic() - began)
        if unreadable:
            raise CatalogueDamaged(self._complaint(unreadable), field="image_sha256", got=next(iter(unreadable)))
        return found

    def _embedded(self, worker: Works) -> Embedded:
        while True:
            self.pause(0)
            answer = worker.receive(_LOOK_S)
            if isinstance(answer, Embedded):
                return answer

    def _store(self, vectors: Vectors) -> int:
        """Stores a batch, when there is room for it: work is not thrown away for a full disk."""
        while True:
            try:
                return self.catalogue.store_vectors(self.model.id, vectors)
            except StorageFull as error:
                log.warning("%s; tries again in %.0f s", error, _FULL_S)
                self._say(f"the backfill waits: {error}", "backfill", self._last.done, self._last.total)
                self.pause(_FULL_S)

    def _complaint(self, unreadable: dict[str, str]) -> str:
        """What an operator has to know of photos that cannot be embedded."""
        shown = dict(itertools.islice(unreadable.items(), _NAMED))
        items: dict[str, str] = {}
        for entry in self.catalogue.entries():
            if entry.image_sha256 in shown:
                items.setdefault(entry.image_sha256, entry.id)
        named = "; ".join(f"item {items.get(sha256, '?')!r}, photo {sha256}: {why}" for sha256, why in shown.items())
        return (
            f"photos that model {self.model.id[:8]} cannot embed, and no item may lack its vector: {len(unreadable)};"
            f" {named}. Delete these items, and put them again with their photos"
        )

    def _say_embedding(self, before: int, stored: int, took_s: float) -> None:
        total = self.catalogue.totals().photos
        done = min(total, before + stored)
        words = f"embedding the gallery by model {self.model.id[:8]}"
        self._say(words, "backfill", done, total, took_s / max(1, stored) * (total - done))

    # ------------------------------------------------------------------------------------------------ the index

    def _index(self, worker: Works, boundary: int) -> GenerationInfo:
        items = self.catalogue.totals().items
        worker.send(Index(boundary))
        while True:
            self.pause(0)
            answer = worker.receive(_LOOK_S)
            if isinstance(answer, Indexing):
                words = f"making the index of model {self.model.id[:8]}: {answer.step}"
                self._say(words, "index", round(answer.done * items), items)
            if isinstance(answer, Indexed):
                return answer.info

    def _say(self, words: str, phase: str, done: int, total: int, remaining_s: float = 0.0) -> None:
        self._last = replace(
            self._last, words=words, phase=phase, done=done, total=total, remaining_s=round(remaining_s, 1)
        )
        self.say(self._last)


def _batches(shas: Iterable[str], size: int) -> Iterator[tuple[str, ...]]:
    remaining = iter(shas)
    while batch := tuple(itertools.islice(remaining, size)):
        yield batch
