"""The parts together, in this process: bounds that gRPC holds, starts that fail, and stops."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from everlook.v1 import everlook_pb2 as pb
from indexer.catalogue import Catalogue
from indexer.errors import NotServing
from server.app import App
from tests.server.running import TIMEOUT_S, Running, details_of, item, photo, running, settings_of, status_of

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def wait_for_sample(server: Running, line: str) -> None:
    for _ in range(500):
        if line in server.scrape():
            return
        time.sleep(0.01)
    raise AssertionError(f"not in the metrics: {line}")


def health_of(server: Running, service: str = "") -> int:
    stub = health_pb2_grpc.HealthStub(server.channel)
    return int(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_S).status)


def test_a_stop_does_not_wait_for_who_watches_health_and_tells_them_first(tmp_path: Path) -> None:
    with running(tmp_path, drain_s=15.0) as server:
        watch = health_pb2_grpc.HealthStub(server.channel).Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        assert next(watch).status == SERVING
        began = time.monotonic()
        server.ask_to_stop()
        assert [each.status for each in watch] == [NOT_SERVING]
        server.thread.join(TIMEOUT_S)
        assert time.monotonic() - began < 10


def test_an_open_ingest_stream_ends_with_not_serving_when_the_server_stops(tmp_path: Path) -> None:
    with running(tmp_path, drain_s=15.0) as server:
        asked: list[pb.IngestRequest] = [pb.IngestRequest(item=item("a"), image=photo(1))]
        finished = asyncio.Event()

        def requests() -> Any:
            yield from asked
            while not finished.is_set():
                time.sleep(0.01)

        call: Any = server.catalog.Ingest(requests(), timeout=TIMEOUT_S)
        assert next(call).id == "a"
        server.ask_to_stop()
        with pytest.raises(grpc.RpcError) as ended:
            next(call)
        finished.set()
        error: Any = ended.value
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "RetryInfo" in details_of(status_of(error))


def test_a_broken_ingest_stream_is_counted_as_cancelled(server: Running) -> None:
    finished = asyncio.Event()

    def requests() -> Any:
        yield pb.IngestRequest(item=item("a"), image=photo(1))
        while not finished.is_set():
            time.sleep(0.01)

    call: Any = server.catalog.Ingest(requests(), timeout=TIMEOUT_S)
    assert next(call).id == "a"
    call.cancel()
    finished.set()
    wait_for_sample(server, 'everlook_calls_total{code="CANCELLED",rpc="Catalog/Ingest"} 1.0')


def test_a_message_past_the_size_limit_and_a_call_past_the_concurrent_ones_are_refused(tmp_path: Path) -> None:
    with running(tmp_path, max_message_bytes=1 << 20, max_concurrent_calls=2) as server:
        with pytest.raises(grpc.RpcError) as too_large:
            server.search.Search(pb.SearchRequest(image=bytes(2 << 20)), timeout=TIMEOUT_S)
        error: Any = too_large.value
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        stub = health_pb2_grpc.HealthStub(server.channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S) for _ in range(2)]
        assert [next(watch).status for watch in watches] == [SERVING] * 2
        with pytest.raises(grpc.RpcError) as one_more:
            server.admin.Status(pb.StatusRequest(), timeout=TIMEOUT_S)
        error = one_more.value
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for watch in watches:
            watch.cancel()


def test_a_writer_that_fails_for_good_turns_health_and_every_call_to_not_serving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise NotServing("the database is gone")

    with running(tmp_path) as server:
        server.put(item("a"), photo(1))
        assert health_of(server, "everlook.v1.Search") == SERVING
        monkeypatch.setattr(Catalogue, "apply", lost)
        for call in (
            lambda: server.put(item("b"), photo(2)),
            lambda: server.put(item("b"), photo(2)),
            lambda: server.search.Search(pb.SearchRequest(item_id="a"), timeout=TIMEOUT_S),
        ):
            with pytest.raises(grpc.RpcError) as failed:
                call()
            error: Any = failed.value
            assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert server.app.failed.is_set()
        assert not server.admin.Status(pb.StatusRequest(), timeout=TIMEOUT_S).serving
        assert health_of(server) == health_of(server, "everlook.v1.Search") == NOT_SERVING


@pytest.mark.parametrize("taken", ["port", "metrics_port"])
def test_a_start_on_a_port_that_is_taken_fails_and_leaves_nothing_open(
    server: Running, tmp_path: Path, taken: str
) -> None:
    busy = {"port": server.app.port, "metrics_port": server.app.metrics_port}[taken]

    async def start(**changes: object) -> None:
        async with App(settings_of(tmp_path, **changes)):
            pass

    with pytest.raises((OSError, RuntimeError)), running(tmp_path, **{taken: busy}):
        pass
    asyncio.run(start())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only one address of the loopback is there")
def test_the_metrics_page_listens_where_it_is_told_and_nowhere_else(tmp_path: Path) -> None:
    with running(tmp_path, metrics_host="127.0.0.2") as server:
        port = server.app.metrics_port
        with urllib.request.urlopen(f"http://127.0.0.2:{port}/metrics", timeout=TIMEOUT_S) as page:
            assert b"everlook_calls_total" in page.read()
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), TIMEOUT_S):
            pass
        assert server.admin.Status(pb.StatusRequest(), timeout=TIMEOUT_S).serving


def test_the_metrics_page_listens_by_default_where_the_server_does(tmp_path: Path) -> None:
    for unset in ({}, {"metrics_host": ""}):
        assert settings_of(tmp_path, host="10.0.0.8", **unset).metrics_address == "10.0.0.8"
    assert settings_of(tmp_path, host="10.0.0.8", metrics_host="10.0.0.7").metrics_address == "10.0.0.7"


def test_reflection_lists_the_services(server: Running) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    (answer,) = stub.ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=TIMEOUT_S
    )
    names = {service.name for service in answer.list_services_response.service}
    assert {"everlook.v1.Search", "everlook.v1.Catalog", "everlook.v1.Admin", "grpc.health.v1.Health"} <= names
