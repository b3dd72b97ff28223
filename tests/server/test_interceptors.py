"""What every call has in common, over real gRPC: malformed bytes, typed statuses, and what is counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from grpc import aio
from prometheus_client import CollectorRegistry

from everlook.v1 import everlook_pb2 as pb
from everlook.v1 import everlook_pb2_grpc as pb_grpc
from indexer.errors import InvalidField, ItemNotFound, ModelMismatch, QueueFull, StorageFull
from server.interceptors import CallInterceptor, check_parsed
from server.metrics import Metrics
from tests.server.running import details_of, sample, status_of, until

BAD_UTF8 = b"\x0a\x02\xff\xfe"  # field 1, a text of two bytes that are no UTF-8
CUT_OFF = b"\x0a\x7fab"
OTHER_TYPE = b"\x08\x01"  # field 1 as a number


class Toy:
    """Three methods of the protocol that fail or wait as they are told."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.waits = False
        self.began = 0
        self.streams_closed = 0

    async def get(self, request: pb.GetRequest, context: Any) -> pb.GetResponse:
        await self._obey()
        return pb.GetResponse()

    async def ingest(self, request: AsyncIterator[Any], context: Any) -> AsyncGenerator[pb.IngestResponse, None]:
        try:
            async for each in request:
                check_parsed(each)
                yield pb.IngestResponse(id=each.item.id)
        finally:
            self.streams_closed += 1

    async def watch(self, request: Any, context: Any) -> AsyncGenerator[pb.WatchStatusResponse, None]:
        try:
            yield pb.WatchStatusResponse(event="once")
            await self._obey()
        finally:
            self.streams_closed += 1

    async def _obey(self) -> None:
        self.began += 1
        if self.waits:
            await asyncio.Event().wait()
        if self.error:
            raise self.error

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        get = grpc.unary_unary_rpc_method_handler(self.get, pb.GetRequest.FromString, pb.GetResponse.SerializeToString)
        ingest = grpc.stream_stream_rpc_method_handler(
            self.ingest, pb.IngestRequest.FromString, pb.IngestResponse.SerializeToString
        )
        watch = grpc.unary_stream_rpc_method_handler(
            self.watch, pb.WatchStatusRequest.FromString, pb.WatchStatusResponse.SerializeToString
        )
        return (
            grpc.method_handlers_generic_handler("everlook.v1.Catalog", {"Get": get, "Ingest": ingest}),
            grpc.method_handlers_generic_handler("everlook.v1.Admin", {"WatchStatus": watch}),
        )


def with_toy(scenario: Callable[[Toy, aio.Channel, CollectorRegistry], Awaitable[None]]) -> None:
    """Runs a scenario against a server of the toy."""

    async def run() -> None:
        toy, metrics = Toy(), Metrics(CollectorRegistry())
        server = aio.server(interceptors=[CallInterceptor(metrics)])
        server.add_generic_rpc_handlers(toy.handlers())
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                await scenario(toy, channel, metrics.registry)
        finally:
            await server.stop(None)

    asyncio.run(run())


def counted(registry: CollectorRegistry, rpc: str, code: str) -> float:
    return sample(registry, "everlook_calls_total", rpc=rpc, code=code)


def raw(channel: aio.Channel, rpc: str) -> Callable[[bytes], Awaitable[bytes]]:
    """The method with its bytes as they are."""
    call: Any = channel.unary_unary(f"/everlook.v1.{rpc}")
    return call  # type: ignore[no-any-return]


async def failure_of(call: Awaitable[Any]) -> grpc.RpcError:
    try:
        await call
    except grpc.RpcError as error:
        return error
    raise AssertionError("the call should have failed")


@pytest.mark.parametrize("data", [BAD_UTF8, CUT_OFF], ids=["text not UTF-8", "cut off"])
def test_bytes_that_do_not_parse_are_a_bad_request_with_its_reason(data: bytes) -> None:
    async def scenario(toy: Toy, channel: aio.Channel, registry: CollectorRegistry) -> None:
        status = status_of(await failure_of(raw(channel, "Catalog/Get")(data)))
        assert status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        info: Any = details_of(status)["ErrorInfo"]
        assert info.reason == "MALFORMED_MESSAGE"
        assert "UTF-8" in info.metadata["expected"]
        await until(lambda: counted(registry, "Catalog/Get", "INVALID_ARGUMENT") == 1)

    with_toy(scenario)


def test_a_field_of_another_type_is_an_unknown_field_as_protobuf_has_it() -> None:
    async def scenario(toy: Toy, channel: aio.Channel, registry: CollectorRegistry) -> None:
        assert await raw(channel, "Catalog/Get")(OTHER_TYPE) == b""

    with_toy(scenario)


def test_bytes_that_do_not_parse_in_the_middle_of_a_stream_end_it_after_the_answers_before() -> None:
    async def scenario(toy: Toy, channel: aio.Channel, registry: CollectorRegistry) -> None:
        sent: Any = iter([pb.IngestRequest(item=pb.Item(id="a")).SerializeToString(), CUT_OFF])
        call: Any = channel.stream_stream("/everlook.v1.Catalog/Ingest")(sent)
        assert pb.IngestResponse.FromString(await call.read()).id == "a"
        status = status_of(await failure_of(call.read()))
        assert status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        await until(lambda: counted(registry, "Catalog/Ingest", "INVALID_ARGUMENT") == 1)
        assert toy.streams_closed == 1

    with_toy(scenario)


@pytest.mark.parametrize(
    ("error", "code", "refusals"),
    [
        (None, "OK", 0),
        (InvalidField("no"), "INVALID_ARGUMENT", 0),
        (ItemNotFound("no"), "NOT_FOUND", 0),
        (ModelMismatch("no"), "FAILED_PRECONDITION", 0),
        (QueueFull("full"), "RESOURCE_EXHAUSTED", 1),
        (StorageFull("full"), "RESOURCE_EXHAUSTED", 1),
        (ValueError("secret"), "INTERNAL", 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_each_call_is_counted_under_its_code_and_refusals_under_their_reason(
    error: Exception | None, code: str, refusals: int
) -> None:
    async def scenario(toy: Toy, channel: aio.Channel, registry: CollectorRegistry) -> None:
        toy.error = error
        get = pb_grpc.CatalogStub(channel).Get
        for _ in range(3):
            if error is None:
                await get(pb.GetRequest())
            else:
                failure = await failure_of(get(pb.GetRequest()))
                assert failure.code().name == code
                assert "secret" not in str(failure)
        await until(lambda: counted(registry, "Catalog/Get", code) == 3)
        assert sample(registry, "everlook_call_seconds_count", rpc="Catalog/Get", code=code) == 3
        reason = getattr(error, "reason", "")
        assert sample(registry, "everlook_refusals_total", reason=reason) == 3 * refusals

    with_toy(scenario)


def test_a_call_that_its_caller_cancels_is_counted_as_cancelled() -> None:
    async def scenario(toy: Toy, channel: aio.Channel, registry: CollectorRegistry) -> None:
        toy.waits = True
        call: Any = pb_grpc.CatalogStub(channel).Get(pb.GetRequest(), timeout=60)
        await until(lambda: toy.began == 1)
        call.cancel()
        await until(lambda: counted(registry, "Catalog/Get", "CANCELLED") == 1)

    with_toy(scenario)


def test_a_call_that_runs_into_its_deadline_is_counted_as_such() -> None:
    async def scenario(toy: Toy, channel: aio.Channel, registry: CollectorRegistry) -> None:
        toy.waits = True
        failure = await failure_of(pb_grpc.CatalogStub(channel).Get(pb.GetRequest(), timeout=0.2))
        assert failure.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: counted(registry, "Catalog/Get", "DEADLINE_EXCEEDED") == 1)

    with_toy(scenario)


def test_a_stream_that_its_caller_cancels_is_closed_and_counted_as_cancelled() -> None:
    async def scenario(toy: Toy, channel: aio.Channel, registry: CollectorRegistry) -> None:
        toy.waits = True
        call: Any = pb_grpc.AdminStub(channel).WatchStatus(pb.WatchStatusRequest())
        await until(lambda: toy.began == 1)
        call.cancel()
        await until(lambda: counted(registry, "Admin/WatchStatus", "CANCELLED") == 1)
        assert toy.streams_closed == 1

    with_toy(scenario)


def test_an_error_in_the_middle_of_a_response_stream_is_a_typed_status_too() -> None:
    async def scenario(toy: Toy, channel: aio.Channel, registry: CollectorRegistry) -> None:
        toy.error = InvalidField("no", field="f")
        call: Any = pb_grpc.AdminStub(channel).WatchStatus(pb.WatchStatusRequest())
        assert (await call.read()).event == "once"
        info: Any = details_of(status_of(await failure_of(call.read())))["ErrorInfo"]
        assert info.metadata["field"] == "f"
        await until(lambda: counted(registry, "Admin/WatchStatus", "INVALID_ARGUMENT") == 1)

    with_toy(scenario)


def test_a_method_that_does_not_exist_is_unimplemented_and_makes_no_label() -> None:
    async def scenario(toy: Toy, channel: aio.Channel, registry: CollectorRegistry) -> None:
        failure = await failure_of(raw(channel, "Catalog/NoSuchMethod")(b""))
        assert failure.code() is grpc.StatusCode.UNIMPLEMENTED
        assert counted(registry, "Catalog/NoSuchMethod", "UNIMPLEMENTED") == 0

    with_toy(scenario)
