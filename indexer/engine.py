"""The engine: what a program opens to store, find and remove items. Ties catalogue, generation and index together.

    with Engine(data, Options()) as engine:
        serving = engine.live.current                       # take it once per query
        vectors = serving.generation.encoder.encode(pixels)
        hits = serving.view.search(vectors, SearchParams(k=10))
        engine.submit(Put(...)).result()                    # durable, and in engine.live.current from now on
        engine.promote(number)                              # another model's generation goes live

One thread writes: the committer's. After each transaction it applies the changes to the gallery and assigns a new
`Serving`, and only then are the callers told (`live`). Merges (`merging`) and generations of other models (`promotion`)
are prepared beside it from a frozen view, and handed over in the writer's thread, with no change in flight.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from indexer import devices as available
from indexer.allocator import give_back_memory
from indexer.catalogue import Applied, Capacity, Catalogue, Change, Committer, Entry, History, Measurement
from indexer.datadir import DataDir, Lock
from indexer.devices import DeviceInfo, Devices
from indexer.embedding import embed_missing
from indexer.encoder import Encoder
from indexer.errors import EverlookError, GenerationDamaged, NotServing
from indexer.files import sweep
from indexer.gates import RecallLimits
from indexer.generation import (
    Generation,
    GenerationInfo,
    Live,
    Serving,
    live_number,
    load_generation,
    load_info,
    publish_generation,
    read_live,
    remove_stale,
    set_live,
    sweep_generations,
)
from indexer.index import Gallery, Segment
from indexer.live import LiveGallery
from indexer.merging import Merger, MergeRule
from indexer.model import load_manifest
from indexer.promotion import Progress, Promoter
from indexer.swap_history import note_live

__all__ = ["Engine", "Options", "Serving"]

log = logging.getLogger(__name__)

_DRAIN_S: Final = 1.0  # at most: a query that takes longer keeps its generation until it ends


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
    """Generations to go back to, the live one included: the newest of each model that was live."""
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
        self.catalogue: Catalogue

    def __enter__(self) -> Self:
        """Errors: NotServing when another process has the directory or no model is there; Damaged."""
        options = self._options
        with ExitStack() as stack:
            self.data.create()
            stack.enter_context(Lock(self.data))
            sweep(self.data.root)
            sweep(self.data.verdicts)
            sweep(self.data.requests)
            sweep_generations(self.data)
            self.catalogue = stack.enter_context(Catalogue.open(options.database_url or self.data.catalogue_url))
            self._devices = devices = self._devices or available.detect()
            self._committer = Committer(
                self.catalogue, options.capacity, self._on_commit, options.on_failure, lambda: self._gallery.models()
            )
            generation = self._load_live(devices)
            generation.segment.use_gpus(devices.index_gpus)
            try:
                remove_stale(self.data, options.keep_generations)  # what a kill in a merge left
            except (OSError, GenerationDamaged) as error:
                log.warning("old generations could not be removed: %s", error)
            stack.enter_context(self._committer)
            self._heal(generation.encoder)
            gallery = Gallery.open(generation.segment, self._entries(generation), seq=self.catalogue.last_seq)
            self._gallery = LiveGallery(self.catalogue, generation, gallery)
            self.note_live()
            self._merger = Merger(
                self.data,
                self._gallery,
                self._committer,
                MergeRule(options.merge_min_entries, options.merge_ratio),
                options.keep_generations,
                devices.index_gpus,
                options.on_merge,
            )
            stack.callback(self._merger.close)
            self._promoter = Promoter(
                self.data,
                self.catalogue,
                self._gallery,
                self._committer,
                devices,
                options.encoder_threads,
                options.keep_generations,
            )
            stack.callback(self._promoter.close)
            self._stack = stack.pop_all()
        self._committer.run(self._merger.start_if_due)
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

    def promote(
        self,
        number: int,
        *,
        limits: RecallLimits | None = None,
        progress: Progress = lambda phase, done, total: None,
    ) -> GenerationInfo:
        """Makes a generation of another model live, while queries are answered; returns when it is. Blocks meanwhile.

        A candidate's probe recall is measured first, against `limits` (None: the defaults); one that was live before is
        not judged again. `progress` hears of the phase and how much of it is done. When this returns, the generation
        before is drained and its memory given back. Errors: as `Promoter.promote`.
        """
        before = weakref.ref(self.live.current.generation)
        info = self._promoter.promote(number, limits or RecallLimits(), progress)
        until = time.monotonic() + _DRAIN_S
        while before() is not None and time.monotonic() < until:  # queries that began with it still hold it
            time.sleep(0.01)
        give_back_memory()
        with contextlib.suppress(NotServing):  # it is live, whatever comes after
            self._committer.run(self._merger.start_if_due)  # nobody may write for long
        return info

    @property
    def live(self) -> Live:
        """The one reference to what is served."""
        return self._gallery.live

    def encoders(self, serving: Serving) -> list[Encoder]:
        """What a new photo has to be embedded by: the model that serves, and one that is about to."""
        upcoming = self._gallery.upcoming
        return [serving.generation.encoder, *([upcoming] if upcoming is not None else [])]

    @property
    def device_infos(self) -> list[DeviceInfo]:
        """What encoding and searching run on."""
        if self._devices is None:
            return []
        return [self.live.current.generation.encoder.device, self._devices.index_device(1)]

    @property
    def history(self) -> History:
        """What was measured of the generations, and which went live; to be read, and added to by `record`."""
        return self.catalogue.history

    def note_live(self) -> None:
        """Adds the swap to the live generation to the history where it is missing: it could not be written when it
        happened. Never raises."""
        with contextlib.suppress(NotServing):  # the writer has stopped: the next start adds it
            self._committer.run(lambda: note_live(self.data, self.history, self.live.current.generation.info)).result()

    def record(self, measured: Measurement) -> None:
        """Adds a measurement to the history; returns when it is durable. Errors: StorageFull, NotServing."""
        self._committer.run(lambda: self.history.append(measured)).result()

    @property
    def queued_writes(self) -> int:
        """Writes accepted and not yet answered."""
        return self._committer.depth

    # ------------------------------------------------------------------------------------------------ opening

    def _load_live(self, devices: Devices) -> Generation:
        """The live generation. One that is damaged is built again from the catalogue, which holds its vectors."""
        threads = self._options.encoder_threads
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
        info = publish_generation(self.data, model, 0, segment, above=self._last_number())
        set_live(self.data, info.number, self._been_live())
        return Generation(info, encoder, segment)

    def _model_of(self, number: int | None) -> str:
        """The model of a generation that is lost or damaged: as the generation itself says, or live.json, or the
        history; otherwise the one model that is published.

        Errors: NotServing when there is none, or more than one.
        """
        if number is not None:
            with contextlib.suppress(GenerationDamaged):
                return load_info(self.data, number).model
        found = published_models(self.data)
        with contextlib.suppress(GenerationDamaged):
            if (live := read_live(self.data)) is not None and live.model in found:
                return live.model
        if len(found) > 1 and (last := self._been_live()[-1:]) and last[0] in found:
            return last[0]
        if len(found) != 1:
            raise NotServing(
                "there is no model to serve: export one with `python -m trainer export --data DIR`"
                if not found
                else f"no generation is live, and {len(found)} models are there to begin with; leave one",
                got=f"{len(found)} models",
                expected="one",
            )
        return found[0]

    def _been_live(self) -> list[str]:
        """The ids of the models that went live, by the history, the last one last; none where it cannot be read."""
        try:
            return [swap.model for swap in self.catalogue.history.swaps()]
        except EverlookError as error:
            log.warning("the history of what went live cannot be read: %s", error)
            return []

    def _last_number(self) -> int:
        """The highest number of a generation by the history, which a restored backup has where no file knows it; 0
        where it cannot be read."""
        try:
            return self.catalogue.history.last_generation()
        except EverlookError as error:
            log.warning("the history of what went live cannot be read: %s", error)
            return 0

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
        embedded = embed_missing(
            self.catalogue,
            encoder,
            lambda model, vectors: self._committer.store_vectors(model, vectors).result(),
        )
        if embedded:
            log.info("embedded %d photos that had no vector of the live model", embedded)

    # ------------------------------------------------------------------------------------------------ writer's thread

    def _on_commit(self, applied: list[Applied]) -> None:
        self._gallery.apply(applied)
        self._merger.start_if_due()


def published_models(data: DataDir) -> list[str]:
    """Ids of the models in the data directory whose manifest can be read."""
    found = []
    for folder in data.model_folders():
        try:
            found.append(load_manifest(folder, verify=False).id)
        except EverlookError as error:
            log.warning("%s is not a model: %s", folder.name, error)
    return found
