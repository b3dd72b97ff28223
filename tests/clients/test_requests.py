"""Request ids: what the server gets, one for all attempts of a call, and what its errors name."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest

from clients import AsyncClient, Client, Item, RetryPolicy, errors, request_id
from clients.requests import id_of_call
from tests.clients.conftest import QUICK, photo
from tests.clients.fake_server import Failure, FakeServer

ID = re.compile(r"[0-9a-f]{16}")


@pytest.fixture
def sent(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids that the server gets, in their order."""
    found: list[str] = []
    check = server._check

    def noted(method: str, context: grpc.ServicerContext) -> None:
        found.extend(str(value) for key, value in context.invocation_metadata() if key == "x-request-id")
        check(method, context)

    monkeypatch.setattr(server, "_check", noted)
    return found


def test_each_call_has_an_id_of_its_own_and_all_its_attempts_the_same(server: FakeServer, sent: list[str]) -> None:
    server.fail("Status", Failure(grpc.StatusCode.UNAVAILABLE), Failure(grpc.StatusCode.UNAVAILABLE))
    with Client(server.target, retries=QUICK, token="secret") as client:  # noqa: S106
        client.status()
        client.status()
    assert len(sent) == 4
    assert sent[0] == sent[1] == sent[2] != sent[3]
    assert all(ID.fullmatch(each) for each in sent)
    assert server.metadata["authorization"] == "Bearer secret"


def test_calls_within_a_block_have_its_id(client: Client, sent: list[str]) -> None:
    with request_id("order-7"):
        client.status()
        list(client.ingest([(Item("a", "red"), photo("red"))]))
        with request_id("order-7/b"):
            client.status()
        client.status()
    client.status()
    assert sent[:4] == ["order-7", "order-7", "order-7/b", "order-7"]
    assert ID.fullmatch(sent[4])


@pytest.mark.parametrize("id", ["", "a b", "ü", "a\n", "x" * 65])
def test_what_is_no_short_token_is_refused_before_any_call(id: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="short token"), request_id(id):
        pass
    assert ID.fullmatch(id_of_call())


def test_an_error_names_its_call(client: Client, server: FakeServer, sent: list[str]) -> None:
    with pytest.raises(errors.NotFound) as missing:
        client.get("nobody")
    assert [missing.value.request_id] == sent
    server.fail("Status", Failure(grpc.StatusCode.INTERNAL))
    with request_id("order-7"), pytest.raises(errors.ServerFault) as fault:
        client.status()
    assert fault.value.request_id == "order-7"


def test_a_call_that_no_server_heard_has_an_id_all_the_same() -> None:
    once = RetryPolicy(attempts=1)
    with (
        Client("127.0.0.1:1", retries=once) as client,
        request_id("order-7"),
        pytest.raises(errors.Unavailable) as down,
    ):
        client.status()
    assert down.value.request_id == "order-7"


def test_the_error_of_an_item_names_its_stream(client: Client) -> None:
    with request_id("import-3"):
        answers: Iterator[object] = client.ingest([(Item("a", "red"), b"no photo")])
    (answer,) = answers
    assert answer.error.request_id == "import-3"  # type: ignore[attr-defined]


def test_the_id_that_the_server_names_is_the_one(client: Client) -> None:
    class Failed:
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.INTERNAL

        def details(self) -> str:
            return "a fault"

        def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
            from google.protobuf import any_pb2
            from google.rpc import error_details_pb2, status_pb2

            packed = any_pb2.Any()
            packed.Pack(error_details_pb2.RequestInfo(request_id="the-servers"))
            return (("grpc-status-details-bin", status_pb2.Status(details=[packed]).SerializeToString()),)

    assert errors.from_rpc_error(Failed(), "ours").request_id == "the-servers"


def test_the_asyncio_client_does_the_same(server: FakeServer, sent: list[str]) -> None:
    async def items() -> AsyncIterator[tuple[Item, bytes]]:
        yield Item("a", "red"), b"no photo"

    async def run() -> None:
        async with AsyncClient(server.target, retries=QUICK) as client:
            with request_id("order-7"):
                await client.status()
                await asyncio.gather(client.status(), client.status())
                (answer,) = [each async for each in client.ingest(items())]
                assert answer.error is not None
                assert answer.error.request_id == "order-7"
            with pytest.raises(errors.NotFound) as missing:
                await client.get("nobody")
            assert missing.value.request_id == sent[-1] != "order-7"

    asyncio.run(run())
    assert sent[:4] == ["order-7"] * 4
