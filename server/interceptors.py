"""What every call has in common: it is counted and timed, and every error leaves it as a typed status."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from indexer.errors import MalformedMessage
from server.metrics import Metrics
from server.status import DETAILS_KEY, code_of, known, to_status

Handler = Any  # grpc.RpcMethodHandler carries its four functions as untyped attributes


class Malformed:
    """Stands in for a request that does not parse, so that the handler can answer it instead of gRPC's INTERNAL."""


_MALFORMED = Malformed()
_AT_DEADLINE_S = 0.02  # the caller's clock began earlier than ours: it hangs up a moment before we see the deadline


def _forgiving(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def deserialize(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError:
            return _MALFORMED

    return deserialize


def check_parsed(request: object) -> None:
    """Errors: MalformedMessage when gRPC could not parse the message."""
    if isinstance(request, Malformed):
        raise MalformedMessage(
            "the message does not parse: it is not one of everlook.v1, or text in it is not UTF-8",
            got="bytes that do not parse",
            expected="a message of everlook.v1 with UTF-8 text",
        )


class CallInterceptor(aio.ServerInterceptor):
    """Wraps every method of Everlook's own services. Health and reflection are left as they are."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler: Handler = await continuation(handler_call_details)
        method: str = handler_call_details.method
        if handler is None or not method.startswith("/everlook.v1."):
            return handler
        rpc = method.removeprefix("/everlook.v1.")
        parse = _forgiving(handler.request_deserializer)
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._streaming(rpc, handler.stream_stream), parse, handler.response_serializer
            )
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(rpc, handler.unary_stream), parse, handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(rpc, handler.unary_unary), parse, handler.response_serializer
        )

    def _unary(self, rpc: str, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
            with _Observed(self._metrics, rpc, context) as observed:
                try:
                    check_parsed(request)
                    return await method(request, context)
                except Exception as error:  # every error becomes a status; `known` logs what nobody foresaw
                    await observed.abort(error)

        return call

    def _streaming(
        self, rpc: str, method: Callable[..., AsyncGenerator[Any, None]]
    ) -> Callable[..., AsyncGenerator[Any, None]]:
        async def call(request: Any, context: aio.ServicerContext[Any, Any]) -> AsyncGenerator[Any, None]:
            with _Observed(self._metrics, rpc, context) as observed:
                try:
                    check_parsed(request)
                    async with aclosing(method(request, context)) as responses:
                        async for response in responses:
                            yield response
                except Exception as error:
                    await observed.abort(error)

        return call


class _Observed:
    """Counts one call when it ends, under the code that it ended with."""

    def __init__(self, metrics: Metrics, rpc: str, context: aio.ServicerContext[Any, Any]) -> None:
        self._metrics, self._rpc, self._context = metrics, rpc, context
        self._code = grpc.StatusCode.OK
        self._began = time.perf_counter()

    def __enter__(self) -> _Observed:
        return self

    async def abort(self, error: Exception) -> NoReturn:
        cause = known(error)
        self._code = code_of(cause)
        self._metrics.count_refusal(cause)
        details = ((DETAILS_KEY, to_status(cause).SerializeToString()),)
        await self._context.abort(self._code, cause.message, details)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            remaining = self._context.time_remaining()
            late = remaining is not None and remaining < _AT_DEADLINE_S
            self._code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
        self._metrics.calls.labels(rpc=self._rpc, code=self._code.name).inc()
        self._metrics.call_seconds.labels(rpc=self._rpc).observe(time.perf_counter() - self._began)
