"""Request ids: from the caller or made, in every line of a call, in its trailers and in the details of its errors."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from everlook.v1 import everlook_pb2 as pb
from indexer.errors import InvalidField, NotServing, QueueFull
from server import logs
from server.batching import Lane
from server.jobs import ImageQuery, QueryJob
from server.pipeline import Pipeline
from tests.server.running import (
    TIMEOUT_S,
    Running,
    calls_of,
    details_of,
    engine_in,
    item,
    photo,
    running,
    status_of,
    until,
)
from tests.server.test_interceptors import Toy, with_toy


def alone(work: Callable[[], Any]) -> Any:
    """Runs in a context of its own, so that no call is left over."""
    return contextvars.copy_context().run(work)


@pytest.mark.parametrize("given", ["a", "order-7", "0af7651916cd43dd8448eb211c80319c", "Root=1-67:a/b+c_d.e", "x" * 64])
def test_a_short_token_of_the_callers_is_the_calls_id(given: str) -> None:
    assert alone(lambda: (logs.new_request(given), logs.request_id())) == (given, given)


@pytest.mark.parametrize("given", [None, "", "x" * 65, "a b", "a\nb", "ü", "a\x1b[31m", '"}', b"bytes"], ids=repr)
def test_anything_else_is_replaced_by_a_new_id(given: object) -> None:
    first, second = alone(lambda: logs.new_request(given)), alone(lambda: logs.new_request(given))
    assert re.fullmatch(r"[0-9a-f]{16}", first)
    assert first != second


def filtered(**extra: object) -> dict[str, Any]:
    record = logging.makeLogRecord({"msg": "m", **extra})
    assert logs.add_request(record)
    return {name: value for name, value in vars(record).items() if name in ("request_id", "request_ids", "trace_id")}


def test_a_line_names_its_call_or_all_calls_of_a_batch_or_none() -> None:
    def work() -> None:
        logs.work_for(["a", "", "b", "a"])
        assert filtered() == {"request_ids": ("a", "b")}
        logs.work_for(["a", "a"])
        assert filtered() == {"request_id": "a"}
        assert filtered(request_id="of its own") == {"request_id": "of its own"}
        logs.in_trace("t1")
        assert filtered() == {"request_id": "a", "trace_id": "t1"}
        logs.work_for([])
        logs.in_trace("")
        assert filtered() == {}

    alone(work)
    assert filtered() == {}


def test_a_job_carries_its_call_to_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def answer(jobs: object) -> list[object]:
        seen.append(logs.request_id())
        return []

    async def run() -> None:
        with engine_in(tmp_path) as engine:
            calls = calls_of(engine)
            monkeypatch.setattr(calls.pipeline, "_answer", answer)
            async with calls.pipeline:
                logs.new_request("order-7")
                job = QueryJob(asyncio.get_running_loop().create_future(), None, ImageQuery(b""), None)
                assert (job.request, job.lane) == ("order-7", Lane.QUERY)
                calls.pipeline.submit(job)
                await until(lambda: seen == ["order-7"])
                assert await calls.read(logs.request_id) == "order-7"

    asyncio.run(run())


# ---------------------------------------------------------------------------------------------------- over the wire


def trailer(call: Any) -> str:
    """The id in a call's trailers."""
    return str(dict(call.trailing_metadata())[logs.REQUEST_ID])


def test_every_answer_names_its_call_whether_it_succeeds_or_fails(server: Running) -> None:
    metadata = ((logs.REQUEST_ID, "order-7"),)
    server.put(item("i1"), photo(1))
    response, call = server.catalog.Get.with_call(pb.GetRequest(id="i1"), timeout=TIMEOUT_S, metadata=metadata)
    assert (response.item.item.id, trailer(call)) == ("i1", "order-7")
    with pytest.raises(grpc.RpcError) as caught:
        server.catalog.Get(pb.GetRequest(id="nobody"), timeout=TIMEOUT_S, metadata=metadata)
    assert trailer(caught.value) == "order-7"
    info: Any = details_of(status_of(caught.value))["RequestInfo"]
    assert info.request_id == "order-7"
    ids = {trailer(server.catalog.Get.with_call(pb.GetRequest(id="i1"), timeout=TIMEOUT_S)[1]) for _ in range(3)}
    assert len(ids) == 3
    stream = server.catalog.Ingest(iter([]), timeout=TIMEOUT_S, metadata=metadata)
    assert (list(stream), trailer(stream)) == ([], "order-7")


def lines_of(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """What was logged of calls."""
    return [{"level": each.levelname, **vars(each)} for each in caplog.records if each.name == "server.calls"]


@pytest.mark.parametrize(
    ("error", "level", "code", "reason"),
    [
        (InvalidField("no", field="k"), "INFO", "INVALID_ARGUMENT", "INVALID_FIELD"),
        (QueueFull("full"), "INFO", "RESOURCE_EXHAUSTED", "QUEUE_FULL"),
        (NotServing("stopping"), "WARNING", "UNAVAILABLE", "NOT_SERVING"),
        (ValueError("secret"), "WARNING", "INTERNAL", "INTERNAL"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_a_call_that_fails_is_one_line_with_all_that_helps(
    error: Exception, level: str, code: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(toy: Toy, channel: Any, registry: object) -> None:
        toy.error = error
        call = channel.unary_unary("/everlook.v1.Catalog/Get")
        with pytest.raises(grpc.RpcError):
            await call(pb.GetRequest(id="i1").SerializeToString(), metadata=((logs.REQUEST_ID, "order-7"),))
        await until(lambda: len(lines_of(caplog)) == 1)

    caplog.set_level(logging.INFO)
    with_toy(scenario)
    (line,) = lines_of(caplog)
    shown = {
        name: line[name] for name in ("level", "rpc", "code", "reason", "request_id", "received_bytes", "sent_bytes")
    }
    assert shown == {
        "level": level,
        "rpc": "Catalog/Get",
        "code": code,
        "reason": reason,
        "request_id": "order-7",
        "received_bytes": 4,
        "sent_bytes": 0,
    }
    assert 0 < line["seconds"] < TIMEOUT_S
    assert line["peer"].startswith("ipv4:127.0.0.1:")
    if isinstance(error, ValueError):
        assert "secret" not in line["error"]
        (fault,) = [each for each in caplog.records if each.name == "server.status"]
        assert vars(fault)["request_id"] == "order-7"


def test_a_query_of_a_batch_and_an_item_of_a_stream_that_fail_are_lines_of_the_call_that_goes_on(
    server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    metadata = ((logs.REQUEST_ID, "order-8"),)
    batch = pb.BatchSearchRequest(requests=[pb.SearchRequest(item_id="nobody")])
    items = iter([pb.IngestRequest(item=item("bad"), image=b"no photo")])
    caplog.set_level(logging.INFO)
    server.search.BatchSearch(batch, timeout=TIMEOUT_S, metadata=metadata)
    list(server.catalog.Ingest(items, timeout=TIMEOUT_S, metadata=metadata))
    names = ("level", "message", "rpc", "code", "reason", "request_id")
    lines = [line for line in lines_of(caplog) if line["request_id"] == "order-8"]
    assert [[line[name] for name in names] for line in lines] == [
        ["INFO", "a part of a call failed", "Search/BatchSearch", "NOT_FOUND", "ITEM_NOT_FOUND", "order-8"],
        ["INFO", "a part of a call failed", "Catalog/Ingest", "INVALID_ARGUMENT", "IMAGE_UNREADABLE", "order-8"],
    ]


def test_a_fault_of_the_server_in_one_query_of_a_batch_is_a_warning_and_counted_as_a_fault(
    server: Running, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(Pipeline, "submit", lost)
    caplog.set_level(logging.INFO)
    batch = pb.BatchSearchRequest(requests=[pb.SearchRequest(item_id="i1")] * 2)
    answer = server.search.BatchSearch(batch, timeout=TIMEOUT_S, metadata=((logs.REQUEST_ID, "order-9"),))
    assert [each.error.reason for each in answer.results] == [pb.ERROR_REASON_INTERNAL] * 2
    lines = [line for line in lines_of(caplog) if line["request_id"] == "order-9"]
    assert [(line["level"], line["code"], line["reason"]) for line in lines] == [
        ("WARNING", "INTERNAL", "INTERNAL")
    ] * 2
    assert not any("secret" in line["error"] for line in lines)
    assert 'everlook_parts_total{code="INTERNAL",rpc="Search/BatchSearch"} 2.0' in server.scrape()


def test_calls_that_succeed_are_lines_for_debugging_only(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(toy: Toy, channel: Any, registry: object) -> None:
        await channel.unary_unary("/everlook.v1.Catalog/Get")(b"")
        sent = iter([pb.IngestRequest(item=pb.Item(id="a"), image=b"12345").SerializeToString()])
        call = channel.stream_stream("/everlook.v1.Catalog/Ingest")(sent)
        assert [each async for each in call] == [pb.IngestResponse(id="a").SerializeToString()]

    caplog.set_level(logging.INFO)
    with_toy(scenario)
    assert lines_of(caplog) == []
    caplog.set_level(logging.DEBUG)
    with_toy(scenario)
    lines = [(line["rpc"], line["code"], line["received_bytes"], line["sent_bytes"]) for line in lines_of(caplog)]
    assert lines == [("Catalog/Get", "OK", 0, 0), ("Catalog/Ingest", "OK", 12, 3)]


def test_no_line_holds_a_photo(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = b"not a photo but a secret"
    with running(tmp_path) as server, pytest.raises(grpc.RpcError):
        server.search.Search(pb.SearchRequest(image=secret), timeout=TIMEOUT_S)
    assert lines_of(caplog)
    assert not any("secret" in str(vars(record)) for record in caplog.records)


def test_an_operators_swap_is_logged_under_the_call_that_asked_for_it(
    server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    keep = Keep()
    logging.getLogger("server.swapper").addHandler(keep)
    try:
        with pytest.raises(grpc.RpcError):
            server.admin.Promote(
                pb.PromoteRequest(number=99), timeout=TIMEOUT_S, metadata=((logs.REQUEST_ID, "promote-99"),)
            )
    finally:
        logging.getLogger("server.swapper").removeHandler(keep)
    assert ("making generation 99 live", "promote-99") in keep.found


class Keep(logging.Handler):
    """Keeps messages with the call that they belong to, as a handler of the server sees them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self.addFilter(logs.add_request)

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append((record.getMessage(), vars(record).get("request_id", "")))
