from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import pytest

from clients import AsyncClient, Client, RetryPolicy, errors
from clients.retry import Attempts
from clients.types import Item
from tests.clients.conftest import QUICK, photo
from tests.clients.fake_server import Failure, FakeServer

UNAVAILABLE = Failure(grpc.StatusCode.UNAVAILABLE)
FULL = Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after_s=0.01)
FULL_FOR_GOOD = Failure(grpc.StatusCode.RESOURCE_EXHAUSTED)


def _sync(target: str, method: str, *arguments: Any, **options: Any) -> Any:
    with Client(target, **{"retries": QUICK, **options}) as client:
        return getattr(client, method)(*arguments)


def _aio(target: str, method: str, *arguments: Any, **options: Any) -> Any:
    async def main() -> Any:
        async with AsyncClient(target, **{"retries": QUICK, **options}) as client:
            return await getattr(client, method)(*arguments)

    return asyncio.run(main())


both = pytest.mark.parametrize("call", [_sync, _aio], ids=["sync", "asyncio"])


@both
@pytest.mark.parametrize("failure", [UNAVAILABLE, FULL], ids=["unavailable", "full with a hint"])
def test_what_may_pass_is_tried_again(server: FakeServer, call: Any, failure: Failure) -> None:
    server.fail("Put", failure, failure)
    assert call(server.target, "put", Item("a", "red"), photo("red")).outcome == "created"
    assert server.calls["Put"] == 3


@both
@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (FULL_FOR_GOOD, errors.Overloaded),
        (Failure(grpc.StatusCode.INVALID_ARGUMENT), errors.InvalidRequest),
        (Failure(grpc.StatusCode.INTERNAL), errors.ServerFault),
        (Failure(grpc.StatusCode.DEADLINE_EXCEEDED), errors.DeadlineExceeded),
    ],
    ids=["full without a hint", "invalid", "internal", "deadline"],
)
def test_what_will_not_pass_is_not_tried_again(
    server: FakeServer, call: Any, failure: Failure, kind: type[Exception]
) -> None:
    server.fail("Status", failure)
    with pytest.raises(kind):
        call(server.target, "status")
    assert server.calls["Status"] == 1


@both
def test_after_the_last_attempt_the_error_is_raised(server: FakeServer, call: Any) -> None:
    server.fail("Status", *[UNAVAILABLE] * 9)
    with pytest.raises(errors.Unavailable):
        call(server.target, "status", retries=RetryPolicy(attempts=3, initial_s=0.001))
    assert server.calls["Status"] == 3


@both
def test_no_pause_goes_beyond_the_deadline(server: FakeServer, call: Any) -> None:
    server.fail("Status", Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after_s=600))
    began = time.monotonic()
    with pytest.raises(errors.Overloaded):
        call(server.target, "status", timeout_s=20)
    assert time.monotonic() - began < 20


@both
def test_a_delete_that_was_done_before_its_answer_was_lost_is_no_error(server: FakeServer, call: Any) -> None:
    _sync(server.target, "put", Item("a", "red"), photo("red"))
    server.fail_after("Delete", UNAVAILABLE)
    assert call(server.target, "delete", "a") is None
    assert "a" not in server.items


@both
def test_a_delete_of_nothing_is_not_found(server: FakeServer, call: Any) -> None:
    with pytest.raises(errors.NotFound):
        call(server.target, "delete", "a")


@both
def test_a_refused_delete_leaves_not_found_an_error(server: FakeServer, call: Any) -> None:
    server.fail("Delete", FULL)
    with pytest.raises(errors.NotFound):
        call(server.target, "delete", "a")


@both
def test_a_server_that_comes_back_is_found_again(call: Any) -> None:
    with FakeServer() as first:
        port = first.port
    with pytest.raises(errors.Unavailable):
        call(f"127.0.0.1:{port}", "status", retries=RetryPolicy(attempts=1))
    with Client(f"127.0.0.1:{port}", retries=RetryPolicy(attempts=1), timeout_s=5) as client:
        with pytest.raises(errors.Unavailable):
            client.status()
        with FakeServer(port):
            deadline = time.monotonic() + 10
            while True:
                try:
                    assert client.status().serving
                    break
                except errors.Unavailable:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)


def test_pauses_grow_to_a_ceiling_and_keep_what_the_server_asks_for() -> None:
    policy = RetryPolicy(attempts=9, initial_s=1, multiplier=2, max_s=5)
    lost = errors.Unavailable("lost")
    assert [policy.pause_s(failed, lost, 1.0) for failed in range(1, 6)] == [1, 2, 4, 5, 5]
    assert policy.pause_s(3, lost, 0.25) == 1
    assert policy.pause_s(1, errors.Overloaded("full", retry_after_s=7), 0.5) == 7.5
    assert policy.pause_s(9, lost, 1.0) is None


def test_all_attempts_share_one_deadline() -> None:
    now = [100.0]
    attempts = Attempts(RetryPolicy(initial_s=1), 3.0, clock=lambda: now[0], jitter=lambda: 1.0)
    assert attempts.remaining_s == 3.0
    now[0] = 101.0
    assert attempts.pause_s(errors.Unavailable("lost")) == 1.0
    assert attempts.maybe_done
    now[0] = 102.5
    with pytest.raises(errors.Unavailable):
        attempts.pause_s(errors.Unavailable("lost"))
    now[0] = 200.0
    assert attempts.remaining_s == 0.0
