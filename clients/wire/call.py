"""What every call has: its path and message, what of a value a message cannot hold, and the errors inside an answer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import DecodeError, Message

from clients.errors import EverlookClientError, InvalidRequest, ServerFault, error_class
from everlook.v1 import everlook_pb2 as pb

T = TypeVar("T")


@dataclass(frozen=True)
class Call(Generic[T]):
    """One unary call, ready to send: its path, message, and how the response's bytes become the answer.

    when_gone: the answer when a repeated attempt ends in NOT_FOUND, because then an earlier one did the work; None when
    NOT_FOUND is an error like any other. once: it is not safe to repeat. patience_s: its deadline at the least, unless
    the caller sets one.
    """

    path: str
    message: Message
    parse: Callable[[bytes], T]
    when_gone: Callable[[], T] | None = None
    once: bool = False
    patience_s: float = 0.0

    @property
    def request(self) -> bytes:
        return self.message.SerializeToString()

    def answer(self, response: bytes) -> T:
        """Errors: ServerFault when the response is not the message that the call expects."""
        try:
            return self.parse(response)
        except DecodeError as error:
            raise ServerFault(f"the answer to {self.path} cannot be read: {error}") from error


def method_path(service: str, method: str) -> str:
    return f"/everlook.v1.{service}/{method}"


@contextlib.contextmanager
def refusing(field: str, got: object) -> Iterator[None]:
    """Turns what protobuf says of a value that a message cannot hold into InvalidRequest."""
    try:
        yield
    except (TypeError, ValueError, OverflowError) as error:  # ValueError: text with a lone surrogate, too
        raise InvalidRequest(
            f"{field} cannot be sent: {error}", reason="INVALID_FIELD", field=field, got=ascii(got)[:200]
        ) from error


def texts(field: str, values: Iterable[str]) -> list[str]:
    """Errors: InvalidRequest for one text in place of several."""
    if isinstance(values, str):  # which is iterable, too
        raise InvalidRequest(f"{field} is one text", field=field, got=values, expected="a list of texts")
    return list(values)


def in_band_error(error: pb.Error) -> EverlookClientError:
    """The error of one item of a stream, or one query of a batch."""
    known = pb.ErrorReason.DESCRIPTOR.values_by_number.get(error.reason)
    reason = known.name.removeprefix("ERROR_REASON_") if known is not None and error.reason else ""
    return error_class(error.code, reason)(
        error.message,
        reason=reason,
        field=error.field,
        got=error.got,
        expected=error.expected,
        retry_after_s=error.retry_after_s if error.HasField("retry_after_s") else None,
    )
