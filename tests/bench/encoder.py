"""Images a second through the encoder, by images in one run, threads of one run, and callers at once.

    python -m tests.bench.encoder [--store]

Says how many images a run should take on a CPU, and when it should take more than one thread.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from indexer import devices
from indexer.datadir import DataDir
from indexer.encoder import Encoder
from indexer.engine import published_models
from tests.bench.machine import store

BATCHES = (1, 2, 4, 8, 16)


def measure(size: int, seconds: float) -> list[dict[str, Any]]:
    """One row for each combination, at `size` pixels."""
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        data = DataDir(Path(folder))
        export = [sys.executable, "-m", "trainer", "export", "--data", folder, "--image-size", str(size)]
        subprocess.run(export, check=True, stdout=subprocess.DEVNULL)
        (model,) = published_models(data)
        rows = []
        encoder = Encoder.load(data.model(model), devices.detect(), cores)
        for threads in sorted({1, cores}):
            for callers in sorted({1, cores}):
                for batch in BATCHES:
                    rate = _rate(encoder, batch, callers, seconds, alone=threads > 1)
                    rows.append({"pixels": size, "threads": threads, "callers": callers, "batch": batch, "per_s": rate})
                    print(rows[-1], file=sys.stderr)
    return rows


def _rate(encoder: Encoder, batch: int, callers: int, seconds: float, *, alone: bool) -> float:
    side = encoder.manifest.preprocessing.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)
    encoder.run_once(pixels, alone=alone)  # `encode` would split the batch, and choose the threads by itself
    done: list[int] = []
    until = time.perf_counter() + seconds

    def loop() -> None:
        while time.perf_counter() < until:
            encoder.run_once(pixels, alone=alone)
            done.append(batch)

    pool = [threading.Thread(target=loop) for _ in range(callers)]
    began = time.perf_counter()
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    return sum(done) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.encoder")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--store", action="store_true", help="keep the figures in tests/bench/results/encoder.json")
    options = parser.parse_args()
    rows = [row for size in (128, 224) for row in measure(size, options.seconds)]
    if options.store:
        print(store("encoder", {"model": "efficientnet_lite0, fp32", "rows": rows}).name)


if __name__ == "__main__":
    main()
