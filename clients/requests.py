"""Request ids: every call has one, which the server writes to its log, and which the call's error names.

A call gets a new one, the same for all its attempts; or that of the block which it is in:

    with request_id("order-7"):
        client.search(image=photo)
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Final

from clients.errors import InvalidRequest

REQUEST_ID: Final = "x-request-id"  # the key in a call's metadata

_SANE: Final = re.compile(r"[A-Za-z0-9_.:/+=-]{1,64}")
_given: ContextVar[str] = ContextVar("request_id", default="")


@contextlib.contextmanager
def request_id(id: str) -> Iterator[None]:
    """Calls that begin in the block have this id: of this thread or task, and of tasks that it starts.

    Errors: InvalidRequest for anything but 1 to 64 ASCII letters, digits, and _.:/+=- among them.
    """
    if not _SANE.fullmatch(id):
        raise InvalidRequest(
            "a request id is a short token",
            field="request_id",
            got=id[:80],
            expected="1 to 64 ASCII letters, digits or _.:/+=-",
        )
    before = _given.set(id)
    try:
        yield
    finally:
        _given.reset(before)


def id_of_call() -> str:
    """The id for a call that begins here."""
    return _given.get() or secrets.token_hex(8)
