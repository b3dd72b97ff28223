"""What a running server says of recall, for tests that compare it with something."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from everlook.v1 import everlook_pb2 as pb
from tests.server.running import TIMEOUT_S, Running

Samples = dict[tuple[str, str, str], float]
"""By name without prefix, cohort and k."""


def wait_for(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + TIMEOUT_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)
    return found


def page(server: Running) -> Samples:
    """The probe recall of the metrics page, by name, cohort and k."""
    prefix = "everlook_probe_recall_"
    return {
        (each.name.removeprefix(prefix), each.labels.get("cohort", ""), each.labels.get("k", "")): each.value
        for family in text_string_to_metric_families(server.scrape())
        if family.name.startswith(prefix) and family.type == "gauge"
        for each in family.samples
        if not each.name.endswith("_created")
    }


def measured_page(server: Running) -> Samples:
    """The same, once the live model has been measured."""
    found: Samples = wait_for(lambda: (now := page(server)).get(("ratio", "all", "1")) is not None and now)
    return found


def history(server: Running, **asked: Any) -> pb.GetRecallHistoryResponse:
    return server.admin.GetRecallHistory(pb.GetRecallHistoryRequest(**asked), timeout=TIMEOUT_S)


def drifts(server: Running) -> dict[str, tuple[float, float]]:
    found = measured_page(server)
    names = {cohort for name, cohort, _ in found if name == "drift_ratio"}
    return {name: (found["drift_ratio", name, ""], found["drift_error_ratio", name, ""]) for name in names}


def fell(drift: tuple[float, float]) -> bool:
    """As the alert asks: beyond sampling error, and by more than the gates allow."""
    change, error = drift
    return change + 1.645 * error < -0.02
