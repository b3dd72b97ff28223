"""What the services share: running a job with the call's deadline, and reading the catalogue off the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from grpc import aio

from indexer.catalogue import Applied, Delete, MetadataValue, Put
from indexer.engine import Engine
from indexer.errors import NotServing
from indexer.index import SearchParams
from indexer.validate import Limits
from server.budget import Budget
from server.jobs import Answer, ImageQuery, IngestJob, ItemQuery, Job, QueryJob, VectorQuery, Written
from server.metrics import Metrics
from server.pipeline import Pipeline

if TYPE_CHECKING:
    from server.tracing import Tracing

T = TypeVar("T")
Context = aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class Calls:
    """The parts that serve a call."""

    engine: Engine
    pipeline: Pipeline
    limits: Limits
    writes: Budget
    metrics: Metrics
    readers: ThreadPoolExecutor
    stopping: asyncio.Event
    """Set when the server has begun to stop: no new work is taken."""
    tracing: Tracing | None = None
    """None where no traces are made."""

    def check_serving(self) -> None:
        """Errors: NotServing when the server is stopping or its writer has failed."""
        if self.stopping.is_set():
            raise NotServing("the server is stopping", retry_after_s=1.0)
        self.engine.check()

    async def ask(
        self, query: ImageQuery | VectorQuery | ItemQuery, params: SearchParams | None, context: Context
    ) -> Answer:
        """Runs one query. Errors: QueueFull at once; DeadlinePassed; whatever the query itself runs into."""
        self.check_serving()
        job = QueryJob(asyncio.get_running_loop().create_future(), deadline_of(context), query, params)
        self.pipeline.submit(job)
        with self._traced(job):
            return await job.future

    async def write(
        self, id: str, category: str, metadata: dict[str, MetadataValue], image: bytes | None, *, deadline: float | None
    ) -> Written:
        """Writes one item, checked before. `image` None keeps the photo that the item has.

        The caller holds the budget for it. Errors: ItemNotFound, ImageUnreadable, ImageTooLarge, QueueFull, ...
        """
        if image is not None:
            job = IngestJob(asyncio.get_running_loop().create_future(), deadline, id, category, metadata, image)
            self.pipeline.submit(job)
            with self._traced(job):
                written = await job.future
        else:
            applied = await asyncio.wrap_future(self.engine.submit(Put(id, category, metadata, None)))
            written = Written(applied, self.engine.live.current)
        self.metrics.items_written.labels(outcome=written.applied.outcome.value).inc()
        return written

    @contextlib.contextmanager
    def _traced(self, job: Job) -> Iterator[None]:
        """The block waits for the job."""
        try:
            yield
        finally:
            if self.tracing is not None:
                self.tracing.job(job)

    async def delete(self, id: str) -> Applied:
        """Removes one item. Errors: ItemNotFound, QueueFull."""
        applied = await asyncio.wrap_future(self.engine.submit(Delete(id)))
        self.metrics.items_written.labels(outcome=applied.outcome.value).inc()
        return applied

    async def read(self, function: Callable[..., T], *args: Any) -> T:
        """Runs a blocking read of the catalogue in a thread, in the context of the call."""
        run = contextvars.copy_context().run
        return await asyncio.get_running_loop().run_in_executor(self.readers, run, function, *args)


def deadline_of(context: Context) -> float | None:
    """The call's deadline as `time.monotonic()`; None when it has none."""
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining
