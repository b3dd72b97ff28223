"""Data folders: fresh ones to serve from, and what must hold of one after any crash."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

from indexer.datadir import DataDir
from indexer.files import STAGING
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


def check_whole(folder: Path, *, generations: int = 2) -> None:
    """The database is sound, nothing unfinished lies about, and no more generations are kept than asked for."""
    data = DataDir(folder)
    with sqlite3.connect(data.root / "catalogue.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
    database.close()
    assert [str(path) for path in folder.rglob(f"{STAGING}*")] == []
    kept = sorted(path.name for path in data.generations.iterdir())
    assert 1 <= len(kept) <= generations, kept
