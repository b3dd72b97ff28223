"""The same work in one process, without a network: what the server's figures are held against.

Decode, encode and search by the engine's own parts: for one caller one query after another, for many a thread on each
core with batches of the size that is fastest here.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer import devices
from indexer.datadir import DataDir
from indexer.encoder import Encoder
from indexer.engine import Engine
from indexer.images import preprocess
from indexer.index import SearchParams

BATCHES = (1, 2, 8)
Vectors = NDArray[np.float32]


def measure(data: Path, photos: Sequence[bytes], *, cores: int, seconds: float, k: int = 10) -> dict[str, Any]:
    """Queries per second and latencies over a copy of the server's data directory."""
    with Engine(DataDir(data)) as engine:
        serving = engine.live.current
        model, view, params = serving.generation.model, serving.view, SearchParams(k=k)
        folder = DataDir(data).model(model.id)
        encoder = Encoder.load(folder, devices.detect(), cores)

        def embed(batch: list[int]) -> Vectors:
            return encoder.encode(np.stack([preprocess(photos[i], model.preprocessing)[0] for i in batch]))

        def by_image(batch: list[int]) -> object:
            return view.search(embed(batch), params)

        vectors = embed(list(range(len(photos))))

        def by_vector(batch: list[int]) -> object:
            return view.search(vectors[batch], params)

        def best(work: Callable[[list[int]], object]) -> dict[str, Any]:
            """Of many callers, by how many queries go together on each core."""
            runs = [_drive(work, len(photos), batch, cores, seconds / 2) for batch in BATCHES]
            return max(runs, key=lambda run: run["per_s"])

        return {
            "image_1": _drive(by_image, len(photos), 1, 1, seconds),
            "image_16": best(by_image),
            "vector_1": _drive(by_vector, len(photos), 1, 1, seconds),
            "vector_16": best(by_vector),
            "ingest": best(embed),
        }


def _drive(
    work: Callable[[list[int]], object], photos: int, batch: int, threads: int, seconds: float
) -> dict[str, Any]:
    """Runs `work` on batches in `threads` threads for `seconds`, after warming up."""
    numbers = itertools.cycle(range(photos))
    took: list[float] = []
    work([next(numbers) for _ in range(batch)])
    until = time.perf_counter() + seconds

    def loop() -> None:
        while (began := time.perf_counter()) < until:
            work([next(numbers) for _ in range(batch)])
            took.append(time.perf_counter() - began)

    pool = [threading.Thread(target=loop) for _ in range(threads)]
    began = time.perf_counter()
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    elapsed = time.perf_counter() - began
    return {"per_s": len(took) * batch / elapsed, **percentiles(took), "how": f"{threads} threads, batches of {batch}"}


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99 in milliseconds."""
    p50, p95, p99 = np.percentile(np.asarray(seconds) * 1000, [50, 95, 99]).tolist()
    return {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99}
