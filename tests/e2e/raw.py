"""What any app sees that has only the .proto: stubs, messages, gRPC codes and google.rpc details."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from everlook.v1 import everlook_pb2 as pb
from everlook.v1 import everlook_pb2_grpc as pb_grpc

TIMEOUT_S = 30.0


class Stubs:
    """The three services over one channel; `call` reaches any path with any bytes."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.search = pb_grpc.SearchStub(channel)
        self.catalog = pb_grpc.CatalogStub(channel)
        self.admin = pb_grpc.AdminStub(channel)

    def call(self, path: str, request: bytes) -> bytes:
        """A unary call with bytes that need not be a message."""
        call: Any = self.channel.unary_unary(path)
        return bytes(call(request, timeout=TIMEOUT_S))

    def stream(self, path: str, *requests: bytes) -> list[bytes]:
        """A call with a stream both ways, to its end."""
        call: Any = self.channel.stream_stream(path)
        return list(call(iter(requests), timeout=TIMEOUT_S))

    def state(self) -> tuple[bytes, bytes]:
        """Everything of the server that a write would change."""
        status = self.admin.Status(pb.StatusRequest(), timeout=TIMEOUT_S)
        return status.catalogue.SerializeToString(), status.generation.SerializeToString()


@dataclass(frozen=True)
class Refusal:
    """How a call failed, by its code and its google.rpc details; `details` names those that came."""

    code: str
    message: str
    details: frozenset[str]
    domain: str = ""
    reason: str = ""
    field: str = ""
    got: str = ""
    expected: str = ""
    resource: str = ""
    retry_after_s: float | None = None


def refusal(call: Callable[[], object]) -> Refusal:
    """Makes a call that must fail. Unary calls fail when they are made, streams when they are read."""
    try:
        result = call()
        if isinstance(result, Iterator):
            list(result)
    except grpc.RpcError as error:
        return parse(error)
    raise AssertionError(f"the call was answered: {result!r}")


def parse(error: Any) -> Refusal:
    """What a failed call says."""
    trailers: dict[str, bytes] = dict(error.trailing_metadata() or ())
    packed = trailers.get("grpc-status-details-bin")
    code, message = error.code().name, error.details() or ""
    if packed is None:
        return Refusal(code, message, frozenset())
    status = status_pb2.Status.FromString(packed)
    assert (status.code, status.message) == (error.code().value[0], message)
    found = {each.TypeName().rsplit(".", 1)[1]: each.value for each in status.details}
    info = error_details_pb2.ErrorInfo.FromString(found["ErrorInfo"])
    request = error_details_pb2.BadRequest.FromString(found.get("BadRequest", b""))
    resource = error_details_pb2.ResourceInfo.FromString(found.get("ResourceInfo", b""))
    retry = error_details_pb2.RetryInfo.FromString(found.get("RetryInfo", b"")).retry_delay
    field = request.field_violations[0].field if request.field_violations else info.metadata.get("field", "")
    return Refusal(
        code=code,
        message=message,
        details=frozenset(found),
        domain=info.domain,
        reason=info.reason,
        field=field,
        got=info.metadata.get("got", ""),
        expected=info.metadata.get("expected", ""),
        resource=resource.resource_name,
        retry_after_s=retry.seconds + retry.nanos / 1e9 if "RetryInfo" in found else None,
    )
