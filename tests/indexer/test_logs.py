"""The log: one line for each entry, whatever it holds, for people or as JSON; lines of other programs among them."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from indexer import logs
from indexer.errors import InvalidField
from tests.conftest import ROOT

NASTY = "x\n2026-01-01 00:00:00,000 ERROR server: forged\r\x1b[31m\x07\u2028\u202e\ud800\x7f\x9b"


def record(message: str, *args: object, exc_info: Any = None, **extra: object) -> logging.LogRecord:
    """A record as a logger makes it."""
    return logging.getLogger("server.part").makeRecord(
        "server.part", logging.INFO, "file", 1, message, args, exc_info, extra=extra
    )


def raised(text: str) -> Any:
    """What `sys.exc_info` says of an error with this text."""
    try:
        raise ValueError(text)
    except ValueError:
        return sys.exc_info()


def test_a_json_entry_is_one_object_in_one_line() -> None:
    line = logs.Json("server").format(
        record("%d items of %s", 3, "ü", rpc="Catalog/Get", seconds=0.1234567, n=2, t=(1, "a"))
    )
    assert "\n" not in line
    assert line.isascii()
    entry = json.loads(line)
    assert entry.pop("time").endswith("Z")
    assert entry == {
        "level": "info",
        "program": "server",
        "logger": "server.part",
        "message": "3 items of ü",
        "rpc": "Catalog/Get",
        "seconds": 0.123457,
        "n": 2,
        "t": [1, "a"],
    }


def test_the_time_of_a_json_entry_is_that_of_its_record_in_utc() -> None:
    given = record("m")
    given.created, given.msecs = 1_700_000_000.25, 250.0
    assert json.loads(logs.Json("server").format(given))["time"] == "2023-11-14T22:13:20.250Z"


def test_a_pretty_entry_names_time_level_logger_and_its_fields() -> None:
    line = logs.Pretty().format(record("a call failed", rpc="Catalog/Get", error='no "a b"', seconds=0.00123, none=""))
    assert line.split(" ", 2)[2] == (
        'INFO server.part: a call failed rpc=Catalog/Get error="no \\"a b\\"" seconds=0.00123 none=""'
    )


@pytest.mark.parametrize("formatter", [logs.Json("server"), logs.Pretty()], ids=["json", "pretty"])
@pytest.mark.parametrize("where", ["message", "argument", "field"])
def test_nothing_that_a_caller_sends_breaks_out_of_its_line(formatter: logging.Formatter, where: str) -> None:
    given = {
        "message": lambda: record(NASTY),
        "argument": lambda: record("item %s", NASTY),
        "field": lambda: record("m", id=NASTY),
    }[where]()
    line = formatter.format(given)
    assert len(line.splitlines()) == 1
    assert line.encode()  # no half of a surrogate pair
    assert line.replace("\x7f", "").isprintable() or isinstance(formatter, logs.Json)
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(line)
    if isinstance(formatter, logs.Json):
        assert any(NASTY in str(value) for value in json.loads(line).values())


def test_no_line_of_a_traceback_looks_like_an_entry() -> None:
    given = record("it failed", exc_info=raised(NASTY))
    first, *trace = logs.Pretty().format(given).split("\n")
    assert first.endswith("it failed")
    assert trace[0] == "    Traceback (most recent call last):"
    assert all(line.startswith("    ") and line.isprintable() for line in trace)
    assert any("forged" in line for line in trace)
    entry = json.loads(logs.Json("server").format(given))
    assert entry["exception"].startswith("Traceback")
    assert "forged" in entry["exception"]


@pytest.mark.parametrize("formatter", [logs.Json("server"), logs.Pretty()], ids=["json", "pretty"])
def test_an_entry_is_bounded_whatever_it_holds(formatter: logging.Formatter) -> None:
    long = "\x00" * 10_000_000
    line = formatter.format(record(long, exc_info=raised(long)))
    assert len(line.encode()) < logs.LINE_BYTES
    assert "10000000 characters" in line


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_that_json_does_not_have_is_text(value: float) -> None:
    def refuse(constant: str) -> object:
        raise AssertionError(constant)

    assert json.loads(logs.Json("server").format(record("m", x=value)), parse_constant=refuse)["x"] == str(value)


# ---------------------------------------------------------------------------------------------------- other programs


@pytest.fixture
def relayed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[logging.LogRecord]]:
    """The records that reach the root logger, which wants errors alone."""
    found: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record)

    keep, level = Keep(), logging.root.level
    logging.root.addHandler(keep)
    logging.root.setLevel(logging.ERROR)
    yield found
    logging.root.setLevel(level)
    logging.root.removeHandler(keep)


def test_an_entry_of_another_program_is_passed_on_as_it_is(relayed: list[logging.LogRecord]) -> None:
    entry = logs.Json("trainer").format(record("training 1 begins"))
    logs.relay("trainer", f"{entry}\n".encode())
    pretty = logs.Pretty().format(record("training 1 begins"))
    logs.relay("trainer", f"{pretty}\n".encode())
    assert logs.Json("server").format(relayed[0]) == entry
    assert logs.Pretty().format(relayed[1]) == pretty


@pytest.mark.parametrize("line", [b"Killed\n", b'{"a": 1}', b'{"level', b"\xff\xfe\x1b[0m\r\n", b"[1]"])
def test_anything_else_that_it_writes_is_a_message_of_its_own(line: bytes, relayed: list[logging.LogRecord]) -> None:
    logs.relay("trainer", line)
    text = line.decode("utf-8", "backslashreplace").strip()
    entry = json.loads(logs.Json("server").format(relayed[0]))
    assert (entry["program"], entry["level"], entry["message"]) == ("trainer", "warning", text)
    assert logs.Pretty().format(relayed[0]) == text.replace("\x1b", "\\x1b")


# ---------------------------------------------------------------------------------------------------- a process


def test_there_are_two_formats_and_people_get_the_one_for_people() -> None:
    assert logs.style_of({}) == logs.style_of({logs.STYLE: ""}) == "pretty"
    assert logs.style_of({logs.STYLE: "json"}) == "json"
    with pytest.raises(InvalidField, match="xml"):
        logs.configure("server", "xml", logging.INFO)


_PROGRAM = """
import logging, threading, warnings
from indexer import logs

logs.configure("indexer", "json", logging.INFO, lambda record: setattr(record, "call", "c1") or True)
logging.getLogger("a").info("hello")
logging.getLogger("a").debug("not this")
warnings.warn("careful")
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
raise KeyError("the end")
"""


def test_all_that_a_process_says_is_json_warnings_and_uncaught_errors_too() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    entries = [json.loads(line) for line in done.stderr.splitlines()]
    assert [entry["level"] for entry in entries] == ["info", "warning", "critical", "critical"]
    assert entries[0]["message"] == "hello"
    assert "careful" in entries[1]["message"]
    assert "ZeroDivisionError" in entries[2]["exception"]
    assert "the end" in entries[3]["exception"]
    assert {entry["program"] for entry in entries} == {"indexer"}
    assert {entry["call"] for entry in entries} == {"c1"}


def test_control_c_is_no_entry_in_the_log() -> None:
    program = "from indexer import logs; logs.configure('x', 'json', 20); raise KeyboardInterrupt"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.startswith("Traceback")
