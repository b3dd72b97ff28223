"""What the server says of itself: to Status, WatchStatus and ListGenerations, and to Prometheus."""

from __future__ import annotations

import contextlib
import functools
import time
from importlib.metadata import PackageNotFoundError, version

from indexer.engine import Engine
from indexer.errors import Damaged
from indexer.generation import gates_of
from indexer.validate import Limits
from server import wire
from server.batching import Lane
from server.events import Look
from server.generations import add_gates, listed
from server.learning import Learning
from server.metrics import Snapshot
from server.pipeline import Pipeline
from server.progress import Progress
from server.settings import Settings
from server.swapper import Swapper
from server.wire import pb


class ServerState:
    """Reads the running parts. Its methods block on the catalogue and the disk: not for the event loop."""

    def __init__(
        self,
        engine: Engine,
        pipeline: Pipeline,
        settings: Settings,
        limits: Limits,
        learning: Learning,
        swapper: Swapper,
        progress: Progress,
    ) -> None:
        self._engine = engine
        self._pipeline = pipeline
        self._settings = settings
        self._limits = limits
        self._learning = learning
        self._swapper = swapper
        self._progress = progress
        self._started_at = time.time()

    def status(self) -> pb.StatusResponse:
        """The whole status."""
        totals = self._engine.catalogue.totals()
        return pb.StatusResponse(
            version=everlook_version(),
            started_at=wire.timestamp(self._started_at),
            serving=self._engine.writing,
            generation=self.live(),
            catalogue=pb.CatalogueStatus(
                items=totals.items,
                categories=totals.categories,
                images=totals.photos,
                image_bytes=totals.photo_bytes,
                seq=totals.last_seq,
            ),
            devices=[
                pb.Device(role=each.role, provider=each.provider, threads=each.threads, note=each.note)
                for each in self._engine.device_infos
            ],
            queues=[
                pb.Queue(name=name, depth=depth, capacity=capacity)
                for name, (depth, capacity) in self._queues().items()
            ],
            limits=self._limits_message(),
            programs=self._progress.programs(),
            training=self._progress.training(),
        )

    def look(self) -> Look:
        """What a watch compares."""
        failure = self._swapper.failure
        return Look(
            self.status(),
            {each.number: each for each in self.generations() if each.number},
            {record.training.number: record for record in self._learning.records()},
            "" if failure is None else failure.reason,
        )

    def generations(self) -> list[pb.Generation]:
        """The generations on disk and the models that never had one, newest first. Only what can be read is listed."""
        live = self.live()
        found = listed(self._engine.data, self._references, hold=self._swapper.hold)
        return [live if each.number == live.number else each for each in found]

    def snapshot(self) -> Snapshot:
        """What one Prometheus scrape reads off memory."""
        live = self._engine.live.current
        return Snapshot(
            gauges={
                "main_entries": ("Entries of the main segment.", len(live.view.segment)),
                "delta_entries": ("Entries of the delta.", len(live.view.delta)),
                "tombstones": ("Dead entries of main segment and delta.", live.view.tombstones),
                "writes_pending": ("Writes handed to the catalogue and not yet durable.", self._engine.queued_writes),
            },
            queues=self._queues(),
            info={
                "number": str(live.generation.number),
                "model": live.generation.model.id,
                "index": live.generation.segment.kind,
                "version": everlook_version(),
            },
        )

    def held(self) -> dict[str, tuple[str, float]]:
        """The gauges of the catalogue, with their help, by name without prefix. Errors: those of the catalogue."""
        totals = self._engine.catalogue.totals()
        return {
            "items": ("Items in the catalogue.", totals.items),
            "categories": ("Categories that have items.", totals.categories),
            "photos": ("Photos in the catalogue.", totals.photos),
            "photo_bytes": ("Size of the photos in bytes.", totals.photo_bytes),
            "catalogue_seq": ("The last change of the catalogue.", totals.last_seq),
        }

    def _queues(self) -> dict[str, tuple[int, int]]:
        queue = self._pipeline.queue
        return {lane.label: (queue.depth(lane), queue.capacity(lane)) for lane in Lane}

    def live(self) -> pb.Generation:
        """The generation that serves."""
        serving = self._engine.live.current
        generation, view = serving.generation, serving.view
        message = pb.Generation(
            number=generation.number,
            model=wire.model(generation.model),
            state=pb.GENERATION_STATE_LIVE,
            created_at=wire.timestamp(generation.info.created_at),
            main_entries=len(view.segment),
            delta_entries=len(view.delta),
            tombstones=view.tombstones,
            index=generation.segment.kind,
            seq=generation.info.seq,
        )
        if generation.segment.recall is not None:
            message.index_recall = generation.segment.recall
        with contextlib.suppress(Damaged):  # what it was measured by is of no use to those who search
            references = self._references(generation.model.id)
            add_gates(message, gates_of(self._engine.data, generation.info), references)
        return message

    def _references(self, model: str) -> dict[int, float]:
        """Recall@1 of each cohort when its stage went live, as the server measured it through the gallery; where that
        is not known, as the trainer did when it published the stage. A model that has not been live has its base's.

        Errors: ModelDamaged.
        """
        history = self._engine.history
        measured = history.references(model) or history.references(self._learning.lineage(model).base)
        return {**self._learning.references(), **{cohort: each.recall_1 for cohort, each in measured.items()}}

    def _limits_message(self) -> pb.Limits:
        limits, settings = self._limits, self._settings
        return pb.Limits(
            dimension=self._engine.live.current.generation.model.dimension,
            max_k=limits.max_k,
            max_batch=limits.max_batch,
            max_batch_get=limits.max_batch_get,
            max_image_bytes=settings.max_image_bytes,
            max_image_pixels=settings.max_image_pixels,
            max_message_bytes=settings.max_message_bytes,
            max_id_bytes=limits.max_id_bytes,
            max_category_bytes=limits.max_category_bytes,
            max_metadata_keys=limits.max_metadata_keys,
            max_metadata_key_bytes=limits.max_metadata_key_bytes,
            max_metadata_value_bytes=limits.max_metadata_value_bytes,
            ingest_window=settings.ingest_window,
        )


@functools.cache  # files are read for it, and each scrape asks
def everlook_version() -> str:
    """The installed version; "unknown" in a bare checkout."""
    try:
        return version("everlook")
    except PackageNotFoundError:
        return "unknown"
