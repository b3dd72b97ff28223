"""What a swap costs the queries that go on meanwhile, and what memory many swaps leave behind.

    python -m tests.bench.swaps --photos FOLDER [--store]

A real server over real photos, sixteen callers by photo, and two real models of the same backbone with other heads:
forward and back, twenty times. The load, the swaps and the calm seconds between them are one run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from grpc import aio

from clients import Client, Item
from everlook.v1 import everlook_pb2 as pb
from indexer.datadir import DataDir
from indexer.gates import GATES, to_json
from indexer.generation import candidate_generation
from indexer.lineage import LINEAGE, Lineage
from indexer.model import MANIFEST, load_manifest, publish_model
from tests.bench.ceiling import percentiles
from tests.bench.load import read_requests, write_requests
from tests.bench.machine import store
from tests.e2e.process import ServerProcess

METHOD = "/everlook.v1.Search/Search"
CALLERS = 16
CALM_S = 4.0  # between two swaps
AFTER_S = 1.0  # of calls after a swap that count as around it


def run(photos: Sequence[Path], work: Path, *, swaps: int, image_size: int) -> dict[str, Any]:
    """All figures."""
    data = DataDir(work / "data")
    export(data.root, image_size, seed=0)
    with ServerProcess(data.root, "--hold") as server, Client(server.target, timeout_s=300) as client:
        fill(client, photos)
        candidate = _candidate(data, work, image_size)
        requests = work / "requests"
        write_requests(
            requests, [pb.SearchRequest(image=p.read_bytes(), k=10).SerializeToString() for p in photos[::7]]
        )
        calls = work / "calls.json"
        load = subprocess.Popen([sys.executable, "-m", "tests.bench.swaps", "--drive", server.target, requests, calls])
        try:
            windows, memory = _swap(client, psutil.Process(server.pid), candidate, swaps)
        finally:
            load.terminate()
            load.wait(60)
    return {"photos": len(photos), "image_size": image_size, "callers": CALLERS, "swaps": swaps} | _figures(
        json.loads(calls.read_text(encoding="utf-8")), windows, memory
    )


def fill(client: Client, photos: Sequence[Path]) -> None:
    """Puts photos in, each under its folder's name as its category. Errors: RuntimeError when one is refused."""
    items = ((Item(f"{path.parent.name}/{path.name}", path.parent.name), path) for path in photos)
    refused = [ack for ack in client.ingest(items) if ack.error is not None]
    if refused:
        raise RuntimeError(f"{len(refused)} items were refused; first: {refused[0].error}")


def export(root: Path, image_size: int, seed: int) -> None:
    """The first model of a data directory, with a head drawn from this seed."""
    command = [sys.executable, "-m", "trainer", "export", "--data", str(root), "--seed", str(seed)]
    subprocess.run([*command, "--image-size", str(image_size)], check=True, stdout=subprocess.DEVNULL)


def publish_candidate(data: DataDir, work: Path, image_size: int) -> str:
    """Another model, as the trainer publishes one that was taught from the first; its id."""
    (live,) = (load_manifest(folder) for folder in data.models.iterdir())
    other = DataDir(work / "other")
    export(other.root, image_size, seed=1)
    (folder,) = other.models.iterdir()
    manifest = load_manifest(folder)

    def write(target: Path) -> None:
        for path in folder.iterdir():
            if path.name != MANIFEST:
                shutil.copy(path, target)
        (target / LINEAGE).write_text(Lineage(live.id, 1, ()).to_json(), encoding="utf-8")
        (target / GATES).write_text(json.dumps(to_json(())), encoding="utf-8")

    return publish_model(
        data.models,
        write,
        backbone=manifest.backbone,
        dimension=manifest.dimension,
        preprocessing=manifest.preprocessing,
        head=manifest.head,
    ).id


def _candidate(data: DataDir, work: Path, image_size: int) -> int:
    """A generation of another model; its number."""
    publish_candidate(data, work, image_size)
    subprocess.run([sys.executable, "-m", "indexer", "--data", str(data.root), "--once"], check=True)
    info = candidate_generation(data)
    if info is None:
        raise RuntimeError("the indexer made no generation")
    return info.number


def _swap(
    client: Client, server: psutil.Process, candidate: int, swaps: int
) -> tuple[list[tuple[float, float]], list[float]]:
    """When each swap was asked for and done, by the monotonic clock, and the server's memory after each, in MiB."""
    windows, memory = [], []
    time.sleep(3 * CALM_S)
    for swap in range(swaps):
        began = time.monotonic()
        if swap % 2 == 0:
            client.promote(candidate)
        else:
            client.rollback()
        windows.append((began, time.monotonic()))
        time.sleep(CALM_S)
        memory.append(server.memory_info().rss / 2**20)
        print(f"swap {swap + 1} of {swaps}: {windows[-1][1] - began:.2f} s, {memory[-1]:.0f} MiB", file=sys.stderr)
    return windows, memory


def _figures(calls: dict[str, Any], windows: Sequence[tuple[float, float]], memory: Sequence[float]) -> dict[str, Any]:
    begin = calls["answered"][0][0] + CALM_S  # the first seconds warm up
    around, calm = list[float](), list[float]()
    for sent, took in calls["answered"]:
        if sent < begin:
            continue
        near = any(sent + took >= a and sent <= b + AFTER_S for a, b in windows)
        (around if near else calm).append(took)
    steady, swapping = percentiles(calm), percentiles(around)
    return {
        "failed": calls["failed"],
        "calm": {"calls": len(calm), **steady},
        "around": {"calls": len(around), **swapping},
        "p99_ratio": swapping["p99_ms"] / steady["p99_ms"],
        "swap_s": [b - a for a, b in windows],
        "memory_mib": list(memory),
        "memory_ratio": memory[-1] / memory[min(2, len(memory) - 1)],
    }


async def drive(target: str, requests: list[bytes]) -> dict[str, Any]:
    """Callers that send their next request when the last was answered, until SIGTERM; what became of them."""
    answered: list[tuple[float, float]] = []
    failed: list[str] = []
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(15, over.set)
    async with aio.insecure_channel(target) as channel:
        call: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)

        async def caller(at: int) -> None:
            while not over.is_set():
                sent = time.monotonic()
                try:
                    await call(requests[at % len(requests)], timeout=60)
                    answered.append((sent, time.monotonic() - sent))
                except aio.AioRpcError as error:
                    failed.append(f"{error.code().name}: {error.details()}")
                at += CALLERS

        await asyncio.gather(*(caller(number) for number in range(CALLERS)))
    return {"answered": answered, "failed": failed}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.swaps", description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=Path, help="a folder of photos for each category")
    parser.add_argument("--count", type=int, default=2000, help="photos at most (%(default)s)")
    parser.add_argument("--swaps", type=int, default=20, help="forward and back (%(default)s)")
    parser.add_argument("--image-size", type=int, default=128, help="pixels that the model sees (%(default)s)")
    parser.add_argument("--store", action="store_true", help="keep the figures in tests/bench/results/swaps.json")
    parser.add_argument("--drive", nargs=3, metavar=("TARGET", "REQUESTS", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        target, requests, out = options.drive
        calls = asyncio.run(drive(target, read_requests(Path(requests))))
        Path(out).write_text(json.dumps(calls), encoding="utf-8")
        return
    photos = sorted(options.photos.glob("*/*"))[: options.count]
    with tempfile.TemporaryDirectory(prefix="everlook-swaps-") as work:
        figures = run(photos, Path(work), swaps=options.swaps, image_size=options.image_size)
    print(json.dumps(figures, indent=2))
    if options.store:
        print(store("swaps", figures))


if __name__ == "__main__":
    main()
