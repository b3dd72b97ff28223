"""What a stream answers, in bounded time.

A call of grpc ends by its deadline, and every read of it with the call. That the reads do is a promise that grpcio was
seen to break (`clients.connection` says when): the call has its status, and a read of it never ends. So a read that is
not over `LINGER_S` after its call should have been is taken for lost: the stream ends without it, with the call's own
status, and whoever ingests goes on with another stream.
"""

from __future__ import annotations

import asyncio
import enum
import queue
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import grpc

from clients.errors import Cancelled, DeadlineExceeded

LINGER_S = 5.0

_HANGS = "the stream has outlived its deadline"


class _What(enum.Enum):
    MESSAGE = enum.auto()
    STATUS = enum.auto()  # known before the messages that are still on their way have been read
    END = enum.auto()


_Event = tuple[_What, Any]


def answers(call: Any, stream_s: float) -> Iterator[bytes]:
    """The messages of a sync call, read in a thread of its own, which stays behind when a read is lost.

    stream_s: the deadline that the call was given. Errors: grpc.RpcError, as iterating over the call itself;
    DeadlineExceeded when not even the deadline has ended it.
    """
    arrived: queue.SimpleQueue[_Event] = queue.SimpleQueue()
    if not call.add_callback(lambda: arrived.put((_What.STATUS, None))):
        arrived.put((_What.STATUS, None))
    threading.Thread(target=_read, args=(call, arrived), name="everlook-ingest-receive", daemon=True).start()
    give_up_at = time.monotonic() + stream_s + LINGER_S
    while True:
        try:
            what, value = arrived.get(timeout=max(0.0, give_up_at - time.monotonic()))
        except queue.Empty:
            break
        if what is _What.MESSAGE:
            yield value
        elif what is _What.STATUS:
            give_up_at = min(give_up_at, time.monotonic() + LINGER_S)
        elif value is None:
            return
        else:
            raise value
    if call.cancel():  # it had no status yet
        raise DeadlineExceeded(_HANGS)
    if call.code() is not grpc.StatusCode.OK:
        raise call


def _read(call: Any, arrived: queue.SimpleQueue[_Event]) -> None:
    end: BaseException | None = None
    try:
        for message in call:
            arrived.put((_What.MESSAGE, message))
    except BaseException as error:
        end = error
    arrived.put((_What.END, end))


async def answers_async(call: Any, stream_s: float) -> AsyncGenerator[bytes, None]:
    """`answers` of an asyncio call. Errors: also Cancelled, when the client was closed."""
    arrived: asyncio.Queue[_Event] = asyncio.Queue()
    call.add_done_callback(lambda _: arrived.put_nowait((_What.STATUS, None)))
    reading = asyncio.create_task(_read_async(call, arrived))
    now = asyncio.get_running_loop().time
    give_up_at = now() + stream_s + LINGER_S
    try:
        while True:
            try:
                async with asyncio.timeout_at(give_up_at):
                    what, value = await arrived.get()
            except TimeoutError:
                break
            if what is _What.MESSAGE:
                yield value
            elif what is _What.STATUS:
                give_up_at = min(give_up_at, now() + LINGER_S)
            elif value is None:
                return
            else:
                raise value
        if call.cancel():
            raise DeadlineExceeded(_HANGS)
        code = await call.code()
        if code is not grpc.StatusCode.OK:
            details, trailers = await call.details(), await call.trailing_metadata()
            raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, details)
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def _read_async(call: Any, arrived: asyncio.Queue[_Event]) -> None:
    end: BaseException | None = None
    try:
        async for message in call:
            arrived.put_nowait((_What.MESSAGE, message))
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        end = Cancelled("this client was closed during the call")  # which cancels its calls, and not this task
    except Exception as error:
        end = error
    arrived.put_nowait((_What.END, end))
