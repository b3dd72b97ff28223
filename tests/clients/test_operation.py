"""The operator's part of the clients: generations, promote and rollback, training, and the watch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import grpc
import pytest

from clients import AsyncClient, Client, RetryPolicy, errors, wire
from clients.status import GenerationState
from everlook.v1 import everlook_pb2 as pb
from tests.clients.conftest import QUICK
from tests.clients.fake_server import MODEL, Failure, FakeServer, fake_generation

Code = grpc.StatusCode
LIVE, PREVIOUS, READY = pb.GENERATION_STATE_LIVE, pb.GENERATION_STATE_PREVIOUS, pb.GENERATION_STATE_READY


@pytest.fixture
def server(server: FakeServer) -> FakeServer:
    """Generation 1 is live, 2 is ready."""
    gates = [pb.Gate(name="parity", passed=True, measured=0.9999, required=0.999, reason="close")]
    server.generations.insert(0, fake_generation(2, READY, stages=1, gates=gates))
    return server


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_generations_come_with_their_model_recall_and_gates(server: FakeServer, client: Client) -> None:
    ready, live = client.generations()
    assert (ready.number, ready.state, ready.model.stages) == (2, GenerationState.READY, 1)
    assert [(each.cohort, each.recall_at_1, each.probes) for each in ready.recall] == [(0, 0.75, 1200)]
    assert [(gate.name, gate.passed, gate.reason) for gate in ready.gates] == [("parity", True, "close")]
    assert (live.number, live.state, live.model.id) == (1, GenerationState.LIVE, MODEL)


def test_a_generation_is_promoted_and_rolled_back(server: FakeServer, client: Client) -> None:
    live = client.promote(2)
    assert (live.number, live.state, live.model.stages) == (2, GenerationState.LIVE, 1)
    now = client.status().generation
    assert now is not None
    assert now.number == 2
    back = client.rollback()
    assert (back.number, back.state) == (1, GenerationState.LIVE)
    assert client.rollback(2).number == 2


def test_what_cannot_be_done_is_a_typed_error(server: FakeServer, client: Client) -> None:
    with pytest.raises(errors.GenerationNotFound, match="no generation 9") as missing:
        client.promote(9)
    assert missing.value.got == "9"
    with pytest.raises(errors.NotReady, match="nothing to go back to"):
        client.rollback()
    with pytest.raises(errors.NotReady, match="no training is under way"):
        client.cancel_training()
    with pytest.raises(errors.InvalidRequest):
        client.promote(-1)
    with pytest.raises(errors.InvalidRequest, match="categories is one text"):
        client.start_training("mugs")


def test_a_training_is_started_and_cancelled(server: FakeServer, client: Client) -> None:
    assert client.start_training(["mugs", "bowls"]) == 1
    assert server.asked_for == [["mugs", "bowls"]]
    training = client.status().training
    assert training is not None
    assert (training.stage, training.phase, training.total, training.loss) == (1, "training", 10, None)
    assert client.cancel_training() == 1
    assert client.status().training is None


@pytest.mark.parametrize("method", ["Promote", "Rollback", "StartTraining", "CancelTraining"])
def test_no_lever_is_pulled_twice(server: FakeServer, method: str) -> None:
    """Even where the first attempt may have been lost on its way: a second rollback goes back once more."""
    pull: dict[str, Callable[[Client], object]] = {
        "Promote": lambda client: client.promote(2),
        "Rollback": lambda client: client.rollback(),
        "StartTraining": lambda client: client.start_training(),
        "CancelTraining": lambda client: client.cancel_training(),
    }
    server.fail(method, Failure(Code.UNAVAILABLE, "the connection broke"))
    with Client(server.target, retries=QUICK) as client, pytest.raises(errors.Unavailable):
        pull[method](client)
    assert server.calls[method] == 1


def test_reading_the_generations_is_tried_again(server: FakeServer, client: Client) -> None:
    server.fail("ListGenerations", Failure(Code.UNAVAILABLE))
    assert len(client.generations()) == 2


def test_a_swap_gets_ten_minutes_unless_the_caller_says_otherwise(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []

    def attempts(policy: RetryPolicy, timeout_s: float) -> object:
        given.append(timeout_s)
        raise errors.Cancelled("that is all")

    monkeypatch.setattr("clients.client.Attempts", attempts)
    with Client(server.target, timeout_s=30) as client:
        for call in (
            lambda: client.promote(2),
            lambda: client.rollback(),
            lambda: client.promote(2, timeout_s=5),
            lambda: client.status(),
        ):
            with pytest.raises(errors.Cancelled):
                call()
    assert given == [600, 600, 5, 30]


def test_a_watch_tells_the_status_and_then_each_event(server: FakeServer, client: Client) -> None:
    watch = client.watch()
    first = next(watch)
    assert (first.event, first.status.version) == ("", "0.0.0")
    wait_for(lambda: server.watched == 1)
    server.tell("generation 2 is live")
    assert next(watch).event == "generation 2 is live"
    server.hang_up()
    with pytest.raises(errors.Unavailable, match="the server is stopping"):
        next(watch)


def test_a_watch_that_is_closed_ends_its_call(server: FakeServer, client: Client) -> None:
    for _ in client.watch():
        break
    assert client.status().serving  # the connection is as it was


def test_a_watch_has_no_deadline_unless_it_is_given_one(server: FakeServer, client: Client) -> None:
    client.status()  # connects, which would be part of the watch's time
    watch = client.watch(timeout_s=2)
    next(watch)
    with pytest.raises(errors.DeadlineExceeded):
        next(watch)


def test_a_watch_of_a_client_that_is_closed_is_cancelled(server: FakeServer) -> None:
    client = Client(server.target)
    watch = client.watch()
    next(watch)
    client.close()
    with pytest.raises(errors.Cancelled):
        next(watch)


def test_a_message_that_is_none_is_a_fault_of_the_server() -> None:
    with pytest.raises(errors.ServerFault, match="a status cannot be read"):
        wire.event(b"\xff\xff")


def test_the_asyncio_client_has_the_same_levers(server: FakeServer) -> None:
    async def run() -> None:
        async with AsyncClient(server.target, retries=QUICK) as client:
            assert [each.number for each in await client.generations()] == [2, 1]
            assert (await client.promote(2)).number == 2
            assert (await client.rollback()).number == 1
            assert await client.start_training(["mugs"]) == 1
            assert await client.cancel_training() == 1
            watch = client.watch()
            assert (await anext(watch)).event == ""
            await asyncio.to_thread(wait_for, lambda: server.watched == 1)
            server.tell("trainer restarted")
            assert (await anext(watch)).event == "trainer restarted"
            server.hang_up()
            with pytest.raises(errors.Unavailable, match="the server is stopping"):
                await anext(watch)
            server.fail("Rollback", Failure(Code.UNAVAILABLE))
            with pytest.raises(errors.Unavailable):
                await client.rollback()
            assert server.calls["Rollback"] == 2

    asyncio.run(run())


def test_an_asyncio_watch_of_a_client_that_is_closed_is_cancelled(server: FakeServer) -> None:
    async def run() -> None:
        client = AsyncClient(server.target)
        watch = client.watch()
        await anext(watch)
        await client.close()
        with pytest.raises(errors.Cancelled):
            await anext(watch)

    asyncio.run(run())
