"""Data folders: fresh ones to serve from, and what must hold of one after any crash."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import numpy as np

from indexer.catalogue import Catalogue
from indexer.datadir import DataDir
from indexer.devices import detect
from indexer.embedding import embed_missing
from indexer.encoder import Encoder
from indexer.files import STAGING
from indexer.generation import GenerationInfo, live_model, publish_generation
from indexer.index import Segment
from indexer.lineage import Lineage
from tests.indexer.tiny_model import write_tiny_model


def tiny_data(parent: Path) -> Path:
    """A data folder below `parent` with the tiny model and nothing else."""
    folder = parent / "data"
    write_tiny_model(DataDir(folder).models)
    return folder


def data_with(parent: Path, model_folder: Path) -> Path:
    """A data folder below `parent` with a copy of a published model and nothing else."""
    folder = parent / "data"
    shutil.copytree(model_folder, DataDir(folder).models / model_folder.name)
    return folder


def publish_candidate(data: DataDir, catalogue: Catalogue, seed: int, *cohorts: tuple[str, ...]) -> GenerationInfo:
    """A tiny model that was taught from the live one, and a generation of it, as trainer and indexer make them."""
    lineage = Lineage(live_model(data) or "", 1, cohorts)
    model = write_tiny_model(data.models, seed=seed, dimension=(32, 16)[seed % 2], lineage=lineage)
    encoder = Encoder.load(data.model(model.id), detect(), 1)
    embed_missing(catalogue, encoder, catalogue.store_vectors)
    seq = catalogue.last_seq
    pairs = [(entry.seq, vector) for chunk in catalogue.entries_with_vectors(model.id) for entry, vector in chunk]
    vectors = np.array([vector for _, vector in pairs], np.float32).reshape(-1, model.dimension)
    segment = Segment.build(vectors, np.array([number for number, _ in pairs], np.uint64))
    return publish_generation(data, model.id, seq, segment)


def check_whole(folder: Path, *, generations: int = 2) -> None:
    """The database is sound, nothing unfinished lies about, and no more generations are kept than asked for."""
    data = DataDir(folder)
    with sqlite3.connect(data.root / "catalogue.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
    database.close()
    assert [str(path) for path in folder.rglob(f"{STAGING}*")] == []
    kept = sorted({path.name for path in data.generations.iterdir()} - {data.last_generation.name})
    assert 1 <= len(kept) <= generations, kept
