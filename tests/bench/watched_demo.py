"""The demo's story, read by a real Prometheus every second: what that saw of recall, by cohort, over time.

    python -m tests.bench.watched_demo --store

Further options and a folder of photos go to the demo; without a folder it renders a catalogue. The demo and Prometheus
are processes of their own, with the configuration and the rules of deploy/. Recall is measured every few seconds, as
nobody would do for good, since the whole story takes minutes. Times are seconds since the demo began.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.machine import store
from tests.e2e.prometheus import Prometheus, wait_for

_MOST_POINTS = 10_000  # of a series in one answer; Prometheus refuses 11,000
_SERIES = {
    "recall_at_1": 'everlook_probe_recall_ratio{k="1"}',
    "recall_at_10": 'everlook_probe_recall_ratio{k="10"}',
    "probes": "everlook_probe_recall_probes",
    "reference": "everlook_probe_recall_reference_ratio",
    "drift": "everlook_probe_recall_drift_ratio",
}

Points = list[tuple[float, float]]


def run(options: Sequence[str], recall_every_s: float) -> dict[str, Any]:
    """Tells the story with Prometheus watching. Errors: CalledProcessError when the demo fails."""
    with tempfile.TemporaryDirectory(prefix="everlook-watched-") as folder:
        port = free_port()
        with Prometheus(Path(folder), f"127.0.0.1:{port}", every_s=1.0) as prometheus:
            out = Path(folder) / "demo"
            command = [sys.executable, "-c", "from clients.cli import main; main()", "demo", "--out", str(out)]
            command += ["--metrics-port", str(port), *options]
            began = time.time()
            settings = {"EVERLOOK_RECALL_EVERY_S": str(recall_every_s), "EVERLOOK_WATCH_SHARE": "1"}
            subprocess.run(command, check=True, stdout=sys.stderr, env=os.environ | settings)
            ended = time.time()
            wait_for(lambda: not prometheus.query("up == 1"), 30, "the server is still read")
            told = json.loads((out / "demo.json").read_text(encoding="utf-8"))
            return {"recall_every_s": recall_every_s, **seen(prometheus, began, ended), "demo": told}


def seen(prometheus: Prometheus, began: float, ended: float) -> dict[str, Any]:
    """What Prometheus stored between two Unix times."""
    step_s = max(1.0, (ended - began) / _MOST_POINTS)

    def over_time(expr: str, label: str) -> dict[str, Points]:
        found = prometheus.query_range(expr, began, ended, step_s)
        return {labels.get(label, ""): changes(points, began, step_s) for labels, points in found}

    def of_all(expr: str) -> float:
        ((_, value),) = prometheus.query(expr)
        return value

    swaps = dict.fromkeys(value for _, value in over_time("everlook_last_swap_timestamp_seconds", "").get("", []))
    took = f"{int(ended - began)}s"
    return {
        "seconds": ended - began,
        "swaps_s": [round(at - began, 1) for at in swaps],
        "cohorts": {name: over_time(expr, "cohort") for name, expr in _SERIES.items()},
        "live": over_time("everlook_generation_info", "number"),
        "alerts": over_time('ALERTS{alertstate="firing"}', "alertname"),
        "up": over_time("up", "").get("", []),
        "scrapes": of_all(f"count_over_time(up[{took}])"),
        "scrapes_failed": of_all(f"count_over_time(up[{took}]) - sum_over_time(up[{took}])"),
        "scrape_mean_s": of_all(f"avg_over_time(scrape_duration_seconds[{took}])"),
        "scrape_most_s": of_all(f"max_over_time(scrape_duration_seconds[{took}])"),
        "samples_most": of_all(f"max_over_time(scrape_samples_scraped[{took}])"),
    }


def changes(points: Sequence[tuple[float, float]], began: float, step_s: float) -> Points:
    """The first point, each that differs from the one before or follows a gap, and the last; (seconds, value)."""
    kept = [
        (at, value)
        for number, (at, value) in enumerate(points)
        if number in (0, len(points) - 1) or value != points[number - 1][1] or at - points[number - 1][0] > 1.5 * step_s
    ]
    return [(round(at - began, 1), value) for at, value in kept]


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def table(figures: dict[str, Any]) -> str:
    """Recall@1 of each cohort just before each swap, and at the end, as Markdown."""
    moments = [*figures["swaps_s"], figures["seconds"]]
    names = [*(f"before the swap at {at:.0f} s" for at in figures["swaps_s"]), "at the end"]
    lines = ["| cohort | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for cohort, points in sorted(figures["cohorts"]["recall_at_1"].items()):
        values = [[value for at, value in points if at <= moment] for moment in moments]
        lines.append(f"| {cohort} | " + " | ".join(f"{100 * v[-1]:.1f} %" if v else "" for v in values) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.watched_demo")
    parser.add_argument("--recall-every-s", type=float, default=5.0, help="between two measurements (%(default)s)")
    parser.add_argument("--store", action="store_true", help="keep the figures in tests/bench/results")
    options, others = parser.parse_known_args()
    figures = run(others, options.recall_every_s)
    print(table(figures))
    print(f"alerts that fired: {', '.join(figures['alerts']) or 'none'}")
    if options.store:
        store("watched-demo", figures)


if __name__ == "__main__":
    main()
