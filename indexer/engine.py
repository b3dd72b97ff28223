"""The engine: what a program opens to store, find and remove items. Ties catalogue, generation and index together.

    with Engine(data, Options()) as engine:
        serving = engine.live.current                       # take it once per query
        vectors = serving.generation.encoder.encode(pixels)
        hits = serving.view.search(vectors, SearchParams(k=10))
        engine.submit(Put(...)).result()                    # durable, and in engine.live.current from now on

One thread writes: the committer's. After each transaction it applies the changes to the gallery and assigns a new
`Serving`, and only then are the callers told. A merge runs in a thread beside it: it builds the next main segment from
a frozen view, and hands over in the writer's thread, with no change in flight.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from indexer import devices as available
from indexer.catalogue import Applied, Capacity, Catalogue, Change, Committer, Entry
from indexer.datadir import DataDir, Lock
from indexer.devices import DeviceInfo, Devices
from indexer.encoder import Encoder
from indexer.errors import EverlookError, GenerationDamaged, NotServing
from indexer.files import sweep
from indexer.generation import (
    Generation,
    Live,
    Serving,
    live_number,
    load_generation,
    load_info,
    numbers,
    publish_generation,
    remove_stale,
    set_live,
)
from indexer.images import ImageLimits, preprocess
from indexer.index import Gallery, Removal, Segment, Upsert
from indexer.model import load_manifest

__all__ = ["Engine", "Options", "Serving"]

log = logging.getLogger(__name__)

_HEAL_BATCH = 64
_MERGE_RETRY_S = 60.0  # after a merge that failed, for want of disk space for example


@dataclass(frozen=True)
class Options:
    """How the engine works."""

    database_url: str | None = None
    """SQLAlchemy URL; None is SQLite in the data directory."""
    encoder_threads: int = 1
    """Threads that one image may take while nothing else is being encoded; batches take one each."""
    merge_min_entries: int = 1024
    """Entries of the delta, or tombstones, below which nothing is merged."""
    merge_ratio: float = 0.1
    """Delta or tombstones, as a share of the main segment, from which a merge begins."""
    keep_generations: int = 2
    """Generations kept on disk, the live one included."""
    image_limits: ImageLimits = field(default_factory=ImageLimits)
    capacity: Capacity = field(default_factory=Capacity)
    on_merge: Callable[[bool], None] = lambda ok: None
    """Told after each merge whether it ended well; called in the merging thread."""
    on_failure: Callable[[BaseException], None] = lambda error: None
    """Told when the writer has stopped and the engine must be opened anew; called in the writer's thread."""


class Engine:
    """`with Engine(...)` locks and opens the data directory, and closes it. Every thread may call its methods."""

    def __init__(self, data: DataDir, options: Options | None = None, devices: Devices | None = None) -> None:
        self.data = data
        self._options = options or Options()
        self._devices = devices
        self._stack = ExitStack()
        self._merging: threading.Thread | None = None
        """The merge that is under way. Assigned in the writer's thread only, like `_since_merge`."""
        self._since_merge: list[list[Upsert | Removal]] | None = None
        """Changes since the view that is being merged; None while nothing is. Touched by the writer's thread only."""
        self._merge_again_at = 0.0
        self._closing = False
        self.catalogue: Catalogue
        self.live: Live

    def __enter__(self) -> Self:
        """Errors: NotServing when another process has the directory or no model is there; Damaged."""
        with ExitStack() as stack:
            self.data.create()
            stack.enter_context(Lock(self.data))
            sweep(self.data.root)
            sweep(self.data.generations)
            self.catalogue = stack.enter_context(Catalogue.open(self._options.database_url or self.data.catalogue_url))
            self._devices = self._devices or available.detect()
            self._committer = Committer(
                self.catalogue, self._options.capacity, self._on_commit, self._options.on_failure
            )
            generation = self._load_live()
            generation.segment.use_gpus(self._gpus)
            try:
                remove_stale(self.data, self._options.keep_generations)  # what a kill in a merge left
            except OSError as error:
                log.warning("old generations could not be removed: %s", error)
            stack.enter_context(self._committer)
            self._heal(generation.encoder)
            self._gallery = Gallery.open(generation.segment, self._entries(generation), seq=self.catalogue.last_seq)
            self.live = Live(Serving(generation, self._gallery.view))
            stack.callback(self._stop_merging)
            self._stack = stack.pop_all()
        self._committer.run(self._merge_if_due)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def writing(self) -> bool:
        """Whether the writer works."""
        return self._committer.failed is None

    def check(self) -> None:
        """Errors: NotServing once the writer has stopped: until it is reopened, memory may be behind the disk."""
        if not self.writing:
            raise NotServing("the catalogue's writer has stopped; the server must be restarted")

    def submit(self, change: Change) -> Future[Applied]:
        """Queues a write. Its future resolves when it is durable and every search finds it.

        Errors, at once: QueueFull, NotServing. Of the future: ItemNotFound, StorageFull, CatalogueDamaged, NotServing.
        """
        return self._committer.submit(change)

    @property
    def device_infos(self) -> list[DeviceInfo]:
        """What encoding and searching run on."""
        if self._devices is None:
            return []
        return [self.live.current.generation.encoder.device, self._devices.index_device(1)]

    @property
    def _gpus(self) -> int:
        return self._devices.index_gpus if self._devices else 0

    @property
    def queued_writes(self) -> int:
        """Writes accepted and not yet answered."""
        return self._committer.depth

    # ------------------------------------------------------------------------------------------------ opening

    def _load_live(self) -> Generation:
        """The live generation. One that is damaged is built again from the catalogue, which holds its vectors."""
        devices, threads = self._devices or available.detect(), self._options.encoder_threads
        number = None
        try:
            number = live_number(self.data)
            if number is not None:
                return load_generation(self.data, number, devices, threads)
        except GenerationDamaged as error:
            log.warning("%s; it is built again from the catalogue", error)
        model = self._model_of(number)
        encoder = Encoder.load(self.data.model(model), devices, threads)
        segment = Segment.build(np.empty((0, encoder.manifest.dimension), np.float32), np.empty(0, np.uint64))
        info = publish_generation(self.data, self._next_number(), model, 0, segment)
        set_live(self.data, info.number)
        return Generation(info, encoder, segment)

    def _next_number(self) -> int:
        return max(numbers(self.data), default=0) + 1

    def _model_of(self, number: int | None) -> str:
        """The model of a damaged generation, as far as it can be told; otherwise the one model that is published.

        Errors: NotServing when there is none, or more than one.
        """
        if number is not None:
            with contextlib.suppress(GenerationDamaged):
                return load_info(self.data, number).model
        found = published_models(self.data)
        if len(found) != 1:
            raise NotServing(
                "there is no model to serve: export one with `python -m trainer export --data DIR`"
                if not found
                else f"no generation is live, and {len(found)} models are there to begin with; leave one",
                got=f"{len(found)} models",
                expected="one",
            )
        return found[0]

    def _entries(self, generation: Generation) -> Iterator[tuple[Entry, NDArray[np.float32] | None]]:
        """All live entries in the order of `seq`; with vectors where the main segment has none."""
        boundary = generation.info.seq
        old = itertools.takewhile(lambda entry: entry.seq <= boundary, self.catalogue.entries())
        for entry in old:
            yield entry, None
        for chunk in self.catalogue.entries_with_vectors(generation.model.id, boundary):
            yield from chunk

    def _heal(self, encoder: Encoder) -> None:
        """Embeds photos that have no vector of the live model, such as those written while another was live."""
        missing = list(self.catalogue.missing_vectors(encoder.manifest.id))
        if missing:
            log.info("embedding %d photos that have no vector of the live model", len(missing))
        spec, limits = encoder.manifest.preprocessing, self._options.image_limits
        for start in range(0, len(missing), _HEAL_BATCH):
            batch = missing[start : start + _HEAL_BATCH]
            pixels = [preprocess(self.catalogue.photo(sha256).data, spec, limits)[0] for sha256 in batch]
            vectors = encoder.encode(np.stack(pixels))
            self._committer.store_vectors(encoder.manifest.id, dict(zip(batch, vectors, strict=True))).result()

    # ------------------------------------------------------------------------------------------------ writer's thread

    def _on_commit(self, applied: list[Applied]) -> None:
        changes = [_to_index(each) for each in applied]
        view = self._gallery.apply(changes)
        self.live.current = Serving(self.live.current.generation, view)
        if self._since_merge is not None:
            self._since_merge.append(changes)
        self._merge_if_due()

    def _merge_if_due(self) -> None:
        view = self.live.current.view
        due = max(self._options.merge_min_entries, self._options.merge_ratio * len(view.segment))
        if self._closing or self._merging is not None:
            return
        if time.monotonic() >= self._merge_again_at and max(len(view.delta), view.tombstones) >= due:
            self._since_merge = []
            self._merging = threading.Thread(target=self._merge, args=(self.live.current,), name="merge", daemon=True)
            self._merging.start()

    # ------------------------------------------------------------------------------------------------ merging

    def _merge(self, serving: Serving) -> None:
        """Builds the next generation of the same model from one frozen view, and swaps to it."""
        began = time.perf_counter()
        try:
            vectors, seqs = serving.view.live_vectors()
            segment = Segment.build(vectors, seqs, gpus=self._gpus, progress=self._check_closing)
            segment.use_gpus(self._gpus)
            info = publish_generation(
                self.data, self._next_number(), serving.generation.model.id, serving.view.seq, segment
            )
            gallery = Gallery.rebase(serving.view, segment)
            generation = Generation(info, serving.generation.encoder, segment)
            self._committer.run(lambda: self._hand_over(generation, gallery)).result()
        except Exception as error:
            if not self._closing:
                log.error("the merge failed; the index stays as it is", exc_info=error)
            self._finish_merge(ok=False)
            return
        log.info("merged %d entries in %.1f s: generation %d", len(segment), time.perf_counter() - began, info.number)
        try:
            remove_stale(self.data, self._options.keep_generations)
        except Exception as error:  # the merge itself is done
            log.warning("old generations could not be removed; the next merge tries again: %s", error)
        self._finish_merge(ok=True)

    def _check_closing(self, step: str, done: float) -> None:
        if self._closing:
            raise NotServing("the engine is closing")

    def _hand_over(self, generation: Generation, gallery: Gallery) -> None:
        for changes in self._since_merge or ():
            gallery.apply(changes)
        set_live(self.data, generation.number)
        self._gallery = gallery
        self.live.current = Serving(generation, gallery.view)
        self._since_merge = None

    def _finish_merge(self, *, ok: bool) -> None:
        """The last step of the merging thread: only now may another merge begin."""
        with contextlib.suppress(NotServing):  # the engine is closing, or its writer has failed
            self._committer.run(lambda: self._end_merge(ok))
        if not self._closing:
            self._options.on_merge(ok)

    def _end_merge(self, ok: bool) -> None:
        self._merging = self._since_merge = None
        if not ok:
            self._merge_again_at = time.monotonic() + _MERGE_RETRY_S
        self._merge_if_due()  # what came meanwhile may be enough for the next one

    def _stop_merging(self) -> None:
        self._closing = True
        with contextlib.suppress(NotServing):  # the writer has failed, and starts no merge any more
            self._committer.run(lambda: None).result()  # whoever was about to start a merge has started it
        merging = self._merging
        if merging is not None:
            merging.join()


def published_models(data: DataDir) -> list[str]:
    """Ids of the models in the data directory whose manifest can be read."""
    found = []
    for folder in sorted(data.models.iterdir()) if data.models.is_dir() else ():
        try:
            found.append(load_manifest(folder, verify=False).id)
        except EverlookError as error:
            log.warning("%s is not a model: %s", folder.name, error)
    return found


def _to_index(applied: Applied) -> Upsert | Removal:
    if applied.entry is None:
        return Removal(applied.seq, applied.id)
    if applied.vector is None:
        raise RuntimeError(f"item {applied.id!r} was committed without a vector")
    entry = applied.entry
    return Upsert(entry.seq, entry.id, entry.category, entry.metadata, applied.vector)
