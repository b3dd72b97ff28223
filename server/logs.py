"""Which call a line of the log is about: an id that the caller gave or that is made here, in every line of that call.

The id is in the context of the call's task, which tasks and threads that it starts inherit; a job carries it to the
worker that does it, whose lines name all the calls of its batch.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Final

REQUEST_ID: Final = "x-request-id"
"""The key in a call's metadata: in the request, and in the trailers of the answer."""

_SANE: Final = re.compile(r"[A-Za-z0-9_.:/+=-]{1,64}")
_requests: ContextVar[tuple[str, ...]] = ContextVar("requests", default=())
_trace: ContextVar[str] = ContextVar("trace", default="")


def new_request(given: object = None) -> str:
    """Begins a call in this context: with the id that its caller gave, where that is a short token, or a new one."""
    id = given if isinstance(given, str) and _SANE.fullmatch(given) else secrets.token_hex(8)
    _requests.set((id,))
    return id


def request_id() -> str:
    """The call of this context; empty where there is none, or more than one."""
    found = _requests.get()
    return found[0] if len(found) == 1 else ""


def work_for(requests: Iterable[str]) -> None:
    """From here on, this thread works for these calls; empty ids are left out."""
    _requests.set(tuple(dict.fromkeys(id for id in requests if id)))


def in_trace(id: str) -> None:
    """Says of which trace the call of this context is a part."""
    _trace.set(id)


def add_request(record: logging.LogRecord) -> bool:
    """A filter that lets all pass, with `request_id`, or `request_ids` of several calls, and `trace_id`."""
    found = _requests.get()
    if len(found) == 1 and not hasattr(record, "request_id"):
        record.request_id = found[0]
    elif len(found) > 1:
        record.request_ids = found
    if trace := _trace.get():
        record.trace_id = trace
    return True
