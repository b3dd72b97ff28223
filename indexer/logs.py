"""How the programs log: one line for each event, "pretty" for people or "json" for programs that read it.

Whatever a message holds, such as an id that a caller chose, stays in its line and in its field: JSON escapes it, and in
pretty lines what is not printable stands as in a Python string. The lines of a traceback are indented there, so that
none of them looks like the beginning of an entry.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final

from indexer.errors import InvalidField

STYLE: Final = "EVERLOOK_LOG_FORMAT"
"""The environment variable that names the style, also to the programs that the server starts."""
STYLES: Final = ("pretty", "json")
LINE_BYTES: Final = 256 << 10
"""No entry is longer."""

_MOST_TEXT: Final = 8 << 10  # characters of one message or field; each may become six bytes
_MOST_TRACEBACK: Final = 16 << 10  # of these the last ones, which say what was raised
_STANDARD: Final = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}

Filter = Callable[[logging.LogRecord], bool]


def configure(program: str, style: str, level: int, *filters: Filter) -> None:
    """Has this process write its log to standard error, unless somebody has configured logging before.

    `filters` are applied to each record in the thread that it comes from. Errors: InvalidField for another style.
    """
    if style not in STYLES:
        expected = " or ".join(STYLES)
        raise InvalidField(f"no log format {style!r}: {STYLE} is {expected}", field=STYLE, got=style, expected=expected)
    if logging.root.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json(program) if style == "json" else Pretty())
    for each in filters:
        handler.addFilter(each)
    logging.basicConfig(level=level, handlers=[handler])
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda end: _log_uncaught(end.exc_type, end.exc_value, end.exc_traceback)


def style_of(environment: Mapping[str, str]) -> str:
    """The style that an environment asks for."""
    return environment.get(STYLE) or STYLES[0]


def relay(program: str, line: bytes) -> None:
    """Logs what another program has written to its standard error: an entry as it is, anything else as a message."""
    text = line.decode("utf-8", "backslashreplace").rstrip("\r\n")
    # Past the levels of this process: the other program has left out what it does not want to be logged.
    logging.root.handle(_Relayed(program, logging.WARNING, "", 0, "%s", (text,), None))


class _Relayed(logging.LogRecord):
    """A line of another program, which the record's name names."""


class Json(logging.Formatter):
    """An entry as one JSON object: time (RFC 3339, UTC), level, program, logger, message, and its fields."""

    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        relayed = isinstance(record, _Relayed)
        if relayed and _is_entry(text):
            return text
        entry: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "program": record.name if relayed else self._program,
            "logger": record.name,
            "message": _bounded(text),
        }
        entry |= {name: _plain(value) for name, value in fields(record).items()}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)[-_MOST_TRACEBACK:]
        return json.dumps(entry)


class Pretty(logging.Formatter):
    """An entry as a line for people: time, level, logger, message, `name=value` of its fields; below it a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        text = printable(_bounded(record.getMessage()))
        if isinstance(record, _Relayed):
            return text
        line = f"{self.formatTime(record)} {record.levelname} {record.name}: {text}"
        for name, value in fields(record).items():
            line += f" {name}={_word(value)}"
        if record.exc_info:
            trace = self.formatException(record.exc_info)[-_MOST_TRACEBACK:]
            line += "".join(f"\n    {printable(each)}" for each in trace.split("\n"))
        return line


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """What was given with a message as `extra`."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def printable(text: str) -> str:
    """`text` in one line, without anything that a terminal would obey."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _bounded(text: str) -> str:
    return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}... ({len(text)} characters)"


def _plain(value: object) -> object:
    """A value as JSON has it."""
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else str(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return _bounded(str(value))


def _word(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else printable(_bounded(str(value)))
    return json.dumps(text, ensure_ascii=False) if not text or set(' "=') & set(text) else text


def _is_entry(text: str) -> bool:
    try:
        return text.startswith("{") and {"level", "message"} <= json.loads(text).keys()
    except ValueError:
        return False


def _log_uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error or kind(), trace)
    elif not issubclass(kind, SystemExit):
        logging.critical("an error that nobody has caught", exc_info=(kind, error or kind(), trace))
