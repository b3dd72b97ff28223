"""Reads the plain part of YAML that the files of deploy/ are written in; what goes beyond it is an error.

Mappings, sequences, words, quoted text, `>-` and `|`, and flow sequences that are JSON; no anchors, no tags. Every
scalar is text. The rules themselves are also parsed by promtool.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

_KEY = re.compile(r"([\w./$-]+):(?:\s+(.+))?")


class _Line(NamedTuple):
    indent: int
    text: str


def load(text: str) -> Any:
    """The document. Errors: ValueError where it is not plain."""
    lines = [
        _Line(len(line) - len(line.lstrip()), line.strip())
        for line in text.splitlines()
        if line.strip() and not line.lstrip().startswith("#")
    ]
    value, end = _block(lines, 0)
    if end < len(lines):
        raise ValueError(f"{lines[end].text!r} is indented as nothing before it")
    return value


def _block(lines: list[_Line], at: int) -> tuple[Any, int]:
    return (_sequence if lines[at].text.startswith("- ") else _mapping)(lines, at)


def _sequence(lines: list[_Line], at: int) -> tuple[list[Any], int]:
    indent, found = lines[at].indent, []
    while at < len(lines) and lines[at].indent == indent and lines[at].text.startswith("- "):
        rest = lines[at].text[2:].strip()
        if _KEY.fullmatch(rest):
            lines[at] = _Line(indent + 2, rest)
            value, at = _mapping(lines, at)
        else:
            value, at = _scalar(rest), at + 1
        found.append(value)
    return found, at


def _mapping(lines: list[_Line], at: int) -> tuple[dict[str, Any], int]:
    indent, found = lines[at].indent, dict[str, Any]()
    while at < len(lines) and lines[at].indent == indent and not lines[at].text.startswith("- "):
        pair = _KEY.fullmatch(lines[at].text)
        if pair is None or pair[1] in found:
            raise ValueError(f"{lines[at].text!r} is no new key")
        name, rest, at = pair[1], pair[2], at + 1
        deeper = at < len(lines) and (lines[at].indent > indent or lines[at].text.startswith("- "))
        if rest in (">-", "|"):
            begin = at
            while at < len(lines) and lines[at].indent > indent:
                at += 1
            found[name] = (" " if rest == ">-" else "\n").join(line.text for line in lines[begin:at])
        elif rest is None and deeper:
            found[name], at = _block(lines, at)
        else:
            found[name] = _scalar(rest or "")
    return found, at


def _scalar(text: str) -> Any:
    if text[:1] in ('"', "["):
        return json.loads(text)
    if text[:1] == "'":
        if not re.fullmatch(r"'(?:[^']|'')*'", text):
            raise ValueError(f"{text} is not quoted to its end")
        return text[1:-1].replace("''", "'")
    if text[:1] in tuple("&*!{%@`") or " #" in text or ": " in text:
        raise ValueError(f"{text!r} is not plain")
    return text
