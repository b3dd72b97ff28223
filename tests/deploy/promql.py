"""What a PromQL expression reads, as far as a regular expression can tell; and promtool, which parses it."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

_SELECTOR = re.compile(
    r"(?P<before>\w+)?\(?\s*(?P<name>\b(?:everlook_|process_|python_|instance\w*:)[\w:]+|\bup\b|\bALERTS\b)"
    r"(?P<matchers>\{[^}]*\})?(?P<range>\[[^\]]+\])?"
)
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")


@dataclass(frozen=True)
class Selector:
    """One selector: `function(name{label="..."}[range])`."""

    name: str
    labels: frozenset[str]
    """That it matches by."""
    range: str
    """`5m`; empty without."""
    function: str
    """That it stands in directly; empty in none."""


def selectors(expr: str) -> list[Selector]:
    """Those of an expression, in its order."""
    found = []
    for match in _SELECTOR.finditer(expr):
        called = match["before"] if match["before"] and f"{match['before']}(" in match[0] else ""
        labels = frozenset(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", match["matchers"] or ""))
        found.append(Selector(match["name"], labels, (match["range"] or "")[1:-1], called or ""))
    return found


def grouping_labels(expr: str) -> set[str]:
    """The labels that an expression groups or joins by."""
    return {label for group in _GROUPING.findall(expr) for label in re.findall(r"\w+", group)}


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs it; skips the test where it is not installed."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not on this machine; Debian's package prometheus has it")
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)
