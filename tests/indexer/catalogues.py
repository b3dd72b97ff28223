"""Databases and items for the tests of the catalogue."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import create_engine, select, update

from indexer.catalogue import Catalogue, MetadataValue, Photo, Put
from indexer.catalogue.schema import drop, photo_data, photos

MODEL = "a" * 64
DIMENSION = 8
POSTGRES_URL = os.environ.get("EVERLOOK_TEST_POSTGRES_URL", "")  # everything of the catalogue in it is dropped

needs_postgres = pytest.mark.skipif(not POSTGRES_URL, reason="EVERLOOK_TEST_POSTGRES_URL names no database")
DATABASES = ["sqlite", pytest.param("postgresql", marks=needs_postgres)]


def fresh_url(database: str, folder: Path) -> str:
    """The URL of an empty database."""
    if database == "sqlite":
        return f"sqlite:///{folder / 'catalogue.db'}"
    engine = create_engine(POSTGRES_URL)
    with engine.begin() as connection:
        drop(connection)
    engine.dispose()
    return POSTGRES_URL


def photo(name: str, size: int = 0) -> Photo:
    """Bytes that depend on the name, padded to `size`."""
    data = (name.encode() * (1 + size // max(1, len(name))))[: max(size, len(name))]
    return Photo(data, hashlib.sha256(data).hexdigest(), 320, 240, "JPEG")


def vector(name: str, model: str = MODEL) -> NDArray[np.float32]:
    """A unit vector that depends on the names of photo and model."""
    seed = int.from_bytes(hashlib.sha256(f"{model}/{name}".encode()).digest()[:8])
    drawn = np.random.default_rng(seed).standard_normal(DIMENSION)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


def put(
    id: str,
    category: str = "apples",
    metadata: Mapping[str, MetadataValue] | None = None,
    *,
    shows: str | None = None,
    size: int = 0,
) -> Put:
    """An item with the photo `shows` (its id where None) and that photo's vector."""
    shows = id if shows is None else shows
    return Put(id, category, metadata or {}, photo(shows, size), {MODEL: vector(shows)})


def damage(catalogue: Catalogue, sha256: str) -> None:
    """Changes a byte of a photo on the disk."""
    data = catalogue.photo(sha256).data
    of_photo = select(photos.c.id).where(photos.c.sha256 == sha256).scalar_subquery()
    with catalogue._database.write() as connection:
        changed = data[:-1] + bytes([data[-1] ^ 1])
        connection.execute(update(photo_data).where(photo_data.c.photo_id == of_photo).values(data=changed))


def keep_photo(id: str, category: str = "apples", metadata: Mapping[str, MetadataValue] | None = None) -> Put:
    """A put that changes all but the photo."""
    return Put(id, category, metadata or {}, None)
