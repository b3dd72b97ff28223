"""Photos a second of the backfill program, against a bare loop of decoding and encoding on as many threads, in one run.

    python -m tests.bench.backfill --photos FOLDER [--store]

The two sides take turns, round by round, over the same photos and model; the ratio is the median over the rounds. The
program's rate is that between its first stored batch and its last: what comes before and after, its start and the
index, is there once, however large the gallery is.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from indexer import devices
from indexer.catalogue import Catalogue, Photo, Put
from indexer.datadir import DataDir
from indexer.encoder import Encoder
from indexer.engine import published_models
from indexer.gates import GATES, to_json
from indexer.generation import candidate_generation
from indexer.images import open_rgb, preprocess
from indexer.lineage import LINEAGE, Lineage
from indexer.model import ONNX, Manifest, load_manifest, publish_model
from indexer.programs import Activity, read_activity
from tests.bench.machine import store
from tests.conftest import ROOT
from tests.indexer.galleries import live
from tests.indexer.tiny_model import write_tiny_model

BATCH = 32
LOOK_S = 0.02


def run(
    photos: Sequence[Path], work: Path, *, rounds: int, threads: int, image_size: int, options: Sequence[str]
) -> dict[str, Any]:
    """All figures."""
    data = DataDir(work / "data")
    data.create()
    candidate = _candidate(data, work, image_size)
    images = [path.read_bytes() for path in photos]
    with Catalogue.open(data.catalogue_url) as catalogue:
        _fill(catalogue, images)
        found = catalogue.totals().photos
        sides = []
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
            bare = _bare(data, candidate, images, threads)
            program = _program(data, threads, options)
            sides.append((program, bare))
            print(f"program {program:.1f}, bare {bare:.1f} photos a second", file=sys.stderr)
            _undo(data, catalogue, candidate)
    return {
        "photos": found,
        "model": f"{candidate.backbone}, {image_size} px, {candidate.precision}",
        "threads": threads,
        "batch": BATCH,
        "rounds": rounds,
        "program_per_s": [program for program, _ in sides],
        "bare_per_s": [bare for _, bare in sides],
        "ratio": statistics.median(program / bare for program, bare in sides),
    }


def _candidate(data: DataDir, work: Path, image_size: int) -> Manifest:
    """A real model, as if it had been taught from a tiny one that is live."""
    first = write_tiny_model(data.models)
    live(data, first)
    exported = DataDir(work / "exported")
    command = [sys.executable, "-m", "trainer", "export", "--data", str(exported.root), "--image-size", str(image_size)]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    folder = exported.model(published_models(exported)[0])
    manifest = load_manifest(folder)

    def write(staging: Path) -> None:
        shutil.copy(folder / ONNX, staging)
        (staging / LINEAGE).write_text(Lineage(first.id, 1, (("photos",),)).to_json(), encoding="utf-8")
        (staging / GATES).write_text(json.dumps(to_json([])), encoding="utf-8")

    return publish_model(
        data.models,
        write,
        backbone=manifest.backbone,
        dimension=manifest.dimension,
        preprocessing=manifest.preprocessing,
        precision=manifest.precision,
        stages=1,
    )


def _fill(catalogue: Catalogue, images: Sequence[bytes]) -> None:
    for start in range(0, len(images), BATCH):
        puts = []
        for number, image in enumerate(images[start : start + BATCH], start):
            info = open_rgb(image, min_side=1)[1]
            photo = Photo(image, hashlib.sha256(image).hexdigest(), info.width, info.height, info.format)
            puts.append(Put(f"{number}", "photos", {}, photo))
        catalogue.apply(puts)


def _undo(data: DataDir, catalogue: Catalogue, candidate: Manifest) -> None:
    """Takes back what the program has made."""
    made = candidate_generation(data)
    if made is None:
        raise RuntimeError("the program has published no candidate")
    shutil.rmtree(data.generation(made.number))
    while catalogue.drop_vectors(candidate.id):
        catalogue.upkeep()


def _bare(data: DataDir, candidate: Manifest, images: Sequence[bytes], threads: int) -> float:
    """Photos a second of threads that each decode and encode a batch at a time, and do nothing else."""
    encoder = Encoder.load(data.model(candidate.id), devices.detect(), 1)
    starts = itertools.count(0, BATCH)

    def work() -> None:
        while batch := images[(start := next(starts)) : start + BATCH]:
            encoder.encode(np.stack([preprocess(image, candidate.preprocessing)[0] for image in batch]))

    pool = [threading.Thread(target=work) for _ in range(threads)]
    began = time.perf_counter()
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    return len(images) / (time.perf_counter() - began)


def _program(data: DataDir, threads: int, options: Sequence[str]) -> float:
    """Photos a second of `python -m indexer`, by what it says of itself while it embeds."""
    command = [sys.executable, "-m", "indexer", "--data", str(data.root), "--once", "--threads", str(threads)]
    said: list[Activity] = []
    with subprocess.Popen([*command, "--batch", str(BATCH), *options], cwd=ROOT) as process:
        while process.poll() is None:
            activity = read_activity(data, "indexer")
            if activity and activity.pid == process.pid and activity.phase == "backfill" and activity.done:
                said += [activity] if not said or activity.done > said[-1].done else []
            time.sleep(LOOK_S)
    if process.returncode or len(said) < 2:
        raise RuntimeError(
            f"the indexer ended with {process.returncode} after {len(said)} reports; more photos are needed"
        )
    return (said[-1].done - said[0].done) / (said[-1].at - said[0].at)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.backfill")
    parser.add_argument("--photos", type=Path, required=True, metavar="FOLDER", help="of photos, at any depth")
    parser.add_argument("--most", type=int, default=2000, help="photos that are taken (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--image-size", type=int, default=224, metavar="PIXELS")
    parser.add_argument("--no-give-way", action="store_true", help="for a machine that has other things to do")
    parser.add_argument("--store", action="store_true", help="keep the figures in tests/bench/results/backfill.json")
    chosen = parser.parse_args()
    photos = sorted(path for path in chosen.photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    every = max(1, len(photos) // chosen.most)
    with tempfile.TemporaryDirectory() as work:
        figures = run(
            photos[::every][: chosen.most],
            Path(work),
            rounds=chosen.rounds,
            threads=chosen.threads,
            image_size=chosen.image_size,
            options=["--no-give-way"] if chosen.no_give_way else [],
        )
    print(json.dumps(figures, indent=2))
    if chosen.store:
        print(store("backfill", figures).name)


if __name__ == "__main__":
    main()
