"""The one table from the engine's errors to gRPC codes, and the google.rpc details that go with them."""

from __future__ import annotations

import logging
import uuid

import grpc
from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import error_details_pb2, status_pb2

from indexer import errors
from server import logs

log = logging.getLogger(__name__)

DOMAIN = "everlook"
DETAILS_KEY = "grpc-status-details-bin"

CODES: dict[type[errors.EverlookError], grpc.StatusCode] = {
    errors.InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ModelMismatch: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ItemNotFound: grpc.StatusCode.NOT_FOUND,
    errors.GenerationNotFound: grpc.StatusCode.NOT_FOUND,
    errors.NotReady: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.NotServing: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlinePassed: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Unsupported: grpc.StatusCode.UNIMPLEMENTED,
    errors.Damaged: grpc.StatusCode.DATA_LOSS,
}

FAULTS = (
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.UNAVAILABLE,
)
"""Of the server; all other codes say something of the call."""

_RESOURCES = {errors.ItemNotFound: "Item", errors.GenerationNotFound: "Generation"}


def code_of(error: errors.EverlookError) -> grpc.StatusCode:
    """The gRPC code of an error: the entry of its nearest ancestor in `CODES`."""
    for kind in type(error).__mro__:
        if kind in CODES:
            return CODES[kind]
    return grpc.StatusCode.INTERNAL


def known(error: BaseException) -> errors.EverlookError:
    """`error` itself when it is one of the engine's; otherwise a stand-in that names only the entry in the log, by the
    id of the call where there is one.

    Damage is logged too: it is the operator who must look.
    """
    if isinstance(error, errors.Damaged):
        log.error("%s", error.message, exc_info=error)
    if isinstance(error, errors.EverlookError):
        return error
    reference = logs.request_id() or uuid.uuid4().hex[:16]
    log.error("internal error", exc_info=error, extra={"request_id": reference})
    return errors.EverlookError(f"a fault of the server; its log has it as {reference}")


def to_status(error: errors.EverlookError) -> status_pb2.Status:
    """The google.rpc.Status of an error: code, message, and details for programs."""
    details: list[message.Message] = [
        error_details_pb2.ErrorInfo(
            reason=error.reason,
            domain=DOMAIN,
            metadata={
                k: v for k, v in {"field": error.field, "got": error.got, "expected": error.expected}.items() if v
            },
        )
    ]
    if isinstance(error, errors.InvalidInput):
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=_sentence(error))
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    for kind, name in _RESOURCES.items():
        if isinstance(error, kind):
            resource = {"resource_type": f"everlook.v1.{name}", "resource_name": error.got}
            details.append(error_details_pb2.ResourceInfo(**resource, description=error.message))
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(int(error.retry_after_s * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if request := logs.request_id():
        details.append(error_details_pb2.RequestInfo(request_id=request))
    status = status_pb2.Status(code=code_of(error).value[0], message=error.message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _sentence(error: errors.EverlookError) -> str:
    if not error.got and not error.expected:
        return error.message
    return f"{error.message}: got {error.got or 'nothing'}, expected {error.expected or 'something else'}"
