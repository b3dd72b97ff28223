"""One ingest stream: an acknowledgement for each item, in order for each id, within the window, and nothing leaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable

import pytest

from everlook.v1 import everlook_pb2 as pb
from indexer.engine import Engine
from indexer.errors import MalformedMessage, NotServing
from server.interceptors import Malformed
from server.services.calls import Calls
from server.services.ingest import IngestStream
from tests.server.running import calls_of, item, photo, sample, until


def request(id: str, seed: int = 0, category: str = "apples") -> pb.IngestRequest:
    return pb.IngestRequest(item=item(id, category), image=photo(seed))


class Sender:
    """What a caller sends, and how much of it the server has read."""

    def __init__(self, requests: Iterable[pb.IngestRequest | Malformed], *, then_wait: bool = False) -> None:
        self._requests = requests
        self._then_wait = then_wait
        self.read = 0

    async def __aiter__(self) -> AsyncGenerator[pb.IngestRequest, None]:
        for each in self._requests:
            self.read += 1
            yield each  # type: ignore[misc]  # what does not parse arrives as Malformed
        if self._then_wait:
            await asyncio.Event().wait()


def stream(calls: Calls, sender: Sender, window: int = 64) -> AsyncGenerator[pb.IngestResponse, None]:
    return IngestStream(calls, window).run(aiter(sender))


async def answers_of(responses: AsyncIterator[pb.IngestResponse]) -> list[pb.IngestResponse]:
    return [response async for response in responses]


async def note_ids(answered: set[str], responses: AsyncIterator[pb.IngestResponse]) -> None:
    """Keeps what came before the stream failed."""
    async for response in responses:
        answered.add(response.id)


def categories(engine: Engine) -> dict[str, str]:
    return {entry.id: entry.category for entry in engine.catalogue.entries()}


def test_every_item_is_acknowledged_by_its_id(engine: Engine) -> None:
    async def scenario() -> None:
        calls = calls_of(engine, threads=2)
        async with calls.pipeline:
            answers = await answers_of(stream(calls, Sender(request(f"i{n}", n) for n in range(100)), window=7))
        assert {answer.id for answer in answers} == {f"i{n}" for n in range(100)}
        assert len(answers) == 100
        assert all(answer.acknowledged.outcome == pb.PUT_OUTCOME_CREATED for answer in answers)
        assert {answer.acknowledged.seq for answer in answers} == set(range(1, 101))
        assert (calls.writes.used_jobs, calls.writes.used_bytes) == (0, 0)
        assert sample(calls.metrics.registry, "everlook_items_written_total", outcome="created") == 100

    asyncio.run(scenario())


def test_the_same_id_twice_in_one_stream_ends_with_the_last_that_was_sent(engine: Engine) -> None:
    # The photo of the first is the slowest to decode, so that without an order the last would often come first.
    sent = [pb.IngestRequest(item=item("a", "c0"), image=photo(0, size=1500))]
    sent += [request("a", n, f"c{n}") for n in range(1, 10)]

    async def scenario() -> None:
        calls = calls_of(engine, threads=4, max_batch=1)
        async with calls.pipeline:
            answers = await answers_of(stream(calls, Sender(sent)))
        assert [answer.acknowledged.seq for answer in answers] == list(range(1, 11))

    asyncio.run(scenario())
    assert categories(engine) == {"a": "c9"}


def test_no_more_is_read_than_the_window_of_unacknowledged_items(engine: Engine) -> None:
    async def scenario() -> None:
        calls = calls_of(engine)
        sender = Sender(request(f"i{n}") for n in range(20))
        responses = stream(calls, sender, window=5)
        reading = asyncio.create_task(answers_of(responses))
        await until(lambda: calls.writes.used_jobs == 5)
        await asyncio.sleep(0.05)
        assert sender.read == 5
        async with calls.pipeline:
            assert len(await reading) == 20

    asyncio.run(scenario())


def test_an_acknowledgement_that_the_caller_does_not_take_holds_its_place_in_the_window(engine: Engine) -> None:
    async def scenario() -> None:
        calls = calls_of(engine)
        sender = Sender(request(f"i{n}") for n in range(20))
        async with calls.pipeline:
            responses = stream(calls, sender, window=5)
            await anext(responses)
            await until(lambda: engine.catalogue.last_seq == 5 and calls.writes.used_jobs == 0)
            await asyncio.sleep(0.05)
            assert sender.read == 5
            assert len(await answers_of(responses)) == 19

    asyncio.run(scenario())


def test_streams_wait_for_the_budget_that_all_share(engine: Engine) -> None:
    async def scenario() -> None:
        calls = calls_of(engine, jobs=3)
        senders = [Sender(request(f"{name}{n}") for n in range(10)) for name in "ab"]
        reading = [asyncio.create_task(answers_of(stream(calls, sender))) for sender in senders]
        await until(lambda: calls.writes.used_jobs == 3)
        await asyncio.sleep(0.05)
        assert calls.writes.used_jobs == 3
        assert sum(sender.read for sender in senders) == 3 + 2  # each has one more in its hand
        async with calls.pipeline:
            assert [len(answers) for answers in await asyncio.gather(*reading)] == [10, 10]
        assert calls.writes.used_jobs == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("bad", "reason", "field"),
    [
        (pb.IngestRequest(item=item("bad"), image=b""), "IMAGE_UNREADABLE", "image"),
        (pb.IngestRequest(item=item("bad"), image=b"no photo"), "IMAGE_UNREADABLE", "image"),
        (pb.IngestRequest(item=item("bad", category=""), image=photo(1)), "INVALID_FIELD", "item.category"),
        (pb.IngestRequest(item=item("bad", x=float("nan")), image=photo(1)), "INVALID_FIELD", "item.metadata['x']"),
    ],
    ids=["empty photo", "no photo", "no category", "metadata not finite"],
)
def test_a_bad_item_in_the_middle_is_answered_with_its_error_and_the_stream_goes_on(
    engine: Engine, bad: pb.IngestRequest, reason: str, field: str
) -> None:
    async def scenario() -> None:
        calls = calls_of(engine)
        async with calls.pipeline:
            answers = await answers_of(stream(calls, Sender([request("a"), bad, request("b")])))
        by_id = {answer.id: answer for answer in answers}
        assert by_id["bad"].error.reason == pb.ErrorReason.Value(f"ERROR_REASON_{reason}")
        assert by_id["bad"].error.field == field
        assert by_id["a"].HasField("acknowledged")
        assert by_id["b"].HasField("acknowledged")
        assert sample(calls.metrics.registry, "everlook_items_refused_total", reason=reason) == 1
        assert calls.writes.used_jobs == 0

    asyncio.run(scenario())
    assert categories(engine).keys() == {"a", "b"}


def test_a_message_that_does_not_parse_ends_the_stream_after_what_was_read_is_acknowledged(engine: Engine) -> None:
    async def scenario() -> None:
        calls = calls_of(engine)
        answered: set[str] = set()
        async with calls.pipeline:
            with pytest.raises(MalformedMessage):
                await note_ids(answered, stream(calls, Sender([request("a"), Malformed(), request("b")])))
        assert answered == {"a"}
        assert calls.writes.used_jobs == 0

    asyncio.run(scenario())


def test_a_stop_ends_the_reading_acknowledges_what_was_read_and_says_not_serving(engine: Engine) -> None:
    async def scenario() -> None:
        calls = calls_of(engine)
        sender = Sender((request(f"i{n}") for n in range(5)), then_wait=True)
        answered: set[str] = set()
        reading = asyncio.create_task(note_ids(answered, stream(calls, sender)))
        await until(lambda: calls.writes.used_jobs == 5)
        calls.stopping.set()
        await asyncio.sleep(0.02)
        assert not reading.done()
        async with calls.pipeline:
            with pytest.raises(NotServing) as stopped:
                await reading
        assert stopped.value.retry_after_s is not None
        assert answered == {f"i{n}" for n in range(5)}
        assert calls.writes.used_jobs == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("moment", ["while items wait", "while it waits for the budget", "while the caller is quiet"])
def test_a_stream_that_is_cut_off_leaks_no_budget(engine: Engine, moment: str) -> None:
    async def scenario() -> None:
        waits_for_budget = moment == "while it waits for the budget"
        calls = calls_of(engine, jobs=3 if waits_for_budget else 1000)
        sender = Sender((request(f"i{n}") for n in range(5)), then_wait=True)
        reading = asyncio.create_task(answers_of(stream(calls, sender, window=64)))
        await until(lambda: sender.read == (4 if waits_for_budget else 5))
        await asyncio.sleep(0.01)
        if moment == "while the caller is quiet":
            async with calls.pipeline:
                await until(lambda: engine.catalogue.last_seq == 5)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert (calls.writes.used_jobs, calls.writes.used_bytes) == (0, 0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(scenario())


def test_a_stream_that_is_closed_between_two_answers_leaks_nothing(engine: Engine) -> None:
    async def scenario() -> None:
        calls = calls_of(engine)
        async with calls.pipeline:
            responses = stream(calls, Sender((request(f"i{n}") for n in range(20)), then_wait=True))
            await anext(responses)
            await responses.aclose()
            assert calls.writes.used_jobs == 0
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(scenario())
