"""Merging: in the background the delta becomes part of the next main segment, the next generation of the same model."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from indexer.catalogue import Committer
from indexer.datadir import DataDir
from indexer.errors import NotServing
from indexer.generation import Generation, publish_generation, remove_stale, set_live
from indexer.index import Gallery, Segment
from indexer.live import LiveGallery, Rebuild

log = logging.getLogger(__name__)

_RETRY_S = 60.0  # after a merge that failed, for want of disk space for example


@dataclass(frozen=True)
class MergeRule:
    """When a merge is due."""

    min_entries: int
    """Entries of the delta, or tombstones, below which nothing is merged."""
    ratio: float
    """Delta or tombstones, as a share of the main segment, from which a merge begins."""


@dataclass
class Merger:
    """Starts a merge when one is due. `start_if_due` belongs to the writer's thread; `close` is for the owner's."""

    data: DataDir
    gallery: LiveGallery
    committer: Committer
    rule: MergeRule
    keep_generations: int
    gpus: int
    on_merge: Callable[[bool], None]
    _thread: threading.Thread | None = field(default=None, init=False)
    _again_at: float = field(default=0.0, init=False)
    _closing: bool = field(default=False, init=False)

    def start_if_due(self) -> None:
        """Also called after every change."""
        view = self.gallery.live.current.view
        due = max(self.rule.min_entries, self.rule.ratio * len(view.segment))
        if self._closing or time.monotonic() < self._again_at or max(len(view.delta), view.tombstones) < due:
            return
        rebuild = self.gallery.begin(self.gallery.live.current.generation.encoder)
        if rebuild is not None:
            self._thread = threading.Thread(target=self._merge, args=(rebuild,), name="merge", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Ends a merge that is under way, without its result, and lets no other begin."""
        self._closing = True
        with contextlib.suppress(NotServing):  # the writer has failed, and starts no merge any more
            self.committer.run(lambda: None).result()  # whoever was about to start a merge has started it
        thread = self._thread
        if thread is not None:
            thread.join()

    def _merge(self, rebuild: Rebuild) -> None:
        began = time.perf_counter()
        try:
            vectors, seqs = rebuild.view.live_vectors()
            segment = Segment.build(vectors, seqs, gpus=self.gpus, progress=self._check_closing)
            segment.use_gpus(self.gpus)
            info = publish_generation(self.data, rebuild.encoder.manifest.id, rebuild.view.seq, segment)
            gallery = Gallery.rebase(rebuild.view, segment)
            generation = Generation(info, rebuild.encoder, segment)
            self.committer.run(lambda: self._hand_over(rebuild, generation, gallery)).result()
        except Exception as error:
            if not self._closing:
                log.error("the merge failed; the index stays as it is", exc_info=error)
            self._finish(ok=False)
            return
        log.info("merged %d entries in %.1f s: generation %d", len(segment), time.perf_counter() - began, info.number)
        try:
            remove_stale(self.data, self.keep_generations)
        except Exception as error:  # the merge itself is done
            log.warning("old generations could not be removed; the next merge tries again: %s", error)
        self._finish(ok=True)

    def _check_closing(self, step: str, done: float) -> None:
        if self._closing:
            raise NotServing("the engine is closing")

    def _hand_over(self, rebuild: Rebuild, generation: Generation, gallery: Gallery) -> None:
        self.gallery.catch_up(rebuild, gallery)
        set_live(self.data, generation.number)
        self.gallery.swap(generation, gallery)

    def _finish(self, *, ok: bool) -> None:
        """The last step of the merging thread: only now may another rebuild begin."""
        with contextlib.suppress(NotServing):  # the engine is closing, or its writer has failed
            self.committer.run(lambda: self._end(ok))
        if not self._closing:
            self.on_merge(ok)

    def _end(self, ok: bool) -> None:
        self.gallery.end()
        if not ok:
            self._again_at = time.monotonic() + _RETRY_S
        self.start_if_due()  # what came meanwhile may be enough for the next one
