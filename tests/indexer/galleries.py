"""Data directories with tiny models, their generations, and a gallery of drawn photos: for tests of what makes them."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from indexer.catalogue import Catalogue, Photo, Put
from indexer.datadir import DataDir
from indexer.gates import Gate
from indexer.generation import GenerationInfo, publish_generation, set_live
from indexer.index import Segment
from indexer.lineage import Lineage
from indexer.model import Manifest
from tests.conftest import ROOT
from tests.e2e.photos import photo
from tests.indexer.tiny_model import write_tiny_model

PASSED = Gate("a gate", True, 1.0, 0.5, "it is met")
FAILED = Gate("a gate", False, 0.0, 0.5, "it is not met")


def new_data(folder: Path) -> DataDir:
    """An empty data directory."""
    data = DataDir(folder / "data")
    data.create()
    return data


def model(
    data: DataDir, seed: int, taught_from: Manifest | None = None, *gates: Gate, training: int | None = None
) -> Manifest:
    """A tiny model, of training `seed` where no other is given; without a base it is a first model."""
    lineage = Lineage(taught_from.id, seed if training is None else training, (("birds",),)) if taught_from else None
    return write_tiny_model(data.models, seed=seed, lineage=lineage, gates=gates)


def generation(data: DataDir, of: Manifest, *gates: Gate) -> GenerationInfo:
    """A generation of that model, of three vectors."""
    segment = Segment.build(np.eye(3, of.dimension, dtype=np.float32), np.array([1, 2, 3], np.uint64))
    return publish_generation(data, of.id, 3, segment, gates)


def live(data: DataDir, of: Manifest) -> GenerationInfo:
    """A generation of that model, which has gone live."""
    info = generation(data, of)
    set_live(data, info.number)
    return info


def put_photos(catalogue: Catalogue, seeds: Sequence[int]) -> None:
    """Items that each show a photo of their own, without vectors, under ids "item-<seed>"."""
    puts = []
    for seed in seeds:
        data = photo(seed)
        shown = Photo(data, hashlib.sha256(data).hexdigest(), 96, 96, "JPEG")
        puts.append(Put(f"item-{seed}", "birds", {}, shown))
    catalogue.apply(puts)


def photo_sha256(seed: int) -> str:
    """The address of a photo that `put_photos` puts."""
    return hashlib.sha256(photo(seed)).hexdigest()


def damage_photo(data: DataDir, seed: int) -> None:
    """Alters the stored bytes of a photo."""
    with sqlite3.connect(data.root / "catalogue.db") as database:
        query = "UPDATE photo_data SET data = ? WHERE photo_id = (SELECT id FROM photos WHERE sha256 = ?)"
        assert database.execute(query, (b"no photo at all", photo_sha256(seed))).rowcount == 1
    database.close()


def run_program(program: str, *arguments: str | Path) -> int:
    """Runs Python text in a process of its own, with this checkout; returns its exit status."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "proto")])}
    return subprocess.run(command, cwd=ROOT, env=variables, check=False).returncode
