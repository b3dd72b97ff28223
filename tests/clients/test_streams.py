from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import pytest

import clients.aio
import clients.client
import clients.streams
from clients import RetryPolicy, errors
from clients.connection import CHANNEL_OPTIONS
from clients.streams import answers, answers_async
from tests.clients.stopping_server import StoppingServer
from tests.clients.test_ingest import both, items

pytestmark = pytest.mark.timeout(30)  # that things end is what is tested here
TWICE = RetryPolicy(attempts=2, initial_s=0.001)
NEVER_S = 600.0


@both
def test_a_stream_that_a_stopping_server_did_not_see_ends_with_its_reads(
    ingest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients.streams, "LINGER_S", NEVER_S)
    with StoppingServer() as server, pytest.raises(errors.Unavailable, match="Connection refused"):
        list(ingest(server.target, items(5), TWICE))


@both
def test_a_read_that_grpc_loses_does_not_hold_up_the_ingest(ingest: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server that makes a channel lose reads that repeats calls by itself."""
    options = [option for option in CHANNEL_OPTIONS if option[0] != "grpc.enable_retries"]
    for module in (clients.client, clients.aio):
        monkeypatch.setattr(module, "CHANNEL_OPTIONS", options)
    monkeypatch.setattr(clients.streams, "LINGER_S", 0.2)
    with StoppingServer() as server, pytest.raises(errors.Unavailable, match="Connection refused"):
        list(ingest(server.target, items(5), TWICE))


class LostRead(grpc.RpcError):
    """A sync call whose last read never ends. `status` is the call's own, None while it has none."""

    def __init__(self, status: grpc.StatusCode | None) -> None:
        self.status = status
        self.released = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        yield from (b"one", b"two")
        self.released.wait()

    def add_callback(self, callback: Callable[[], None]) -> bool:
        if self.status is not None:
            callback()
        return True

    def cancel(self) -> bool:
        return self.status is None

    def code(self) -> grpc.StatusCode:
        assert self.status is not None
        return self.status


class LostAsyncRead:
    """The same, of an asyncio call."""

    def __init__(self, status: grpc.StatusCode | None) -> None:
        self.status = status

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for message in (b"one", b"two"):
            yield message
        await asyncio.Event().wait()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        if self.status is not None:
            callback(self)

    def cancel(self) -> bool:
        return self.status is None

    async def code(self) -> grpc.StatusCode | None:
        return self.status

    async def details(self) -> str:
        return "said so"

    async def trailing_metadata(self) -> tuple[()]:
        return ()


def _sync(status: grpc.StatusCode | None, stream_s: float, into: list[bytes]) -> None:
    call = LostRead(status)
    try:
        into.extend(answers(call, stream_s))
    finally:
        call.released.set()


def _aio(status: grpc.StatusCode | None, stream_s: float, into: list[bytes]) -> None:
    async def main() -> None:
        async for message in answers_async(LostAsyncRead(status), stream_s):
            into.append(message)  # noqa: PERF401 - keeps what came before the error

    asyncio.run(main())


lost = pytest.mark.parametrize("read", [_sync, _aio], ids=["sync", "asyncio"])


@lost
def test_a_lost_read_ends_with_the_status_of_its_call(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients.streams, "LINGER_S", 0.05)
    seen: list[bytes] = []
    with pytest.raises(grpc.RpcError) as raised:
        read(grpc.StatusCode.UNAUTHENTICATED, NEVER_S, seen)
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert seen == [b"one", b"two"]


@lost
def test_a_lost_read_of_a_call_that_went_well_is_its_end(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients.streams, "LINGER_S", 0.05)
    seen: list[bytes] = []
    read(grpc.StatusCode.OK, NEVER_S, seen)
    assert seen == [b"one", b"two"]


@lost
def test_a_call_that_not_even_its_deadline_ends_is_given_up(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients.streams, "LINGER_S", 0.05)
    seen: list[bytes] = []
    with pytest.raises(errors.DeadlineExceeded):
        read(None, 0.05, seen)
    assert seen == [b"one", b"two"]
