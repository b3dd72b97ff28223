"""Traces of calls and swaps, for a collector that speaks OTLP: with `--otlp-endpoint`, and the extra `otel`.

Only this module imports OpenTelemetry, and only a server that is asked for traces imports it. A call is a span; its
stages, queue, decode, encode, and search or commit, are spans below it, made when its job is done from the times that
the job has noted, so that workers know nothing of traces. What is sampled, and more, is for OpenTelemetry's own
environment variables to say (OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Final, Self

import grpc
from opentelemetry import context, trace
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from server import logs
from server.jobs import IngestJob, Job
from server.swapper import Attempt

_STREAM: Final = "Catalog/Ingest"
_IN_STREAM: Final = context.create_key("everlook-in-stream")
_EXPORT_S: Final = 5  # for the collector to take spans
_STOP_S: Final = 5.0  # for the last of them


class Tracing:
    """Makes spans, and hands them to a processor until `close`. Spans are made on the event loop."""

    def __init__(self, processor: SpanProcessor, version: str) -> None:
        resource = Resource.create({SERVICE_NAME: "everlook", SERVICE_VERSION: version})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("everlook.server", version)
        self._w3c = TraceContextTextMapPropagator()

    @classmethod
    def to_collector(cls, endpoint: str, version: str) -> Self:
        """For the collector at a URL: http:// without, https:// with encryption. What it does not take is dropped.

        Errors: ImportError without the extra.
        """
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        return cls(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_S)), version)

    def close(self) -> None:
        """Hands over what is left, within a few seconds."""
        last = threading.Thread(target=self._provider.shutdown, name="last traces", daemon=True)
        last.start()
        last.join(_STOP_S)

    def begin_call(self, rpc: str, metadata: Mapping[str, str | bytes], request: str) -> CallSpan:
        """The span of a call, below the caller's own (W3C traceparent), and from here on that of this context, which
        is the call's task."""
        service, _, method = rpc.partition("/")
        given = {name: value for name, value in metadata.items() if isinstance(value, str)}
        span = self._tracer.start_span(
            f"everlook.v1.{rpc}",
            self._w3c.extract(given),
            SpanKind.SERVER,
            {
                "rpc.system": "grpc",
                "rpc.service": f"everlook.v1.{service}",
                "rpc.method": method,
                "everlook.request_id": request,
            },
        )
        context.attach(context.set_value(_IN_STREAM, rpc == _STREAM, trace.set_span_in_context(span)))
        if span.is_recording():
            logs.in_trace(trace.format_trace_id(span.get_span_context().trace_id))
        return CallSpan(span)

    def job(self, job: Job) -> None:
        """The spans of a job that is done, below the call's. An item of a stream, which may be one of millions, is a
        trace of its own, with a link to the stream."""
        call = trace.get_current_span()
        if not call.is_recording():
            return
        begin_ns = _unix_ns(job.enqueued_at, time.monotonic())
        stages = [("queue", begin_ns, job.timing.queue_s)]
        for name, began in job.timing.began.items():
            stages.append((name, _unix_ns(began, time.perf_counter()), getattr(job.timing, f"{name}_s")))
        if isinstance(job, IngestJob) and context.get_value(_IN_STREAM):
            root = self._tracer.start_span(
                f"everlook.v1.{_STREAM} item",
                context.Context(),
                attributes={"everlook.request_id": job.request},
                links=[Link(call.get_span_context())],
                start_time=begin_ns,
            )
            self._spans(root, stages)
            root.end()
        else:
            self._spans(call, stages)

    def swap(self, attempt: Attempt) -> None:
        """The span of a swap with its phases, below the call that asked for it, if one did."""
        phases = [(name, _unix_ns(began, time.perf_counter()), took_s) for name, began, took_s in attempt.phases]
        span = self._tracer.start_span(
            "swap",
            attributes={"everlook.generation": attempt.number, "everlook.result": attempt.result},
            start_time=phases[0][1] if phases else None,
        )
        self._spans(span, phases)
        if attempt.result == "failed":
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    def _spans(self, parent: Span, stages: list[tuple[str, int, float]]) -> None:
        below = trace.set_span_in_context(parent)
        for name, began_ns, took_s in stages:
            span = self._tracer.start_span(name, below, start_time=began_ns)
            span.end(began_ns + round(took_s * 1e9))


class CallSpan:
    """The span of a call that is under way."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def end(self, code: grpc.StatusCode, *, fault: bool) -> None:
        """With the code that the call ended with; it is an error of the span only where it is the server's fault."""
        self._span.set_attribute("rpc.grpc.status_code", code.value[0])
        if fault:
            self._span.set_status(Status(StatusCode.ERROR, code.name))
        self._span.end()


def _unix_ns(at: float, now: float) -> int:
    """A time of a clock that says `now`, in nanoseconds since 1970."""
    return time.time_ns() - round((now - at) * 1e9)
