"""One ingest stream: items in as fast as the stream takes them, one acknowledgement for each out."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, AsyncIterator

from indexer.errors import NotServing
from server import wire
from server.interceptors import check_parsed
from server.observed import part_failed
from server.services.calls import Calls
from server.wire import pb


class IngestStream:
    """Reads, dispatches and acknowledges the items of one stream.

    At most `window` items are unacknowledged: beyond that the stream is not read, and HTTP/2 flow control stops the
    sender. An acknowledgement that the caller has not taken yet counts too, or those would pile up. Items with the same
    id are written in the order in which they came. When the server stops, the stream is read no more, what was read is
    acknowledged, and the stream ends with NotServing.
    """

    def __init__(self, calls: Calls, window: int) -> None:
        self._calls = calls
        self._room = asyncio.Semaphore(window)
        self._acks: asyncio.Queue[pb.IngestResponse | None] = asyncio.Queue()
        self._latest: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, requests: AsyncIterator[pb.IngestRequest]) -> AsyncGenerator[pb.IngestResponse, None]:
        """The acknowledgements, in the order in which they come about. Errors: NotServing, MalformedMessage."""
        reader = asyncio.create_task(self._read(requests))
        try:
            while (ack := await self._acks.get()) is not None:
                yield ack
                self._room.release()
            await reader  # raises what ended the reading
        finally:
            reader.cancel()
            for task in self._tasks:
                task.cancel()  # nobody is left to be told; what has reached the catalogue is written all the same
            await asyncio.gather(reader, *self._tasks, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[pb.IngestRequest]) -> None:
        stopping = asyncio.create_task(self._calls.stopping.wait())
        try:
            while await self._room.acquire() and (request := await _next(requests, stopping)) is not None:
                check_parsed(request)
                # Waits for its turn here, so that no more is read while all writers together are at their bound.
                await self._calls.writes.acquire(len(request.image))
                self._dispatch(request)
        finally:
            stopping.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)
            self._acks.put_nowait(None)

    def _dispatch(self, request: pb.IngestRequest) -> None:
        before = self._latest.get(request.item.id)
        task = asyncio.create_task(self._write(request, before))
        self._latest[request.item.id] = task
        self._tasks.add(task)
        task.add_done_callback(functools.partial(self._finished, request.item.id, len(request.image)))

    def _finished(self, id: str, size: int, task: asyncio.Task[None]) -> None:
        """Gives back the budget that `_read` took, also for a task that was cancelled before it began."""
        self._tasks.discard(task)
        if self._latest.get(id) is task:
            del self._latest[id]
        self._calls.writes.release(size)

    async def _write(self, request: pb.IngestRequest, before: asyncio.Task[None] | None) -> None:
        response = pb.IngestResponse(id=request.item.id)
        rpc, metrics = "Catalog/Ingest", self._calls.metrics
        try:
            item = wire.item_of(request.item, self._calls.limits)
            if before is not None:
                await asyncio.wait({before})
            written = await self._calls.write(*item, request.image, deadline=None)
            response.acknowledged.CopyFrom(wire.put_response(written))
            metrics.parts.labels(rpc=rpc, code="OK").inc()
        except Exception as error:  # a bad item is answered, and the stream goes on
            cause = part_failed(rpc, error, metrics)
            metrics.items_refused.labels(reason=cause.reason).inc()
            response.error.CopyFrom(wire.error(cause))
        self._acks.put_nowait(response)


async def _next(requests: AsyncIterator[pb.IngestRequest], stopping: asyncio.Task[bool]) -> pb.IngestRequest | None:
    """The next item; None at the end of the stream. Errors: NotServing when the server stops first."""
    following = asyncio.ensure_future(anext(requests, None))
    try:
        await asyncio.wait({following, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if following.done():
            return following.result()
        raise NotServing("the server is stopping; send what was not acknowledged again", retry_after_s=1.0)
    finally:
        following.cancel()
