"""Traces: what spans a call leaves, whose they are, and that without them nothing of OpenTelemetry is even imported."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent import futures
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from pydantic import ValidationError

from everlook.v1 import everlook_pb2 as pb
from server.logs import REQUEST_ID, add_request
from server.swapper import Attempt
from tests.conftest import ROOT
from tests.server.running import TIMEOUT_S, Running, item, photo, running, settings_of

try:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
except ImportError:
    pytest.skip("OpenTelemetry is not installed: pip install 'everlook[otel]'", allow_module_level=True)

from server.tracing import Tracing

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
Spans = dict[str, ReadableSpan]


class Traced:
    """A server, and the spans that it has made."""

    def __init__(self, server: Running, exporter: InMemorySpanExporter) -> None:
        self.server = server
        self._exporter = exporter

    def spans(self, *names: str) -> Spans:
        """By name, once there are those that are named: a call ends a moment after its answer."""
        for _ in range(1000):
            found = {span.name: span for span in self._exporter.get_finished_spans()}
            if set(names) <= found.keys():
                return found
            time.sleep(0.01)
        raise AssertionError(f"only {sorted(found)}")

    def clear(self) -> None:
        time.sleep(0.05)
        self._exporter.clear()


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    exporter = InMemorySpanExporter()
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            made = Tracing(SimpleSpanProcessor(exporter), "1")
            patch.setattr(Tracing, "to_collector", lambda endpoint, version: made)
            patch.setattr("server.settings._installed", lambda module: True)
            folder = tmp_path_factory.mktemp("data")
            server = stack.enter_context(running(folder, otlp_endpoint="http://collector:4317"))
        server.put(item("i1"), photo(1))
        yield Traced(server, exporter)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def parent(span: ReadableSpan) -> int:
    assert span.parent is not None
    return int(span.parent.span_id)


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


def test_a_search_is_a_span_with_its_stages_below_it(traced: Traced) -> None:
    traced.clear()
    before = time.time_ns()
    metadata = ((REQUEST_ID, "order-7"),)
    traced.server.search.Search(pb.SearchRequest(image=photo(1)), timeout=TIMEOUT_S, metadata=metadata)
    spans = traced.spans("everlook.v1.Search/Search")
    assert set(spans) == {"everlook.v1.Search/Search", "queue", "decode", "encode", "search"}
    call = spans.pop("everlook.v1.Search/Search")
    assert call.parent is None
    assert attributes(call) == {
        "rpc.system": "grpc",
        "rpc.service": "everlook.v1.Search",
        "rpc.method": "Search",
        "rpc.grpc.status_code": 0,
        "everlook.request_id": "order-7",
    }
    assert {parent(span) for span in spans.values()} == {id_of(call)}
    in_order = sorted(spans.values(), key=lambda span: span.start_time or 0)
    assert [span.name for span in in_order] == ["queue", "decode", "encode", "search"]
    slack_ns = 20_000_000  # two clocks are set beside each other
    for span in (*in_order, call):
        assert span.start_time is not None
        assert span.end_time is not None
        assert before - slack_ns <= span.start_time <= span.end_time <= time.time_ns() + slack_ns


def test_a_call_is_a_part_of_its_callers_trace_as_w3c_has_it(traced: Traced) -> None:
    traced.clear()
    metadata = (("traceparent", f"00-{TRACE}-{CALLER}-01"),)
    traced.server.search.Search(pb.SearchRequest(item_id="i1"), timeout=TIMEOUT_S, metadata=metadata)
    spans = traced.spans("everlook.v1.Search/Search")
    assert set(spans) == {"everlook.v1.Search/Search", "queue", "search"}
    assert {f"{span.context.trace_id:032x}" for span in spans.values() if span.context} == {TRACE}
    assert f"{parent(spans['everlook.v1.Search/Search']):016x}" == CALLER


@pytest.mark.parametrize("traceparent", ["", "rubbish", f"00-{'0' * 32}-{CALLER}-01", f"00-{TRACE}-{CALLER}-01\xff"])
def test_a_traceparent_that_is_none_begins_a_trace(traceparent: str, traced: Traced) -> None:
    traced.clear()
    metadata = (("traceparent", traceparent.encode("latin-1").decode("ascii", "ignore") + "x"),)
    traced.server.catalog.Get(pb.GetRequest(id="i1"), timeout=TIMEOUT_S, metadata=metadata)
    assert traced.spans("everlook.v1.Catalog/Get")["everlook.v1.Catalog/Get"].parent is None


def test_what_the_caller_does_not_sample_is_not_traced(traced: Traced) -> None:
    traced.clear()
    metadata = (("traceparent", f"00-{TRACE}-{CALLER}-00"),)
    traced.server.search.Search(pb.SearchRequest(item_id="i1"), timeout=TIMEOUT_S, metadata=metadata)
    traced.server.catalog.Get(pb.GetRequest(id="i1"), timeout=TIMEOUT_S)
    assert set(traced.spans("everlook.v1.Catalog/Get")) == {"everlook.v1.Catalog/Get"}


def test_a_write_ends_in_its_commit(traced: Traced) -> None:
    traced.clear()
    traced.server.put(item("i2"), photo(2))
    spans = traced.spans("everlook.v1.Catalog/Put")
    assert set(spans) == {"everlook.v1.Catalog/Put", "queue", "decode", "encode", "commit"}


def test_an_item_of_a_stream_is_a_trace_of_its_own_that_leads_to_the_stream(traced: Traced) -> None:
    traced.clear()
    requests = [pb.IngestRequest(item=item(f"s{n}"), image=photo(n)) for n in range(3)]
    assert len(list(traced.server.catalog.Ingest(iter(requests), timeout=TIMEOUT_S))) == 3
    stream = traced.spans("everlook.v1.Catalog/Ingest")["everlook.v1.Catalog/Ingest"]
    found = [span for span in traced._exporter.get_finished_spans() if span.name == "everlook.v1.Catalog/Ingest item"]
    assert len(found) == 3
    assert len({span.context.trace_id for span in (*found, stream) if span.context}) == 4
    for span in found:
        assert span.parent is None
        assert [link.context for link in span.links] == [stream.context]


def test_a_call_that_fails_has_its_code_and_is_an_error_where_the_server_is_at_fault(traced: Traced) -> None:
    traced.clear()
    with pytest.raises(grpc.RpcError):
        traced.server.catalog.Get(pb.GetRequest(id="nobody"), timeout=TIMEOUT_S)
    span = traced.spans("everlook.v1.Catalog/Get")["everlook.v1.Catalog/Get"]
    assert attributes(span)["rpc.grpc.status_code"] == grpc.StatusCode.NOT_FOUND.value[0]
    assert span.status.is_unset


def test_a_swap_is_a_span_with_its_phases() -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing(SimpleSpanProcessor(exporter), "1")
    now = time.perf_counter()
    tracing.swap(Attempt(7, False, "failed", (("loading", now - 3, 1.0), ("checking", now - 2, 1.5))))
    tracing.swap(Attempt(8, True, "impossible", ()))
    tracing.close()
    loading, checking, failed, impossible = exporter.get_finished_spans()
    assert [loading.name, checking.name, failed.name, impossible.name] == ["loading", "checking", "swap", "swap"]
    assert parent(loading) == parent(checking) == id_of(failed)
    assert attributes(failed) == {"everlook.generation": 7, "everlook.result": "failed"}
    assert not failed.status.is_ok
    assert checking.end_time is not None
    assert checking.start_time is not None
    assert checking.end_time - checking.start_time == 1_500_000_000


def test_the_lines_of_a_traced_call_name_its_trace(traced: Traced, caplog: pytest.LogCaptureFixture) -> None:
    found: list[str | None] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            add_request(record)
            found.append(vars(record).get("trace_id"))

    keep, log = Keep(), logging.getLogger("server.calls")
    caplog.set_level(logging.INFO)
    log.addHandler(keep)
    metadata = (("traceparent", f"00-{TRACE}-{CALLER}-01"),)
    try:
        with pytest.raises(grpc.RpcError):
            traced.server.catalog.Get(pb.GetRequest(id="nobody"), timeout=TIMEOUT_S, metadata=metadata)
        for _ in range(500):
            if found:
                break
            time.sleep(0.01)
    finally:
        log.removeHandler(keep)
    assert found == [TRACE]


# ---------------------------------------------------------------------------------------------------- off, and wrong


def test_a_server_without_traces_imports_nothing_of_them() -> None:
    program = "import sys, server.__main__; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("endpoint", ["collector:4317", "ftp://collector", "", "http://"])
def test_an_endpoint_is_a_url(endpoint: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        settings_of(tmp_path, otlp_endpoint=endpoint)


def test_traces_without_their_extra_stop_the_start_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.settings._installed", lambda module: False)
    with pytest.raises(ValidationError, match=r"pip install 'everlook\[otel\]'"):
        settings_of(tmp_path, otlp_endpoint="http://collector:4317")


# ---------------------------------------------------------------------------------------------------- a collector


@contextmanager
def collector() -> Iterator[tuple[int, list[Any]]]:
    """A collector that keeps what it gets."""
    service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc")
    messages = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    got: list[Any] = []

    class Collector(service.TraceServiceServicer):  # type: ignore[misc,name-defined]
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
            got.append(request)
            return messages.ExportTraceServiceResponse()

    server = grpc.server(futures.ThreadPoolExecutor(1))
    service.add_TraceServiceServicer_to_server(Collector(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port, got
    finally:
        server.stop(None)


def names(exports: Sequence[Any]) -> set[str]:
    return {
        span.name
        for export in exports
        for each in export.resource_spans
        for scope in each.scope_spans
        for span in scope.spans
    }


def test_a_real_collector_gets_the_spans_when_the_server_stops_at_the_latest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc.trace_exporter")
    monkeypatch.setattr("server.tracing._STOP_S", 60.0)  # however busy the machine is
    with collector() as (port, got):
        with running(tmp_path, otlp_endpoint=f"http://127.0.0.1:{port}") as server:
            server.put(item("i1"), photo(1))
        assert {"everlook.v1.Catalog/Put", "queue", "commit"} <= names(got)
    (service,) = [
        each.value.string_value for each in got[0].resource_spans[0].resource.attributes if each.key == "service.name"
    ]
    assert service == "everlook"


def test_a_collector_that_is_not_there_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc.trace_exporter")
    monkeypatch.setattr("server.tracing._STOP_S", 0.5)
    before = set(threading.enumerate())
    with running(tmp_path, otlp_endpoint="http://127.0.0.1:1") as server:
        server.put(item("i1"), photo(1))
        server.ask_to_stop()
        server.thread.join(TIMEOUT_S)
        assert not server.thread.is_alive()
    for thread in set(threading.enumerate()) - before:  # the exporter tries again for a while, beside later tests
        thread.join(TIMEOUT_S)
        assert not thread.is_alive(), f"{thread.name} never ends"
