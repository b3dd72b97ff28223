"""Every error that the client raises. The class says what the caller can do about it.

    EverlookClientError
    ├── InvalidRequest          change the request; nothing was changed
    ├── NotFound                no item has that id
    ├── GenerationNotFound      no generation has that number
    ├── PreconditionFailed      the request is right, the server's state is not
    │   ├── ModelMismatch       embed again with the serving model, then retry
    │   └── NotReady            what is asked for cannot be done as things stand; the message says why
    ├── Unauthorized            the token or certificate is missing, wrong, or allows less
    ├── Overloaded              try again after `retry_after_s`; when that is None, trying again does not help
    ├── Unavailable             the server is starting, stopping or out of reach; try again
    ├── DeadlineExceeded        the deadline passed first
    ├── Cancelled               the client was closed
    ├── Unimplemented           this server does not have that capability
    ├── DataDamaged             what the server holds of this item is damaged; an operator must look
    └── ServerFault             a fault of the server; its log has the cause, by `request_id`

An error comes from a failed call (`from_rpc_error` reads its google.rpc details), from the `Error` message inside
a stream or batch, or from the client itself, which refuses what it knows to be wrong. All carry the same facts.
"""

from __future__ import annotations

from typing import Any, Protocol

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

_DETAILS_TRAILER = "grpc-status-details-bin"
_DOMAIN = "everlook"


class EverlookClientError(Exception):
    """The root.

    reason: stable, for programs: a name of the protocol's `ErrorReason` without its prefix; "" when there is none.
    field, got, expected: which part of the request is wrong, and how; "" where that does not apply.
    retry_after_s: when to try again, in seconds; None when the server did not say.
    request_id: of the call, by which the server's log has it; "" for what failed without a call, or within a batch.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        field: str = "",
        got: str = "",
        expected: str = "",
        retry_after_s: float | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.field = field
        self.got = got
        self.expected = expected
        self.retry_after_s = retry_after_s
        self.request_id = request_id

    def __str__(self) -> str:
        """The message, with the facts behind it."""
        facts = (("field", self.field), ("got", self.got), ("expected", self.expected))
        known = [f"{name} {value}" for name, value in facts if value]
        return f"{self.message} ({'; '.join(known)})" if known else self.message


class InvalidRequest(EverlookClientError):
    """The request can never succeed as it is."""


class NotFound(EverlookClientError):
    """No item has that id; `got` holds it."""


class GenerationNotFound(EverlookClientError):
    """No generation has that number; `got` holds it."""


class PreconditionFailed(EverlookClientError):
    """The request is right, the server's state is not."""


class ModelMismatch(PreconditionFailed):
    """The vector is of the model `got`; the serving model is `expected`."""


class NotReady(PreconditionFailed):
    """What is asked for cannot be done as things stand, such as promoting a generation that has failed a gate."""


class Unauthorized(EverlookClientError):
    """The token or certificate is missing, wrong, or allows less."""


class Overloaded(EverlookClientError):
    """A queue or the disk is full, or a message is over the size limit; nothing was changed."""


class Unavailable(EverlookClientError):
    """The server is starting, stopping or out of reach."""


class DeadlineExceeded(EverlookClientError):
    """The deadline passed first. A write may have happened; the same write again is safe."""


class Cancelled(EverlookClientError):
    """The client was closed, before the call or during it."""


class Unimplemented(EverlookClientError):
    """This server does not have that capability."""


class DataDamaged(EverlookClientError):
    """What the server holds of this item is damaged."""


class ServerFault(EverlookClientError):
    """A fault of the server, or an answer that this client does not know."""


_BY_CODE: dict[grpc.StatusCode, type[EverlookClientError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: PreconditionFailed,
    grpc.StatusCode.UNAUTHENTICATED: Unauthorized,
    grpc.StatusCode.PERMISSION_DENIED: Unauthorized,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    # Sent by a server that stops, for what its transport has taken in and no handler has begun.
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
    grpc.StatusCode.DATA_LOSS: DataDamaged,
}
_BY_REASON: dict[tuple[grpc.StatusCode, str], type[EverlookClientError]] = {
    (grpc.StatusCode.NOT_FOUND, "GENERATION_NOT_FOUND"): GenerationNotFound,
    (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_MISMATCH"): ModelMismatch,
    (grpc.StatusCode.FAILED_PRECONDITION, "NOT_READY"): NotReady,
}
_CODE_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


def error_class(code: int | grpc.StatusCode, reason: str) -> type[EverlookClientError]:
    """The class for a gRPC code, by number or name; ServerFault for one that has no class of its own."""
    known = _CODE_BY_NUMBER.get(code) if isinstance(code, int) else code
    if known is None:
        return ServerFault
    return _BY_REASON.get((known, reason)) or _BY_CODE.get(known, ServerFault)


class _FailedCall(Protocol):
    """What grpc's sync and asyncio errors have in common."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> Any: ...


def from_rpc_error(error: _FailedCall, request_id: str = "") -> EverlookClientError:
    """The typed error of a failed call. Details that are missing or cannot be read leave their facts empty.

    request_id: that was sent; the server may have made another of it, and says so.
    """
    reason = field = got = expected = ""
    retry_after_s = None
    for detail in _details(error):
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
            if info.domain == _DOMAIN:
                reason = info.reason
                got, expected = info.metadata.get("got", got), info.metadata.get("expected", expected)
                field = field or info.metadata.get("field", "")
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            violations = error_details_pb2.BadRequest.FromString(detail.value).field_violations
            field = violations[0].field if violations else field
        elif detail.Is(error_details_pb2.ResourceInfo.DESCRIPTOR):
            got = got or error_details_pb2.ResourceInfo.FromString(detail.value).resource_name
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
            retry_after_s = delay.seconds + delay.nanos / 1e9
        elif detail.Is(error_details_pb2.RequestInfo.DESCRIPTOR):
            request_id = error_details_pb2.RequestInfo.FromString(detail.value).request_id or request_id
    return error_class(error.code(), reason)(
        error.details() or error.code().name,
        reason=reason,
        field=field,
        got=got,
        expected=expected,
        retry_after_s=retry_after_s,
        request_id=request_id,
    )


def _details(error: _FailedCall) -> list[any_pb2.Any]:
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_TRAILER and isinstance(value, bytes):
            try:
                return list(status_pb2.Status.FromString(value).details)
            except DecodeError:
                return []
    return []
