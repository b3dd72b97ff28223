"""What docs/metrics.md says of each metric, and what a rule or a panel may therefore do with it."""

from __future__ import annotations

import re
from functools import cache

from tests.conftest import ROOT
from tests.deploy.promql import grouping_labels, selectors

TARGET_LABELS = {"job", "instance"}  # what Prometheus adds
_PROCESS = {
    "process_cpu_seconds_total": "counter",
    "process_max_fds": "gauge",
    "process_open_fds": "gauge",
    "process_resident_memory_bytes": "gauge",
    "process_start_time_seconds": "gauge",
}
_OF_PROMETHEUS = {
    "up": ("gauge", frozenset[str]()),
    "ALERTS": ("gauge", frozenset({"alertname", "alertstate", "severity", "cohort"})),
}
_ON_COUNTERS = {"rate", "increase"}
_ON_RANGES_OF_GAUGES = {
    "changes",
    "deriv",
    "predict_linear",
    "avg_over_time",
    "max_over_time",
    "min_over_time",
    "present_over_time",
}


@cache
def metrics() -> dict[str, tuple[str, frozenset[str]]]:
    """Name of each series -> type of its metric and its labels."""
    text = (ROOT / "docs" / "metrics.md").read_text()
    found: dict[str, tuple[str, frozenset[str]]] = {name: (kind, frozenset()) for name, kind in _PROCESS.items()}
    for name, kind, cell in re.findall(r"^\| `(everlook_\w+)` \| (\w+) \| ([^|]*)\|", text, re.MULTILINE):
        labels = frozenset(re.findall(r"`(\w+)`", cell))
        if kind == "histogram":
            found[f"{name}_bucket"] = ("counter", labels | {"le"})
        if kind in ("histogram", "summary"):
            found |= {f"{name}_{part}": ("counter", labels) for part in ("sum", "count")}
        else:
            found[name] = (kind, labels)
    return found | _OF_PROMETHEUS


def faults(expr: str, recorded: set[str]) -> list[str]:
    """What is wrong with an expression: metrics and labels that are not documented, rates of gauges, bare counters."""
    found, known = [], set(TARGET_LABELS)
    for each in selectors(expr):
        if ":" in each.name:
            if each.name not in recorded:
                found.append(f"{each.name} is not recorded")
            known |= {"cohort", "generation", "test"}
            continue
        if each.name not in metrics():
            found.append(f"{each.name} is not documented")
            continue
        kind, labels = metrics()[each.name]
        known |= labels
        if strange := each.labels - labels - TARGET_LABELS:
            found.append(f"{each.name} has no labels {sorted(strange)}")
        if kind == "counter" and not (each.range and each.function in _ON_COUNTERS):
            found.append(f"{each.name} is a counter: only its rate or increase says anything")
        if kind != "counter" and (each.function in _ON_COUNTERS or bool(each.range) != _takes_range(each.function)):
            found.append(f"{each.name} is a {kind}, and stands in {each.function}({each.range})")
    if unknown := grouping_labels(expr) - known:
        found.append(f"grouped by {sorted(unknown)}, which nothing here has")
    return found


def _takes_range(function: str) -> bool:
    return function in _ON_RANGES_OF_GAUGES
