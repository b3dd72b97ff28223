"""The worker threads between the network and the engine.

Each takes a batch and carries it all the way by itself: decode, encode, then search or hand to the catalogue. So two
cores run two batches, with nothing to wait for in between.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from indexer.catalogue import Applied, Photo, Put
from indexer.encoder import Encoder
from indexer.engine import Engine, Serving
from indexer.errors import DeadlinePassed, EverlookError, ItemNotFound, ModelMismatch, NotServing
from indexer.images import ImageInfo, ImageLimits, preprocess
from indexer.index import SearchParams
from indexer.model import Manifest
from indexer.validate import unit_vector
from server import logs
from server.batching import Lane, LaneLimits, WorkQueue
from server.jobs import Answer, ImageQuery, IngestJob, ItemQuery, Job, QueryJob, VectorQuery, Written
from server.metrics import Metrics

log = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]
Outcome = tuple[Job, Any]
"""A job and its result, or the exception that it ends with."""


class Pipeline:
    """`async with` starts the workers and, at the end, lets them finish what waits.

    `submit` is for the event loop that entered the pipeline.
    """

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        *,
        threads: int,
        lanes: Mapping[Lane, LaneLimits],
        patience_s: float,
        image_limits: ImageLimits,
        on_failure: Callable[[BaseException], None],
        on_answers: Callable[[Sequence[tuple[QueryJob, Answer]]], None] | None = None,
    ) -> None:
        """`on_failure` hears of the end of a worker; `on_answers` of the queries of a batch that were answered, in the
        worker's thread, once they are delivered: it must cost next to nothing and never wait."""
        self._engine = engine
        self._metrics = metrics
        self._image_limits = image_limits
        self._on_failure = on_failure
        self._on_answers = on_answers
        self.queue: WorkQueue[Job] = WorkQueue(lanes, patience_s=patience_s)
        self._threads = [threading.Thread(target=self._work, name=f"worker-{i}", daemon=True) for i in range(threads)]
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.queue.close()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def submit(self, job: Job) -> None:
        """Queues a job; its future resolves on the event loop. Errors: QueueFull at once."""
        self.queue.put(job)

    def _work(self) -> None:
        while self._work_off():
            pass

    def _work_off(self) -> bool:
        """Waits for a batch and works it off; False once there will be none. A worker that waits holds nothing of the
        batch before, or the generation that answered it could not go."""
        taken = self.queue.take()
        if taken is None:
            return False
        jobs, expired = taken
        self._drop(expired)
        if not jobs:
            return True
        logs.work_for(job.request for job in jobs)
        try:
            if isinstance(jobs[0], QueryJob):
                outcomes = self._answer([job for job in jobs if isinstance(job, QueryJob)])
            else:
                outcomes = self._write([job for job in jobs if isinstance(job, IngestJob)])
        except Exception as error:  # the batch fails as a whole; the worker lives on
            outcomes = [(job, error) for job in jobs]
        except BaseException as error:
            self._on_failure(error)
            self._die(jobs)
            raise
        self._deliver(outcomes)
        self._tell(outcomes)
        return True

    def _tell(self, outcomes: Sequence[Outcome]) -> None:
        """Tells who watches of the answers. A watch that fails takes no worker with it."""
        if self._on_answers is None:
            return
        answered = [(job, got) for job, got in outcomes if isinstance(job, QueryJob) and isinstance(got, Answer)]
        try:
            if answered:
                self._on_answers(answered)
        except Exception:
            log.exception("answers could not be watched")

    def _die(self, jobs: Sequence[Job]) -> None:
        """Fails these jobs, all that wait, and all that come, since nobody may be left to do them."""
        dead = NotServing("a worker has died; the server must be restarted", retry_after_s=5.0)
        self._deliver([(job, dead) for job in jobs])
        self.queue.close()
        while (rest := self.queue.take()) is not None:
            self._deliver([(job, dead) for waiting in rest for job in waiting])

    def _drop(self, expired: Sequence[Job]) -> None:
        for job in expired:
            self._metrics.expired.labels(lane=job.lane.label).inc()
        error = DeadlinePassed("the deadline passed while the call waited; nothing was done")
        self._deliver([(job, error) for job in expired])

    def _deliver(self, outcomes: Sequence[Outcome]) -> None:
        """Resolves futures on the event loop, a whole batch in one wake-up."""
        if outcomes and self._loop is not None:
            self._loop.call_soon_threadsafe(_resolve, outcomes)

    # ------------------------------------------------------------------------------------------------ decode, encode

    def _decode(
        self, serving: Serving, jobs: Sequence[Job], photos: Sequence[bytes]
    ) -> list[tuple[Pixels, ImageInfo] | EverlookError]:
        spec = serving.generation.model.preprocessing
        decoded: list[tuple[Pixels, ImageInfo] | EverlookError] = []
        for job, photo in zip(jobs, photos, strict=True):
            began = time.perf_counter()
            try:
                decoded.append(preprocess(photo, spec, self._image_limits))
            except EverlookError as error:
                decoded.append(error)
            job.timing.began["decode"] = began
            job.timing.decode_s = time.perf_counter() - began
        if jobs:
            self._observe(jobs[0].lane, decode=sum(job.timing.decode_s for job in jobs))
        return decoded

    def _encode(self, encoder: Encoder, jobs: Sequence[Job], pixels: Sequence[Pixels]) -> NDArray[np.float32]:
        began = time.perf_counter()
        vectors = encoder.encode(np.stack(pixels))
        took = time.perf_counter() - began
        self._observe(jobs[0].lane, encode=took)
        for job in jobs:
            job.timing.began.setdefault("encode", began)
            job.timing.encode_s += took
        return vectors

    def _begin(self, jobs: Sequence[Job]) -> None:
        now = time.monotonic()
        lane = jobs[0].lane.label
        self._metrics.batch_jobs.labels(lane=lane).observe(len(jobs))
        waited = self._metrics.stage_seconds.labels(lane=lane, stage="queue")
        for job in jobs:
            job.timing.queue_s = now - job.enqueued_at
            waited.observe(job.timing.queue_s)

    def _observe(self, lane: Lane, **stages: float) -> None:
        for stage, seconds in stages.items():
            self._metrics.stage_seconds.labels(lane=lane.label, stage=stage).observe(seconds)

    # ------------------------------------------------------------------------------------------------ queries

    def _answer(self, jobs: Sequence[QueryJob]) -> list[Outcome]:
        self._begin(jobs)
        serving = self._engine.live.current
        failed: list[Outcome] = []
        found: list[tuple[QueryJob, NDArray[np.float32]]] = []
        photos = [job for job in jobs if isinstance(job.query, ImageQuery)]
        decoded = self._decode(serving, photos, [job.query.data for job in photos if isinstance(job.query, ImageQuery)])
        good: list[tuple[QueryJob, Pixels]] = []
        for job, result in zip(photos, decoded, strict=True):
            if isinstance(result, EverlookError):
                failed.append((job, result))
            else:
                good.append((job, result[0]))
        if good:
            encoder = serving.generation.encoder
            vectors = self._encode(encoder, [job for job, _ in good], [pixels for _, pixels in good])
            found += [(job, vector) for (job, _), vector in zip(good, vectors, strict=True)]
        for job in jobs:
            if not isinstance(job.query, ImageQuery):
                try:
                    found.append((job, _vector_of(serving, job.query)))
                except EverlookError as error:
                    failed.append((job, error))
        return failed + self._search(serving, found)

    def _search(self, serving: Serving, queries: Sequence[tuple[QueryJob, NDArray[np.float32]]]) -> list[Outcome]:
        """Queries with the same parameters are searched as one batch."""
        outcomes: list[Outcome] = []
        groups: dict[SearchParams, list[tuple[QueryJob, NDArray[np.float32]]]] = defaultdict(list)
        for job, vector in queries:
            if job.params is None:
                outcomes.append((job, Answer(serving, vector, None, job.timing)))
            else:
                groups[job.params].append((job, vector))
        for params, group in groups.items():
            began = time.perf_counter()
            try:
                hits = serving.view.search(np.stack([vector for _, vector in group]), params)
            except EverlookError as error:
                outcomes += [(job, error) for job, _ in group]
                continue
            took = time.perf_counter() - began
            self._observe(Lane.QUERY, search=took)
            for (job, vector), found in zip(group, hits, strict=True):
                job.timing.began["search"], job.timing.search_s = began, took
                outcomes.append((job, Answer(serving, vector, found, job.timing)))
        return outcomes

    # ------------------------------------------------------------------------------------------------ writes

    def _write(self, jobs: Sequence[IngestJob]) -> list[Outcome]:
        """Embeds a batch of new photos and hands the items to the catalogue, which acknowledges each when it is durable
        and findable; returned are only those that failed before that."""
        self._begin(jobs)
        serving = self._engine.live.current
        failed: list[Outcome] = []
        good: list[tuple[IngestJob, Pixels, ImageInfo]] = []
        for job, result in zip(jobs, self._decode(serving, jobs, [job.image for job in jobs]), strict=True):
            if isinstance(result, EverlookError):
                failed.append((job, result))
            else:
                good.append((job, *result))
        if not good:
            return failed
        vectors = {
            encoder.manifest.id: self._embed(encoder, serving, good) for encoder in self._engine.encoders(serving)
        }
        for row, (job, _, info) in enumerate(good):
            photo = Photo(job.image, hashlib.sha256(job.image).hexdigest(), info.width, info.height, info.format)
            put = Put(job.id, job.category, job.metadata, photo, {model: made[row] for model, made in vectors.items()})
            try:
                committed = self._engine.submit(put)
            except EverlookError as error:
                failed.append((job, error))
                continue
            committed.add_done_callback(functools.partial(self._committed, job, time.perf_counter()))
        return failed

    def _embed(
        self, encoder: Encoder, serving: Serving, good: Sequence[tuple[IngestJob, Pixels, ImageInfo]]
    ) -> NDArray[np.float32]:
        """The vectors (N, D) of photos whose pixels are as the serving model wants them."""
        spec = encoder.manifest.preprocessing
        same = spec == serving.generation.model.preprocessing
        pixels = [given if same else preprocess(job.image, spec, self._image_limits)[0] for job, given, _ in good]
        return self._encode(encoder, [job for job, _, _ in good], pixels)

    def _committed(self, job: IngestJob, began: float, done: Future[Applied]) -> None:
        error = done.exception()
        job.timing.began["commit"], job.timing.commit_s = began, time.perf_counter() - began
        self._observe(Lane.INGEST, commit=job.timing.commit_s)
        self._deliver([(job, error or Written(done.result(), self._engine.live.current))])


def _resolve(outcomes: Sequence[Outcome]) -> None:
    for job, result in outcomes:
        if job.future.done():  # the caller has gone
            continue
        if isinstance(result, BaseException):
            job.future.set_exception(result)
        else:
            job.future.set_result(result)


def _vector_of(serving: Serving, query: VectorQuery | ItemQuery) -> NDArray[np.float32]:
    """The unit vector of a query that needs no encoding. Errors: ModelMismatch, InvalidVector, ItemNotFound."""
    if isinstance(query, VectorQuery):
        return _checked(serving.generation.model, query)
    row = serving.view.row_of(query.id)
    if row is None:
        raise ItemNotFound(f"no item has the id {query.id!r}", field="item_id", got=query.id, expected="a known id")
    return serving.view.vectors(np.array(row))


def _checked(model: Manifest, query: VectorQuery) -> NDArray[np.float32]:
    if query.model != model.id:
        raise ModelMismatch(
            "the vector is of another model than the one that serves; embed again",
            field="vector.model",
            got=query.model,
            expected=model.id,
        )
    return unit_vector(query.values, model.dimension, field="vector.values")
