"""The asyncio ingest: `clients.ingest` with tasks in place of threads, around the same `Window`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc

from clients.errors import EverlookClientError, Unavailable, from_rpc_error
from clients.ingest import ENDED_EARLY, acknowledged, encode
from clients.streams import answers_async
from clients.types import Acknowledgement, ImageLike, Item
from clients.window import Window

Source = AsyncIterable[tuple[Item, ImageLike]] | Iterable[tuple[Item, ImageLike]]


class AsyncIngestStream:
    """Acknowledgements of the items of `source`. Iterate once; leaving the iteration cancels what is under way."""

    def __init__(
        self, open_stream: Callable[[AsyncIterator[bytes]], Any], source: Source, window: Window, request: str
    ) -> None:
        self._open_stream = open_stream
        self._source = source
        self._window = window
        self._request = request
        self._changed = asyncio.Condition()
        self._call: Any = None
        self._ended = False
        self._failure: BaseException | None = None

    async def __aiter__(self) -> AsyncIterator[Acknowledgement]:
        tasks = [asyncio.create_task(self._read_all()), asyncio.create_task(self._converse_all())]
        try:
            while (answer := await self._next()) is not None:
                yield answer
            if self._failure is not None:
                raise self._failure
        finally:
            if self._call is not None:
                self._call.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _next(self) -> Acknowledgement | None:
        async with self._changed:
            while (answer := self._window.take()) is None and not self._ended:
                await self._changed.wait()
            self._changed.notify_all()
            return answer

    async def _read_all(self) -> None:
        await self._keep_failure(self._read())
        async with self._changed:
            self._window.end_source()  # after its failure, too: what was sent still gets its acknowledgement
            self._changed.notify_all()

    async def _converse_all(self) -> None:
        await self._keep_failure(self._converse())
        async with self._changed:
            self._ended = True
            self._changed.notify_all()

    async def _keep_failure(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except BaseException as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            self._failure = self._failure or error  # a cancellation too, when it is one of the source's own

    async def _read(self) -> None:
        async for item, image in _in_threads(self._source):
            refusal: EverlookClientError | None = None
            try:
                request = await asyncio.to_thread(encode, item, image)
            except EverlookClientError as error:
                refusal = error
            async with self._changed:
                while not self._window.has_room(item.id):
                    await self._changed.wait()
                if refusal is None:
                    self._window.add(item.id, request)
                else:
                    self._window.refuse(item.id, refusal)
                self._changed.notify_all()

    async def _converse(self) -> None:
        while await self._begin():
            error: EverlookClientError = Unavailable(ENDED_EARLY)
            statuses: list[_Status] = []
            self._call.add_done_callback(lambda call, seen=statuses: seen.append(_status_of(call)))
            try:
                async with contextlib.aclosing(answers_async(self._call, self._window.limits.stream_s)) as stream:
                    async for data in stream:
                        async with self._changed:
                            self._window.receive(acknowledged(data, self._request))
                            self._changed.notify_all()
            except grpc.aio.AioRpcError as broken:
                error = _typed(broken, statuses)
            except EverlookClientError as lost:
                error = lost
            error.request_id = error.request_id or self._request
            pause_s = 0.0
            async with self._changed:
                if not self._window.drained:
                    pause_s = self._window.break_stream(error)
                self._changed.notify_all()
            await asyncio.sleep(pause_s)

    async def _begin(self) -> bool:
        """Opens a stream once there is something to send. False when there is nothing left to do."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._window.drained or self._window.has_unsent)
            if self._window.drained:
                return False
            self._call = self._open_stream(self._requests(self._window.epoch))
            return True

    async def _requests(self, epoch: int) -> AsyncIterator[bytes]:
        while True:
            async with self._changed:
                while not (over := self._window.epoch != epoch or self._window.drained):
                    if self._window.can_send:
                        break
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._changed.wait(), self._window.pause_s or None)
                if over:
                    return
                request = self._window.next_request()
            yield request


# grpc.aio lets a write that fails because the server has ended the stream overwrite the server's status with one of its
# own (grpc/grpc issue 36066), so the status is read at the moment it is set, before any write can fail.
_OVERWRITTEN = "Internal error from Core"


@dataclass(frozen=True)
class _Status:
    _code: grpc.StatusCode
    _details: str | None
    _trailing_metadata: Any

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str | None:
        return self._details

    def trailing_metadata(self) -> Any:
        return self._trailing_metadata


def _status_of(call: Any) -> _Status:
    """The status of a call that has just ended, whose coroutines therefore return without waiting."""
    return _Status(_now(call.code()), _now(call.details()), _now(call.trailing_metadata()))


def _now(finished: Coroutine[Any, Any, Any]) -> Any:
    try:
        finished.send(None)
    except StopIteration as returned:
        return returned.value
    finished.close()
    raise RuntimeError("the call has not ended")


def _typed(broken: grpc.aio.AioRpcError, statuses: list[_Status]) -> EverlookClientError:
    ends: tuple[_Status | grpc.aio.AioRpcError, ...] = (*statuses, broken)
    sent = [status for status in ends if status.details() != _OVERWRITTEN]
    return from_rpc_error(sent[0]) if sent else Unavailable("the connection broke")


async def _in_threads(source: Source) -> AsyncIterator[tuple[Item, ImageLike]]:
    if isinstance(source, AsyncIterable):
        async for pair in source:
            yield pair
        return
    pairs: Iterator[tuple[Item, ImageLike]] = iter(source)
    while (pair_or_none := await asyncio.to_thread(next, pairs, None)) is not None:
        yield pair_or_none
