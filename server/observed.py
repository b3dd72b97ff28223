"""One call as an operator sees it: an id, a count, a time, a line in the log, and a trace where that is on.

A part that is answered by itself, a query of a batch or an item of a stream, is counted and logged beside it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

import grpc
from grpc import aio

from indexer.errors import EverlookError
from server import logs
from server.metrics import Metrics
from server.status import DETAILS_KEY, FAULTS, code_of, known, to_status

if TYPE_CHECKING:
    from server.tracing import CallSpan, Tracing

log = logging.getLogger("server.calls")

_AT_DEADLINE_S: Final = (
    0.02  # the caller's clock began earlier than ours: it hangs up a moment before we see the deadline
)


class Observed:
    """Begins a call in the context of its task. `with observed.serving(context):` is the time that it takes."""

    def __init__(
        self, rpc: str, metadata: Iterable[tuple[str, str | bytes]], metrics: Metrics, tracing: Tracing | None
    ) -> None:
        given = dict(metadata)
        self._rpc, self._metrics = rpc, metrics
        self._request = logs.new_request(given.get(logs.REQUEST_ID))
        self._span: CallSpan | None = None if tracing is None else tracing.begin_call(rpc, given, self._request)
        self._context: aio.ServicerContext[Any, Any]
        self._code = grpc.StatusCode.OK
        self._cause: EverlookError | None = None
        self._peer = ""
        self._began = 0.0
        self.received = self.sent = 0
        """Bytes of all messages."""

    def serving(self, context: aio.ServicerContext[Any, Any]) -> Self:
        """With gRPC's context, which there is when the method begins."""
        self._context = context
        # Now: once the call is over, as it is when a stream was cancelled, gRPC has nothing to ask, and crashes.
        self._peer = context.peer()
        context.set_trailing_metadata(((logs.REQUEST_ID, self._request),))
        return self

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        return self

    async def abort(self, error: Exception) -> NoReturn:
        """Ends the call with a typed status, whatever went wrong."""
        cause = self._cause = known(error)
        self._code = code_of(cause)
        self._metrics.count_refusal(cause)
        trailers = (DETAILS_KEY, to_status(cause).SerializeToString()), (logs.REQUEST_ID, self._request)
        await self._context.abort(self._code, cause.message, trailers)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        took_s = time.perf_counter() - self._began
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            remaining = self._context.time_remaining()
            late = remaining is not None and remaining < _AT_DEADLINE_S
            self._code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
        code = self._code.name
        self._metrics.calls.labels(rpc=self._rpc, code=code).inc()
        self._metrics.call_seconds.labels(rpc=self._rpc, code=code).observe(took_s)
        self._log(took_s)
        if self._span is not None:
            self._span.end(self._code, fault=self._code in FAULTS)

    def _log(self, took_s: float) -> None:
        """A line for a call that failed; at the level of debugging for every call. Never what it carried."""
        level = logging.DEBUG if self._code is grpc.StatusCode.OK else logging.INFO
        level = logging.WARNING if self._code in FAULTS else level
        if not log.isEnabledFor(level):
            return
        facts: dict[str, object] = {
            "rpc": self._rpc,
            "code": self._code.name,
            "seconds": took_s,
            "received_bytes": self.received,
            "sent_bytes": self.sent,
            "peer": self._peer,
            "request_id": self._request,
        }
        if self._cause is not None:
            facts |= {"reason": self._cause.reason, "error": self._cause.message}
        log.log(level, "a call ended" if self._code is grpc.StatusCode.OK else "a call failed", extra=facts)


def part_failed(rpc: str, error: Exception, metrics: Metrics) -> EverlookError:
    """Counts and logs that one query of a batch, or one item of a stream, failed in a call that goes on. Returns what
    it is answered with."""
    cause = known(error)
    code = code_of(cause)
    metrics.parts.labels(rpc=rpc, code=code.name).inc()
    metrics.count_refusal(cause)
    facts = {"rpc": rpc, "code": code.name, "reason": cause.reason, "error": cause.message}
    level = logging.WARNING if code in FAULTS else logging.INFO
    log.log(level, "a part of a call failed", extra={**facts, "request_id": logs.request_id()})
    return cause
