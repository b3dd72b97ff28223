from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from clients import Acknowledgement, AsyncClient, Client, ImageLike, IngestLimits, Item, RetryPolicy, errors
from tests.clients.conftest import QUICK, photo
from tests.clients.fake_server import Failure, FakeServer

Pairs = Iterable[tuple[Item, ImageLike]]


def _sync(target: str, items: Pairs, retries: RetryPolicy = QUICK, **limits: Any) -> Iterator[Acknowledgement]:
    with Client(target, retries=retries) as client:
        yield from client.ingest(items, limits=IngestLimits(**limits))


def _aio(target: str, items: Pairs, retries: RetryPolicy = QUICK, **limits: Any) -> Iterator[Acknowledgement]:
    async def open_client() -> tuple[AsyncClient, AsyncIterator[Acknowledgement]]:
        client = AsyncClient(target, retries=retries)
        return client, client.ingest(items, limits=IngestLimits(**limits))

    with asyncio.Runner() as runner:
        client, answers = runner.run(open_client())
        try:
            while (answer := runner.run(_next(answers))) is not None:
                yield answer
        finally:
            runner.run(answers.aclose())  # type: ignore[attr-defined]  # an async generator
            runner.run(client.close())


async def _next(answers: AsyncIterator[Acknowledgement]) -> Acknowledgement | None:
    return await anext(answers, None)


both = pytest.mark.parametrize("ingest", [_sync, _aio], ids=["sync", "asyncio"])


def items(count: int) -> Iterator[tuple[Item, bytes]]:
    return ((Item(f"i{n}", "red"), photo("red", n)) for n in range(count))


@both
def test_every_item_is_acknowledged_once(server: FakeServer, ingest: Any) -> None:
    answers = list(ingest(server.target, items(100)))
    assert sorted(answer.id for answer in answers) == sorted(server.items)
    assert len(answers) == len(server.items) == 100
    assert {answer.outcome for answer in answers} == {"created"}
    assert sorted(answer.seq for answer in answers) == list(range(1, 101))


@both
@pytest.mark.parametrize("cuts", [[0], [1, 0, 5], [63, 64]], ids=["at once", "three times", "at the window"])
def test_a_broken_stream_is_taken_up_with_what_was_not_acknowledged(
    server: FakeServer, ingest: Any, cuts: list[int]
) -> None:
    server.cut_after = list(cuts)
    answers = list(ingest(server.target, items(150)))
    assert len(answers) == len({answer.id for answer in answers}) == len(server.items) == 150
    assert not [answer for answer in answers if answer.error]
    assert server.calls["Ingest"] == len(cuts) + 1


@both
def test_a_stream_that_never_moves_is_given_up(server: FakeServer, ingest: Any) -> None:
    server.cut_after = [0] * 9
    with pytest.raises(errors.Unavailable):
        list(ingest(server.target, items(5), RetryPolicy(attempts=3, initial_s=0.001)))
    assert server.calls["Ingest"] == 3


@both
def test_an_ingest_outlives_a_restart_of_the_server(ingest: Any) -> None:
    first = FakeServer()
    with first:
        answers = ingest(first.target, items(200), RetryPolicy(attempts=20), window=8)
        before = [next(answers) for _ in range(10)]
    second = FakeServer(first.port)
    threading.Timer(1.0, second.__enter__).start()
    try:
        after = list(answers)
    finally:
        second.__exit__(None, None, None)
    assert len({answer.id for answer in (*before, *after)}) == 200
    assert not [answer for answer in after if answer.error]
    assert first.items.keys() | second.items.keys() == {answer.id for answer in (*before, *after)}


@both
def test_a_stream_that_is_refused_ends_the_ingest_with_the_servers_error(server: FakeServer, ingest: Any) -> None:
    server.fail("Ingest", *[Failure(grpc.StatusCode.UNAUTHENTICATED, "no token")] * 5)
    with pytest.raises(errors.Unauthorized, match="no token"):
        list(ingest(server.target, items(500)))


@both
def test_a_bad_item_fails_alone(server: FakeServer, ingest: Any, tmp_path: Path) -> None:
    pairs: list[tuple[Item, ImageLike]] = [
        (Item("text", "red"), b"no photo"),
        (Item("missing", "red"), tmp_path / "missing.jpg"),
        (Item("empty", "red"), b""),
        (Item("good", "red"), photo("red")),
    ]
    answers = {answer.id: answer for answer in ingest(server.target, pairs)}
    assert set(server.items) == {"good"}
    assert answers["good"].error is None
    for name in ("text", "missing", "empty"):
        error = answers[name].error
        assert isinstance(error, errors.InvalidRequest)
        assert (error.reason, error.field) == ("IMAGE_UNREADABLE", "image")


@both
def test_an_item_that_is_too_large_for_a_message_fails_alone(
    server: FakeServer, ingest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clients.ingest.MAX_MESSAGE_BYTES", 5_000)
    pairs = [(Item("large", "red"), b"x" * 6_000), (Item("good", "red"), photo("red"))]
    answers = {answer.id: answer for answer in ingest(server.target, pairs)}
    assert answers["large"].error is not None
    assert answers["large"].error.reason == "IMAGE_TOO_LARGE"
    assert answers["good"].error is None


@both
def test_an_item_that_a_full_queue_refuses_is_sent_again(server: FakeServer, ingest: Any) -> None:
    server.refuse("i3", *[Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after_s=0.02)] * 2)
    answers = list(ingest(server.target, items(10)))
    assert len(server.items) == len(answers) == 10
    assert server.received.count("i3") == 3
    assert server.calls["Ingest"] == 1


@both
def test_a_refusal_that_lasts_becomes_the_items_error(server: FakeServer, ingest: Any) -> None:
    server.refuse("i3", *[Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after_s=0.001)] * 9)
    answers = {a.id: a for a in ingest(server.target, items(10), RetryPolicy(attempts=2, initial_s=0.001))}
    assert isinstance(answers["i3"].error, errors.Overloaded)
    assert len(server.items) == 9


@both
def test_writes_of_one_id_keep_their_order(server: FakeServer, ingest: Any) -> None:
    server.cut_after = [1, 2, 1]
    versions = ((Item("same", "red", {"version": n}), photo("red", n)) for n in range(20))
    assert len(list(ingest(server.target, versions))) == 20
    assert server.items["same"].item.metadata["version"].number == 19


@both
def test_the_source_is_read_only_as_far_ahead_as_the_window(server: FakeServer, ingest: Any) -> None:
    read: list[int] = []

    def endless() -> Iterator[tuple[Item, bytes]]:
        while True:
            read.append(len(read))
            yield Item(f"i{len(read)}", "red"), photo("red", len(read))

    answers = ingest(server.target, endless(), window=4)
    for taken in range(1, 20):
        assert next(answers).error is None
        assert len(read) <= taken + 4 + 1  # the window, and one that waits for its place
    answers.close()


@both
def test_leaving_the_loop_stops_the_reading(server: FakeServer, ingest: Any) -> None:
    read: list[int] = []

    def endless() -> Iterator[tuple[Item, bytes]]:
        while True:
            read.append(len(read))
            yield Item(f"i{len(read)}", "red"), photo("red")

    answers = ingest(server.target, endless())
    next(answers)
    answers.close()
    after = len(read)
    time.sleep(0.1)
    assert len(read) <= after + 1


@both
def test_what_the_source_raises_comes_after_the_answers_to_what_it_gave(server: FakeServer, ingest: Any) -> None:
    def failing() -> Iterator[tuple[Item, bytes]]:
        yield from items(5)
        raise RuntimeError("the shop's database is down")

    seen = []
    with pytest.raises(RuntimeError, match="database is down"):
        seen.extend(ingest(server.target, failing()))  # extend keeps what came before the error
    assert len(server.items) == 5


@both
def test_a_source_that_is_cancelled_ends_the_ingest(server: FakeServer, ingest: Any) -> None:
    def cancelled() -> Iterator[tuple[Item, bytes]]:
        yield from items(5)
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        list(ingest(server.target, cancelled()))
    assert len(server.items) == 5


@both
def test_no_items_need_no_server(ingest: Any) -> None:
    assert list(ingest("127.0.0.1:1", [])) == []


@both
def test_a_server_that_hangs_is_an_error(server: FakeServer, ingest: Any) -> None:
    server.gate.clear()
    with pytest.raises(errors.DeadlineExceeded):
        list(ingest(server.target, items(3), RetryPolicy(attempts=2, initial_s=0.001), stream_s=0.2))


@both
def test_a_slow_source_outlives_its_streams(server: FakeServer, ingest: Any) -> None:
    def slow() -> Iterator[tuple[Item, bytes]]:
        for pair in items(4):
            time.sleep(0.15)
            yield pair

    answers = list(ingest(server.target, slow(), stream_s=0.1))
    assert len(answers) == len(server.items) == 4


def test_an_acknowledgement_does_not_wait_for_the_next_item(server: FakeServer, client: Client) -> None:
    go_on = threading.Event()

    def source() -> Iterator[tuple[Item, bytes]]:
        yield Item("first", "red"), photo("red")
        go_on.wait(10)

    answers = client.ingest(source())
    assert next(answers).id == "first"
    assert not go_on.is_set()
    go_on.set()
    assert list(answers) == []


def test_an_async_source_is_awaited(server: FakeServer) -> None:
    async def source() -> AsyncIterator[tuple[Item, bytes]]:
        for pair in items(20):
            await asyncio.sleep(0)
            yield pair

    async def main() -> int:
        async with AsyncClient(server.target) as client:
            return len([answer async for answer in client.ingest(source())])

    assert asyncio.run(main()) == len(server.items) == 20


def test_cancelling_the_task_ends_its_stream(server: FakeServer) -> None:
    server.gate.clear()

    async def main() -> None:
        async with AsyncClient(server.target) as client:

            async def consume() -> None:
                async for _ in client.ingest(items(5)):
                    pass

            task = asyncio.create_task(consume())
            await asyncio.sleep(0.1)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert task.cancelled()
            assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_closing_the_client_raises_cancelled_in_its_ingest(server: FakeServer) -> None:
    server.gate.clear()
    client = Client(server.target, retries=QUICK)
    threading.Timer(0.2, client.close).start()
    with pytest.raises(errors.Cancelled):
        list(client.ingest(items(5)))


def test_closing_the_asyncio_client_raises_cancelled_in_its_ingest(server: FakeServer) -> None:
    server.gate.clear()

    async def main() -> None:
        client = AsyncClient(server.target, retries=QUICK)

        async def close_soon() -> None:
            await asyncio.sleep(0.2)
            await client.close()

        closing = asyncio.create_task(close_soon())
        async with asyncio.timeout(10):
            with pytest.raises(errors.Cancelled):
                [answer async for answer in client.ingest(items(5))]
        await closing

    asyncio.run(main())


def test_a_window_counts_bytes_as_well_as_items(server: FakeServer, client: Client) -> None:
    size = len(photo("red"))
    server.gate.clear()
    read: list[str] = []

    def source() -> Iterator[tuple[Item, bytes]]:
        for item, data in items(20):
            read.append(item.id)
            yield item, data

    answers = client.ingest(source(), limits=IngestLimits(window=20, window_bytes=3 * size))
    consumer = threading.Thread(target=lambda: list(answers))
    consumer.start()
    time.sleep(0.2)
    assert len(read) <= 5
    server.gate.set()
    consumer.join(10)
    assert len(server.items) == 20
