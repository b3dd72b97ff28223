"""An hour of the same traffic, judged by a real Prometheus with the rules of deploy/: which alerts there are.

    python -m tests.bench.calm_hour --photos FOLDER --strange FOLDER [--minutes 60] [--store]

Server, trainer and indexer run as an operator starts them, and a first stage is learned and goes live by itself. Then
photos of the same categories, which are not in the gallery, are searched by chance, at random moments, for the hour;
and after it photos of another folder, for a few minutes. Prometheus reads as often as deploy/ says. More queries than
usual are watched, and the reference window is drawn in minutes, so that an hour has windows enough to say something.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from clients import Client, EverlookClientError
from indexer.datadir import DataDir
from tests.bench.ceiling import percentiles
from tests.bench.live import await_stage, items
from tests.bench.machine import store
from tests.e2e.process import ServerProcess
from tests.e2e.prometheus import Prometheus
from trainer.protocol import Protocol, Split, build

FLAGS = "--watch-share 0.5 --drift-reference-s 300"
SCRAPE_EVERY_S = 15.0  # as deploy/prometheus/prometheus.yml
_SAY_EVERY_S = 60.0
_CALLS = 16  # at once at most, of a traffic that needs one or two


def run(
    protocol: Protocol,
    strange: Sequence[Path],
    work: Path,
    *,
    image_size: int,
    steps: int,
    rate: float,
    minutes: float,
    strange_minutes: float,
    flags: Sequence[str],
) -> dict[str, Any]:
    """All figures of both parts."""
    data = DataDir(work / "data")
    export = [sys.executable, "-m", "trainer", "export", "--data", str(data.root), "--image-size", str(image_size)]
    subprocess.run(export, check=True, stdout=subprocess.DEVNULL)
    (categories,) = protocol.stages
    same = [protocol.folder / name for category in categories for name in category.part("validation")]
    # What is learned before the hour need not give way: nobody searches yet.
    trainer = f"--trainer-args=--steps {steps} --min-categories {len(categories)} --settle-s 1 --no-give-way"
    supervised = ("--supervise", trainer, "--indexer-args=--no-give-way")
    with ServerProcess(data.root, *supervised, *flags) as server, Client(server.target, timeout_s=600) as client:
        refused = [ack for ack in client.ingest(items(protocol, 0)) if ack.error is not None]
        if refused:
            raise RuntimeError(f"{len(refused)} items were refused; first: {refused[0].error}")
        await_stage(client, 0)
        with Prometheus(work, urlsplit(server.metrics_url).netloc, every_s=SCRAPE_EVERY_S) as prometheus:
            parts = {}
            for name, queries, seconds in (("calm", same, 60 * minutes), ("strange", strange, 60 * strange_minutes)):
                began = time.time()
                calls = traffic(client, queries, rate, seconds)
                time.sleep(2 * SCRAPE_EVERY_S)  # what was counted last is read, too
                parts[name] = {**calls, **seen(prometheus, began, time.time())}
                print(f"{name}: {json.dumps(parts[name])}", file=sys.stderr)
    return {
        "photos": protocol.folder.name,
        "categories": len(categories),
        "queries": len(same),
        "image_size": image_size,
        "rate_per_s": rate,
        "flags": list(flags),
        **parts,
    }


def traffic(client: Client, photos: Sequence[Path], rate: float, seconds: float) -> dict[str, Any]:
    """Searches by photos drawn by chance, at the moments of a Poisson process; what became of them."""
    rng, took, errors = random.Random(0), list[float](), Counter[str]()
    asked = [photo.read_bytes() for photo in photos]
    began = said = time.monotonic()
    due = began

    def search(photo: bytes, at: float) -> None:
        try:
            client.search(image=photo, k=10)
        except EverlookClientError as error:
            errors[type(error).__name__] += 1
        else:
            took.append(time.monotonic() - at)

    with ThreadPoolExecutor(_CALLS) as callers:
        while (due := due + rng.expovariate(rate)) < began + seconds:
            time.sleep(max(0.0, due - time.monotonic()))
            callers.submit(search, rng.choice(asked), due)
            if due - said > _SAY_EVERY_S:
                said = due
                print(f"{due - began:.0f} of {seconds:.0f} s, {len(took)} searches", file=sys.stderr)
    return {"seconds": time.monotonic() - began, "searches": len(took), "errors": dict(errors), **percentiles(took)}


def seen(prometheus: Prometheus, began: float, ended: float) -> dict[str, Any]:
    """What Prometheus stored between two Unix times, of which the second is now; of counters, what they grew by."""
    took = f"[{int(ended - began)}s]"
    alerts: dict[str, dict[str, float]] = {"pending": {}, "firing": {}}
    for labels, points in prometheus.query_range("ALERTS", began, ended, SCRAPE_EVERY_S):
        seconds = alerts[labels["alertstate"]]
        seconds[labels["alertname"]] = seconds.get(labels["alertname"], 0.0) + SCRAPE_EVERY_S * len(points)

    def by_label(expr: str) -> dict[str, float]:
        return {" ".join(labels.values()): value for labels, value in prometheus.query(expr)}

    def grown(counter: str, by: str = "") -> dict[str, float]:
        return by_label(f"sum by ({by}) (max_over_time({counter}{took}) - min_over_time({counter}{took}))")

    def least_and_most(gauge: str) -> dict[str, list[float]]:
        least = by_label(f"min by (cohort) (min_over_time({gauge}{took}))")
        most = by_label(f"max by (cohort) (max_over_time({gauge}{took}))")
        return {cohort: [least[cohort], most[cohort]] for cohort in least}

    def total(counter: str) -> float:
        return sum(grown(counter).values())

    familiar, unfamiliar = (total(f"everlook_query_{name}_total") for name in ("familiar", "unfamiliar"))
    repeated = total("everlook_index_recall_query_ratio_count")
    return {
        "alert_seconds": alerts,
        "drift_windows": grown("everlook_query_drift_windows_total", by="test, result"),
        "queries_watched": grown("everlook_query_samples_total", by="result"),
        "unfamiliar_ratio": unfamiliar / (familiar + unfamiliar) if familiar + unfamiliar else None,
        "index_recall": total("everlook_index_recall_query_ratio_sum") / repeated if repeated else None,
        "recall_at_1": least_and_most('everlook_probe_recall_ratio{k="1"}'),
        "recall_since_swap": least_and_most("everlook_probe_recall_since_swap_ratio"),
        "scrapes": sum(by_label(f"count_over_time(up{took})").values()),
        "scrapes_failed": sum(by_label(f"count_over_time(up{took}) - sum_over_time(up{took})").values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.calm_hour", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--photos", type=Path, required=True, help="a folder of photos for each category")
    parser.add_argument("--strange", type=Path, required=True, help="a folder of others, not like them")
    parser.add_argument("--categories", type=int, default=60, help="of the gallery, by name (%(default)s)")
    parser.add_argument("--minutes", type=float, default=60.0, help="of the same traffic (%(default)s)")
    parser.add_argument("--strange-minutes", type=float, default=8.0, help="of the others (%(default)s)")
    parser.add_argument("--rate", type=float, default=5.0, help="searches a second (%(default)s)")
    parser.add_argument("--steps", type=int, default=60, help="of the training before (%(default)s)")
    parser.add_argument("--image-size", type=int, default=128, help="pixels that the model sees (%(default)s)")
    parser.add_argument("--flags", default=FLAGS, help="of the server, in one text (%(default)s)")
    parser.add_argument("--store", action="store_true", help="keep the figures in tests/bench/results/calm-hour.json")
    options = parser.parse_args()
    protocol = build(options.photos, [options.categories], split=Split(train=0.75, validation=0.4))
    with tempfile.TemporaryDirectory(prefix="everlook-calm-hour-") as work:
        figures = run(
            protocol,
            sorted(options.strange.glob("*/*")),
            Path(work),
            image_size=options.image_size,
            steps=options.steps,
            rate=options.rate,
            minutes=options.minutes,
            strange_minutes=options.strange_minutes,
            flags=options.flags.split(),
        )
    print(json.dumps(figures, indent=2))
    if options.store:
        print(store("calm-hour", figures).name)


if __name__ == "__main__":
    main()
