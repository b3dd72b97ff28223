"""Search and ingest through the real server, against the same work in one process without gRPC, in one run.

    make bench                               the project's own rendered catalogue
    make bench ARGS="--photos DIR --store"   photos of yours; --store keeps the figures in tests/bench/results

The server, the load generator and the in-process work share the machine's cores; the two sides take turns, round by
round, and the ratios are medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clients import Client, Item
from clients.demo.render import render_catalogue
from everlook.v1 import everlook_pb2 as pb
from tests.bench import ceiling
from tests.bench.load import write_requests
from tests.bench.machine import store
from tests.e2e.process import ServerProcess

METHOD = "/everlook.v1.Search/Search"
CASES = ("image_1", "image_16", "vector_1", "vector_16")


def run(photos: Sequence[Path], work: Path, *, rounds: int, seconds: float, image_size: int) -> dict[str, Any]:
    """All figures. `photos` are ingested; every tenth of them is a query."""
    data = work / "data"
    export = [sys.executable, "-m", "trainer", "export", "--data", str(data), "--image-size", str(image_size)]
    subprocess.run(export, check=True, stdout=subprocess.DEVNULL)
    queries = [path.read_bytes() for path in photos[::10]]
    with ServerProcess(data) as server, Client(server.target) as client:
        ingest = _ingest(client, photos)
        requests = _requests(client, queries, work)
        copy = work / "copy"
        shutil.copytree(data, copy)
        sides: list[tuple[dict[str, Any], dict[str, Any]]] = []
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
            inside = _in_process(copy, queries, seconds)
            outside = {
                case: _load(server.target, requests[case.split("_")[0]], int(case.split("_")[1]), seconds)
                for case in CASES
            }
            sides.append((inside, outside))
        status = client.status()
    generation = status.generation
    if generation is None:
        raise RuntimeError("the server says nothing of its generation")
    return {
        "photos": len(photos),
        "model": f"{generation.model.backbone}, {image_size} px, {generation.model.precision}",
        "index": f"{generation.index}, {generation.main_entries} + {generation.delta_entries} entries",
        "rounds": rounds,
        "seconds": seconds,
        "cases": {case: _compare([(inside[case], outside[case]) for inside, outside in sides]) for case in CASES},
        "ingest": {
            "server_per_s": ingest,
            "ceiling_per_s": statistics.median(inside["ingest"]["per_s"] for inside, _ in sides),
            "ratio": ingest / statistics.median(inside["ingest"]["per_s"] for inside, _ in sides),
        },
    }


def _ingest(client: Client, photos: Sequence[Path]) -> float:
    began = time.perf_counter()
    items = ((Item(f"{path.parent.name}/{path.name}", path.parent.name), path) for path in photos)
    refused = [ack for ack in client.ingest(items) if ack.error is not None]
    if refused:
        raise RuntimeError(f"{len(refused)} items were refused; first: {refused[0].error}")
    return len(photos) / (time.perf_counter() - began)


def _requests(client: Client, queries: Sequence[bytes], work: Path) -> dict[str, Path]:
    images = [pb.SearchRequest(image=query, k=10).SerializeToString() for query in queries]
    vectors = []
    for query in queries:
        embedding = client.embed(query)
        vector = pb.Vector(values=embedding.values.tolist(), model=embedding.model)
        vectors.append(pb.SearchRequest(vector=vector, k=10).SerializeToString())
    paths = {"image": work / "image.requests", "vector": work / "vector.requests"}
    write_requests(paths["image"], images)
    write_requests(paths["vector"], vectors)
    return paths


def _in_process(data: Path, queries: Sequence[bytes], seconds: float) -> dict[str, Any]:
    """In a fresh process, as the server has one of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        arguments = {"cores": os.cpu_count() or 1, "seconds": seconds}
        figures: dict[str, Any] = pool.apply(ceiling.measure, (data, queries), arguments)
        return figures


def _load(target: str, requests: Path, callers: int, seconds: float) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.load", target, METHOD, str(requests), str(callers), str(seconds)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _compare(pairs: list[tuple[dict[str, Any], dict[str, float]]]) -> dict[str, Any]:
    def middle(side: int, name: str) -> float:
        return statistics.median(pair[side][name] for pair in pairs)

    return {
        "server": {name: middle(1, name) for name in ("per_s", "p50_ms", "p95_ms", "p99_ms")},
        "in_process": {name: middle(0, name) for name in ("per_s", "p50_ms", "p95_ms", "p99_ms")},
        "in_process_how": pairs[0][0]["how"],
        "ratio": statistics.median(outside["per_s"] / inside["per_s"] for inside, outside in pairs),
        "ratio_range": [f(outside["per_s"] / inside["per_s"] for inside, outside in pairs) for f in (min, max)],
        "p50_added_ms": statistics.median(outside["p50_ms"] - inside["p50_ms"] for inside, outside in pairs),
    }


def table(figures: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        "| | server, calls/s | in process, /s | ratio | server p50 / p95 / p99, ms | in process p50, ms |",
        "|---|---|---|---|---|---|",
    ]
    for case, row in figures["cases"].items():
        kind, callers = case.split("_")
        name = f"{kind}, {callers} caller{'' if callers == '1' else 's'}"
        server, inside = row["server"], row["in_process"]
        lines.append(
            f"| {name} | {server['per_s']:.0f} | {inside['per_s']:.0f} "
            f"| {row['ratio']:.2f} | {server['p50_ms']:.1f} / {server['p95_ms']:.1f} / {server['p99_ms']:.1f} "
            f"| {inside['p50_ms']:.1f} |"
        )
    ingest = figures["ingest"]
    lines.append(
        f"| ingest, one stream | {ingest['server_per_s']:.0f} | {ingest['ceiling_per_s']:.0f} "
        f"| {ingest['ratio']:.2f} | | |"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--photos", type=Path, help="a folder per category (default: the rendered catalogue)")
    parser.add_argument("--limit", type=int, help="at most this many photos, spread over the categories")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--store", action="store_true", help="keep the figures in tests/bench/results/serving.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="everlook-bench-") as folder:
        work = Path(folder)
        source = options.photos or render_catalogue(work / "photos")
        photos = sorted(path for path in source.glob("*/*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
        if options.limit:
            photos = photos[:: max(1, len(photos) // options.limit)][: options.limit]
        figures = run(photos, work, rounds=options.rounds, seconds=options.seconds, image_size=options.image_size)
    print(table(figures))
    if options.store:
        print(store("serving", figures).name)


if __name__ == "__main__":
    main()
