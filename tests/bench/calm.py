"""What a backfill costs the queries that go on meanwhile: their 99th percentile with it and without, in one run.

    python -m tests.bench.calm --photos FOLDER [--store]

A real server over real photos, and the real indexer beside it on the same cores, in every other window of time. Two
loads: sixteen callers that never pause, which leave nothing of the processor, and calls at a fixed rate of half of what
those reach, counted from when each was due, so that what waits is not overlooked.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from grpc import aio

from clients import Client
from everlook.v1 import everlook_pb2 as pb
from indexer.catalogue import Catalogue
from indexer.datadir import DataDir
from tests.bench.ceiling import percentiles
from tests.bench.load import read_requests, write_requests
from tests.bench.machine import store
from tests.bench.swaps import METHOD, export, fill, publish_candidate
from tests.conftest import ROOT
from tests.e2e.process import ServerProcess

CALLERS = 16


def run(photos: Sequence[Path], work: Path, *, rounds: int, seconds: float, image_size: int) -> dict[str, Any]:
    """All figures."""
    data = DataDir(work / "data")
    export(data.root, image_size, seed=0)
    with ServerProcess(data.root, "--hold") as server, Client(server.target, timeout_s=300) as client:
        fill(client, photos)
        candidate = publish_candidate(data, work, image_size)
        requests = work / "requests"
        write_requests(
            requests, [pb.SearchRequest(image=p.read_bytes(), k=10).SerializeToString() for p in photos[::7]]
        )
        with Driver(requests) as driver:

            def load(rate: float) -> dict[str, float]:
                found = driver.load(server.target, rate, seconds)
                return {"per_s": len(found["took_s"]) / found["elapsed_s"], **percentiles(found["took_s"])}

            half = load(0)["per_s"] / 2
            loads = {}
            for name, rate in (("full", 0.0), ("half", half)):
                windows = []
                for number in range(rounds):
                    calm = load(rate)
                    busy, embedded = _beside(data, candidate, lambda: load(rate))  # noqa: B023  # called at once
                    windows.append({"without": calm, "with": busy, "embedded": embedded})
                    print(f"{name}, round {number + 1} of {rounds}: {json.dumps(windows[-1])}", file=sys.stderr)
                loads[name] = _compare(windows) | {"rate_per_s": rate or None}
    return {
        "photos": len(photos),
        "image_size": image_size,
        "callers": CALLERS,
        "seconds": seconds,
        "rounds": rounds,
        "loads": loads,
    }


def _beside(data: DataDir, candidate: str, load: Any) -> tuple[dict[str, float], int]:
    """A load while the indexer embeds, and the photos that it has embedded meanwhile; what it stored is taken back."""
    with Catalogue.open(data.catalogue_url) as catalogue:
        command = [sys.executable, "-m", "indexer", "--data", str(data.root), "--once"]
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as indexer:
            while not (before := catalogue.vector_count(candidate)):
                if indexer.poll() is not None:
                    raise RuntimeError(f"the indexer ended with {indexer.returncode} before it embedded")
                time.sleep(0.05)
            found = load()
            if indexer.poll() is not None:
                raise RuntimeError("the backfill ended before the load did; more photos are needed")
            embedded = catalogue.vector_count(candidate) - before
            indexer.send_signal(signal.SIGTERM)
        while catalogue.drop_vectors(candidate):
            catalogue.upkeep()
    return found, embedded


def _compare(windows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds: the ratio is taken within each."""
    return {
        side: {
            name: statistics.median(window[side][name] for window in windows) for name in ("per_s", "p50_ms", "p99_ms")
        }
        for side in ("without", "with")
    } | {
        "p99_ratio": statistics.median(window["with"]["p99_ms"] / window["without"]["p99_ms"] for window in windows),
        "p99_ratios": [window["with"]["p99_ms"] / window["without"]["p99_ms"] for window in windows],
        "embedded": [window["embedded"] for window in windows],
    }


async def drive(target: str, requests: list[bytes], rate: float, seconds: float) -> dict[str, Any]:
    """What each call took (`took_s`), and all of them together (`elapsed_s`): of `CALLERS` without a pause where the
    rate is 0, of calls that are due at it otherwise, whether those before are answered or not."""
    took: list[float] = []
    async with aio.insecure_channel(target) as channel:
        call: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        await asyncio.gather(*(call(requests[i % len(requests)]) for i in range(CALLERS)))
        began = time.perf_counter()

        async def caller(at: int) -> None:
            while (sent := time.perf_counter()) - began < seconds:
                await call(requests[at % len(requests)])
                took.append(time.perf_counter() - sent)
                at += CALLERS

        async def due(number: int) -> None:
            at = began + number / rate
            await asyncio.sleep(max(0.0, at - time.perf_counter()))
            await call(requests[number % len(requests)])
            took.append(time.perf_counter() - at)

        work = [due(n) for n in range(int(rate * seconds))] if rate else [caller(n) for n in range(CALLERS)]
        await asyncio.gather(*work)
        elapsed = time.perf_counter() - began
    return {"elapsed_s": elapsed, "took_s": took}


class Driver:
    """`with Driver(requests) as driver:` a process of its own that calls servers, with the requests of a file."""

    def __init__(self, requests: Path) -> None:
        self._command = [sys.executable, "-m", "tests.bench.calm", "--drive", str(requests)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def load(self, target: str, rate: float, seconds: float) -> dict[str, Any]:
        """As `drive`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([target, rate, seconds]), file=self._process.stdin, flush=True)
        return dict(json.loads(self._process.stdout.readline()))


def _serve_loads(path: Path) -> None:
    """What the process of a `Driver` does: a line of figures for each line that asks for a load."""
    requests = read_requests(path)
    gc.collect()
    gc.disable()  # a pause of the caller's would count as the server's
    for line in sys.stdin:
        target, rate, seconds = json.loads(line)
        print(json.dumps(asyncio.run(drive(target, requests, rate, seconds))), flush=True)
        gc.collect()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.calm", description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=Path, help="a folder of photos for each category")
    parser.add_argument("--count", type=int, default=3000, help="photos at most (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each window (%(default)s)")
    parser.add_argument("--image-size", type=int, default=224, help="pixels that the model sees (%(default)s)")
    parser.add_argument("--store", action="store_true", help="keep the figures in tests/bench/results/calm.json")
    parser.add_argument("--drive", type=Path, metavar="REQUESTS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        _serve_loads(options.drive)
        return
    photos = sorted(options.photos.glob("*/*"))[: options.count]
    with tempfile.TemporaryDirectory(prefix="everlook-calm-") as work:
        figures = run(photos, Path(work), rounds=options.rounds, seconds=options.seconds, image_size=options.image_size)
    print(json.dumps(figures, indent=2))
    if options.store:
        print(store("calm", figures))


if __name__ == "__main__":
    main()
