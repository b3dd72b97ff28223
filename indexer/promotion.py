"""Promotion: a generation of another model takes the live one's place, without a query noticing (promises 4, 7 and 8).

Loaded and warmed beside the live one; then brought up to date, with every new photo embedded by both models; measured
with probes; and swapped to by one assignment between two changes. Going back is the same.

| crash at this step                       | found so at restart                                                      |
|------------------------------------------|--------------------------------------------------------------------------|
| while it is loaded, brought up to date   | the live generation as before; vectors that were made stay, and are used |
| after the verdict, before live.json      | the same; the promotion is begun again                                   |
| after live.json, before the assignment   | the new generation is live, with all that was acknowledged               |
| after the assignment, before the history | the same, and the start adds it to the history (`swap_history`)          |
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from indexer.catalogue import Catalogue, Committer
from indexer.datadir import DataDir
from indexer.devices import Devices
from indexer.embedding import embed_missing
from indexer.encoder import Encoder
from indexer.errors import Damaged, GateFailed, GenerationDamaged, GenerationNotFound, NotReady, NotServing
from indexer.gates import Gate, RecallLimits, failures, passed, recall_gates
from indexer.generation import (
    Generation,
    GenerationInfo,
    State,
    gates_of,
    load_generation,
    load_info,
    numbers,
    remove_stale,
    set_live,
    state_of,
    write_verdict,
)
from indexer.index import Gallery, SearchParams, View
from indexer.lineage import load_lineage
from indexer.live import LiveGallery, Rebuild
from indexer.probe_recall import found_first, probes_of
from indexer.swap_history import note_live, note_swap

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Hears of a phase, "loading", "catching up", "checking" or "swap", how much of it is done, and of how much."""

_LOADS = 3  # after which a candidate that does not load is rejected
_WAIT_S = 0.05  # between two looks at whether a merge has ended


def _quiet(phase: str, done: int, total: int) -> None:
    """The progress that nobody wants to hear."""


@dataclass
class Promoter:
    """Promotes one generation at a time, in the caller's thread."""

    data: DataDir
    catalogue: Catalogue
    gallery: LiveGallery
    committer: Committer
    devices: Devices
    threads: int
    """As in `Encoder.load`."""
    keep_generations: int
    _one: threading.Lock = field(default_factory=threading.Lock, init=False)
    _closing: bool = field(default=False, init=False)
    _not_loaded: Counter[int] = field(default_factory=Counter, init=False)

    def promote(self, number: int, limits: RecallLimits, progress: Progress = _quiet) -> GenerationInfo:
        """Makes a generation live. A candidate is measured first, one that was live before is not.

        Errors, with the live generation as it was: GenerationNotFound; NotReady when it is live, or another promotion
        is under way; GateFailed, before any progress, when it was rejected before; GateFailed, GenerationDamaged and
        ModelDamaged, after which it is rejected; NotServing.
        """
        if not self._one.acquire(blocking=False):
            raise NotReady("another generation is being made live", field="number", got=number)
        try:
            info, state = self._promotable(number)
            return self._promote(info, state, limits, progress)
        finally:
            self._one.release()

    def close(self) -> None:
        """Ends a promotion that is under way, and lets no other begin."""
        self._closing = True
        with self._one:
            pass

    def _promotable(self, number: int) -> tuple[GenerationInfo, State]:
        if number not in numbers(self.data):
            raise GenerationNotFound(
                f"there is no generation {number}", field="number", got=number, expected="one of ListGenerations"
            )
        info = load_info(self.data, number)
        state = state_of(self.data, info)
        if state is State.LIVE:
            raise NotReady(f"generation {number} is live already", field="number", got=number)
        if state is State.REJECTED:
            raise GateFailed(
                f"generation {number} failed a gate and is never served: {failures(gates_of(self.data, info))}",
                field="number",
                got=number,
            )
        return info, state

    def _promote(self, info: GenerationInfo, state: State, limits: RecallLimits, progress: Progress) -> GenerationInfo:
        began = time.perf_counter()
        generation = self._loaded(info, state, progress)
        self.gallery.upcoming = generation.encoder
        try:
            self._embed_missing(generation.encoder, progress)  # most of it, before changes have to be kept
            with self._rebuilding(generation.encoder) as rebuild:
                self._embed_missing(generation.encoder, progress)
                gallery, gone = self._gallery_of(generation, rebuild.view)
                if state is State.CANDIDATE:
                    self._judge(generation, rebuild.view, gallery.view, limits, progress)
                progress("swap", 0, 1)
                self._check_closing()
                again = state is State.PREVIOUS
                self.committer.run(lambda: self._swap(rebuild, generation, gallery, gone, again=again)).result()
                self._remove_stale()  # while no merge can be about to publish one of the model that is live
        finally:
            self.gallery.upcoming = None
        progress("swap", 1, 1)
        log.info("generation %d is live after %.1f s", info.number, time.perf_counter() - began)
        return info

    def _remove_stale(self) -> None:
        try:
            remove_stale(self.data, self.keep_generations)
        except (OSError, Damaged) as error:
            log.warning("old generations could not be removed; the next swap tries again: %s", error)

    def _loaded(self, info: GenerationInfo, state: State, progress: Progress) -> Generation:
        """The generation, ready to answer at once. A candidate that does not load is rejected at the third attempt:
        where memory or open files have run out, what is sound looks damaged."""
        progress("loading", 0, 1)
        try:
            generation = load_generation(self.data, info.number, self.devices, self.threads)
            generation.encoder.warm()
        except Damaged as error:
            self._not_loaded[info.number] += 1
            if state is State.CANDIDATE and self._not_loaded[info.number] >= _LOADS:
                write_verdict(self.data, info.number, [Gate("loading", False, 0.0, 1.0, error.message)])
            raise
        generation.segment.use_gpus(self.devices.index_gpus)
        zero = np.zeros((1, generation.model.dimension), np.float32)
        generation.segment.search(zero, SearchParams().k)
        progress("loading", 1, 1)
        return generation

    def _embed_missing(self, encoder: Encoder, progress: Progress) -> None:
        def told(done: int, total: int) -> None:
            self._check_closing()
            progress("catching up", done, total)

        embed_missing(
            self.catalogue,
            encoder,
            lambda model, vectors: self.committer.store_vectors(model, vectors).result(),
            told,
        )

    @contextlib.contextmanager
    def _rebuilding(self, encoder: Encoder) -> Iterator[Rebuild]:
        """Changes are kept from here on. Waits until a merge that is under way has ended."""
        while (rebuild := self.committer.run(lambda: self.gallery.begin(encoder)).result()) is None:
            self._check_closing()
            time.sleep(_WAIT_S)
        try:
            yield rebuild
        finally:
            with contextlib.suppress(NotServing):  # the writer has failed, or the engine is closing
                self.committer.run(self.gallery.end)

    def _gallery_of(self, generation: Generation, view: View) -> tuple[Gallery, set[int]]:
        """The items of `view` over the generation's segment, with vectors by its model; and the seqs of those that the
        catalogue does not have any more, which the changes since the view have made dead."""
        since, gone = dict[int, NDArray[np.float32]](), set[int]()
        for chunk in self.catalogue.entries_with_vectors(generation.model.id, generation.info.seq):
            since.update((entry.seq, vector) for entry, vector in chunk if vector is not None)

        def vectors_of(seqs: NDArray[np.uint64]) -> NDArray[np.float32]:
            rows = np.zeros((len(seqs), generation.model.dimension), np.float32)
            for row, seq in enumerate(seqs.tolist()):
                if seq in since:
                    rows[row] = since[seq]
                else:
                    gone.add(seq)
            return rows

        return Gallery.rebase(view, generation.segment, vectors_of), gone

    def _judge(
        self, generation: Generation, before: View, after: View, limits: RecallLimits, progress: Progress
    ) -> None:
        """Probe recall through both galleries, which hold the same items. Errors: GateFailed, NotServing."""
        cohort_of = load_lineage(self.data.model(generation.model.id)).cohort_of()
        probes = probes_of(before, cohort_of)
        served, candidate = {}, {}
        for step, (cohort, ids) in enumerate(probes.items()):
            self._check_closing()
            progress("checking", step, len(probes))
            served[cohort], candidate[cohort] = found_first(before, ids), found_first(after, ids)
        gates = recall_gates(served, candidate, None, limits)
        write_verdict(self.data, generation.number, gates)
        if not passed(gates):
            raise GateFailed(
                f"generation {generation.number} is not served: {failures(gates)}",
                field="number",
                got=generation.number,
            )

    def _swap(self, rebuild: Rebuild, generation: Generation, gallery: Gallery, gone: set[int], *, again: bool) -> None:
        self.gallery.catch_up(rebuild, gallery)
        view = gallery.view
        if gone and gone.intersection(view.attributes.seqs(view.rows)[view.live_rows()].tolist()):
            raise GenerationDamaged(f"items of generation {generation.number} have no vector", got=generation.number)
        # While the model before is still live: a row of its own that is missing would break the lineage for good.
        note_live(self.data, self.catalogue.history, self.gallery.live.current.generation.info)
        set_live(self.data, generation.number)
        self.gallery.swap(generation, gallery)
        note_swap(self.data, self.catalogue.history, generation.info, again=again)

    def _check_closing(self) -> None:
        if self._closing:
            raise NotServing("the engine is closing")
