"""What watching costs searches: throughput and 99th percentile with all of it on, against all of it off, in one run.

    python -m tests.bench.watching --photos FOLDER [--store]

Two real servers over copies of one data directory, one as it comes and scraped as Prometheus would, one that watches
nothing and that nobody scrapes. They take turns round by round, and the order of the two changes every round; whoever
is not at work is stopped as a process, so that its timers cost the other nothing. The watch's pauses go on meanwhile:
it works up to twice as densely as its settings say. Two loads, as in `calm`: sixteen callers that never pause, and
calls that are due at half of the rate that those reach.

A machine that others use has slow seconds. Rounds are so short that both sides meet the same ones, the calls of all
rounds count together, and each ratio comes with the interval that holds 95 % of those of rounds drawn anew.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import psutil

from clients import Client
from everlook.v1 import everlook_pb2 as pb
from indexer.datadir import DataDir
from tests.bench.calm import CALLERS, Driver
from tests.bench.ceiling import percentiles
from tests.bench.load import write_requests
from tests.bench.machine import store
from tests.bench.swaps import export, fill
from tests.e2e.process import ServerProcess

OFF = ("--watch-share", "0", "--recall-every-s", "0")
SCRAPE_EVERY_S = 5.0
WARM_UP_S = 3.0
_DRAWS = 1000


def run(
    photos: Sequence[Path], work: Path, *, rounds: int, seconds: float, image_size: int, flags: Sequence[str]
) -> dict[str, Any]:
    """All figures. Every seventh photo is a query."""
    watching, plain = DataDir(work / "watching"), DataDir(work / "plain")
    export(watching.root, image_size, seed=0)
    with ServerProcess(watching.root, *OFF) as server, Client(server.target, timeout_s=300) as client:
        fill(client, photos)
        server.stop()
    shutil.copytree(watching.root, plain.root)
    requests = work / "requests"
    write_requests(requests, [pb.SearchRequest(image=p.read_bytes(), k=10).SerializeToString() for p in photos[::7]])
    with ExitStack() as stack:
        on = stack.enter_context(ServerProcess(watching.root, *flags))
        off = stack.enter_context(ServerProcess(plain.root, *OFF))
        sides = {"on": on, "off": off}
        prometheus = _Prometheus(on)
        driver = stack.enter_context(Driver(requests))
        for server in sides.values():
            _stop(server)

        def load(side: str, rate: float, seconds: float) -> dict[str, Any]:
            with _at_work(sides[side]), prometheus.reading() if side == "on" else nullcontext():
                before = _processor_s(sides[side])
                found = driver.load(sides[side].target, rate, seconds)
                calls = len(found["took_s"]) + CALLERS  # those that warm up are not timed
                return found | {"processor_s": _processor_s(sides[side]) - before, "calls": calls}

        for side in sides:
            load(side, 0, WARM_UP_S)
        half = figures([load("off", 0, 5 * WARM_UP_S)])["per_s"] / 2
        loads = {}
        for name, rate in (("full", 0.0), ("half", half)):
            turns = []
            for number in range(rounds):
                order = ("on", "off") if number % 2 else ("off", "on")
                turns.append({side: load(side, rate, seconds) for side in order})
                both = {side: figures([turn]) for side, turn in turns[-1].items()}
                print(f"{name}, round {number + 1} of {rounds}: {json.dumps(both)}", file=sys.stderr)
            loads[name] = compared(turns) | {"rate_per_s": rate or None}
        with _at_work(on):
            watched = _samples(on)
        for server in sides.values():
            _go_on(server)
    return {
        "photos": len(photos),
        "image_size": image_size,
        "flags": list(flags),
        "rounds": rounds,
        "seconds": seconds,
        "loads": loads,
        "watched": watched,
    }


def compared(turns: Sequence[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Figures of both sides over all rounds, and what is on as a share of what is off, with its 95 % interval."""
    sides = {side: figures([turn[side] for turn in turns]) for side in ("on", "off")}
    rng = random.Random(0)
    drawn = [rng.choices(turns, k=len(turns)) for _ in range(_DRAWS)]
    again = [[figures([turn[side] for turn in some]) for side in ("on", "off")] for some in drawn]
    ratios = {}
    for name, value in sides["on"].items():
        found = sorted(on[name] / off[name] for on, off in again)
        least, most = found[int(0.025 * _DRAWS)], found[int(0.975 * _DRAWS)]
        ratios[f"{name}_ratio"] = {"ratio": value / sides["off"][name], "low": least, "high": most}
    return {**sides, **ratios}


def figures(turns: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of the calls of these turns together."""
    took = [each for turn in turns for each in turn["took_s"]]
    p = percentiles(took)
    return {
        "per_s": len(took) / sum(turn["elapsed_s"] for turn in turns),
        "p50_ms": p["p50_ms"],
        "p99_ms": p["p99_ms"],
        "processor_ms": 1000 * sum(turn["processor_s"] for turn in turns) / sum(turn["calls"] for turn in turns),
    }


@contextmanager
def _at_work(server: ServerProcess) -> Iterator[None]:
    """The server goes on for the time of the block."""
    _go_on(server)
    try:
        yield
    finally:
        _stop(server)


class _Prometheus:
    """Reads a server's metrics each `SCRAPE_EVERY_S` of the time that the server is at work."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._left_s = SCRAPE_EVERY_S

    @contextmanager
    def reading(self) -> Iterator[None]:
        over = threading.Event()

        def read() -> None:
            began = time.perf_counter()
            while not over.wait(self._left_s):
                _page(self._server)
                began, self._left_s = time.perf_counter(), SCRAPE_EVERY_S
            self._left_s = max(0.0, self._left_s - (time.perf_counter() - began))

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            yield
        finally:
            over.set()
            reader.join()


def _page(server: ServerProcess) -> str:
    with urllib.request.urlopen(server.metrics_url, timeout=60) as page:  # noqa: S310  # our own server's
        return str(page.read().decode())


def _samples(server: ServerProcess) -> dict[str, float]:
    """What the server says it has watched."""
    lines = (line.rsplit(" ", 1) for line in _page(server).splitlines() if not line.startswith("#"))
    wanted = ("everlook_query_samples_total", "everlook_query_drift_windows_total", "everlook_probe_recall_seconds_")
    return {name: float(value) for name, value in lines if name.startswith(wanted) and "_bucket" not in name}


def _stop(server: ServerProcess) -> None:
    psutil.Process(server.pid).send_signal(signal.SIGSTOP)


def _go_on(server: ServerProcess) -> None:
    psutil.Process(server.pid).send_signal(signal.SIGCONT)


def _processor_s(server: ServerProcess) -> float:
    times = psutil.Process(server.pid).cpu_times()
    return float(times.user + times.system)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.watching", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--photos", type=Path, required=True, help="a folder of photos for each category")
    parser.add_argument("--count", type=int, default=3000, help="photos at most (%(default)s)")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each window (%(default)s)")
    parser.add_argument("--image-size", type=int, default=224, help="pixels that the model sees (%(default)s)")
    parser.add_argument("--flags", default="", help="further flags of the server that watches, in one text")
    parser.add_argument("--store", action="store_true", help="keep the figures in tests/bench/results/watching.json")
    options = parser.parse_args()
    photos = sorted(options.photos.glob("*/*"))
    photos = photos[:: max(1, len(photos) // options.count)][: options.count]
    with tempfile.TemporaryDirectory(prefix="everlook-watching-") as work:
        found = run(
            photos,
            Path(work),
            rounds=options.rounds,
            seconds=options.seconds,
            image_size=options.image_size,
            flags=options.flags.split(),
        )
    print(json.dumps(found, indent=2))
    if options.store:
        print(store("watching", found).name)


if __name__ == "__main__":
    main()
