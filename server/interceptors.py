"""What every call has in common: it is observed (`server.observed`), and every error leaves it as a typed status."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from indexer.errors import MalformedMessage
from server.metrics import Metrics
from server.observed import Observed

if TYPE_CHECKING:
    from server.tracing import Tracing

Handler = Any  # grpc.RpcMethodHandler carries its four functions as untyped attributes


class Malformed:
    """Stands in for a request that does not parse, so that the handler can answer it instead of gRPC's INTERNAL."""


_MALFORMED = Malformed()


def _forgiving(parse: Callable[[bytes], Any], observed: Observed) -> Callable[[bytes], Any]:
    def deserialize(data: bytes) -> Any:
        observed.received += len(data)
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
    """Wraps every method of Everlook's own services. Health and reflection are left as they are.

    What a method returns is made bytes here, so that this is a part of the call, too.
    """

    def __init__(self, metrics: Metrics, tracing: Tracing | None = None) -> None:
        self._metrics = metrics
        self._tracing = tracing

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
        observed = Observed(rpc, handler_call_details.invocation_metadata, self._metrics, self._tracing)
        parse = _forgiving(handler.request_deserializer, observed)
        if handler.request_streaming:
            streaming = _streaming(observed, handler.stream_stream, handler.response_serializer)
            return grpc.stream_stream_rpc_method_handler(streaming, parse)
        if handler.response_streaming:
            streaming = _streaming(observed, handler.unary_stream, handler.response_serializer)
            return grpc.unary_stream_rpc_method_handler(streaming, parse)
        return grpc.unary_unary_rpc_method_handler(
            _unary(observed, handler.unary_unary, handler.response_serializer), parse
        )


def _unary(
    observed: Observed, method: Callable[..., Awaitable[Any]], serialize: Callable[[Any], bytes]
) -> Callable[..., Awaitable[bytes]]:
    async def call(request: Any, context: aio.ServicerContext[Any, Any]) -> bytes:
        with observed.serving(context):
            try:
                check_parsed(request)
                data = serialize(await method(request, context))
                observed.sent += len(data)
                return data
            except Exception as error:  # every error becomes a status; `known` logs what nobody foresaw
                await observed.abort(error)

    return call


def _streaming(
    observed: Observed, method: Callable[..., AsyncGenerator[Any, None]], serialize: Callable[[Any], bytes]
) -> Callable[..., AsyncGenerator[bytes, None]]:
    async def call(request: Any, context: aio.ServicerContext[Any, Any]) -> AsyncGenerator[bytes, None]:
        with observed.serving(context):
            try:
                check_parsed(request)
                async with aclosing(method(request, context)) as responses:
                    async for response in responses:
                        data = serialize(response)
                        observed.sent += len(data)
                        yield data
            except Exception as error:
                await observed.abort(error)

    return call
