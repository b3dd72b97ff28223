"""Applying a batch of changes inside one transaction: look up everything, decide in memory, write what came out of it.

The number of statements depends on the kinds of rows that change, not on how many changes there are. A crash anywhere
here leaves the state before the transaction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import BindParameter, Connection, Executable, Select, Table, bindparam, delete, insert, select, update

from indexer.catalogue.schema import categories, items, meta, models, photo_data, photos, vectors
from indexer.catalogue.values import (
    Applied,
    Change,
    Delete,
    Entry,
    Outcome,
    Photo,
    Put,
    decode_vector,
    encode_metadata,
    encode_vector,
)
from indexer.errors import ItemNotFound

_LOOKUP = 500  # values in one IN list

# Statements are made once: making one costs SQLAlchemy more than SQLite takes to run it.
_SOME: BindParameter[Any] = bindparam("some", expanding=True)
_LOCK_META = select(meta.c.last_seq).with_for_update()
_ITEMS_BY_ID = (
    select(items.c.id, items.c.seq, categories.c.name, items.c.metadata, photos.c.sha256)
    .join(categories, items.c.category_id == categories.c.id)
    .join(photos, items.c.photo_id == photos.c.id)
    .where(items.c.id.in_(_SOME))
)
_PHOTOS_BY_SHA256 = select(photos.c.sha256, photos.c.id).where(photos.c.sha256.in_(_SOME))
_CATEGORIES_BY_NAME = select(categories.c.name, categories.c.id).where(categories.c.name.in_(_SOME))
_VECTORS_BY_PHOTO = (
    select(models.c.name, photos.c.sha256, vectors.c.vector)
    .select_from(vectors.join(models).join(photos))
    .where(models.c.name.in_(bindparam("models", expanding=True)), vectors.c.photo_id.in_(_SOME))
)
_PHOTOS_IN_USE = select(items.c.photo_id).distinct().where(items.c.photo_id.in_(_SOME))
_PHOTO_SIZES = select(photos.c.bytes).where(photos.c.id.in_(_SOME))
_EMPTY_CATEGORIES = select(categories.c.id).where(categories.c.item_count == 0, categories.c.name.in_(_SOME))
_MODEL_BY_NAME = select(models.c.id).where(models.c.name == bindparam("name"))
_DELETE_ITEMS = delete(items).where(items.c.seq.in_(_SOME))
_DELETE_PHOTOS = delete(photos).where(photos.c.id.in_(_SOME))
_DELETE_CATEGORIES = delete(categories).where(categories.c.id.in_(_SOME))
_COUNT_CATEGORY = (
    update(categories)
    .where(categories.c.name == bindparam("category"))
    .values(item_count=categories.c.item_count + bindparam("added"))
)
_COUNT = update(meta).values(
    last_seq=bindparam("seq"),
    item_count=meta.c.item_count + bindparam("items"),
    category_count=meta.c.category_count + bindparam("categories"),
    photo_count=meta.c.photo_count + bindparam("photos"),
    photo_bytes=meta.c.photo_bytes + bindparam("bytes"),
)
_INSERT = {table: insert(table) for table in (categories, photos, photo_data, items, vectors)}


@dataclass(frozen=True, slots=True)
class _Row:
    """An item's row, in words; the numbers of its category and photo are settled when it is written."""

    seq: int
    category: str
    metadata: str
    sha256: str


def apply_changes(
    connection: Connection, changes: Sequence[Change], now: float, models: Iterable[str] = ()
) -> list[Applied | ItemNotFound]:
    """Applies `changes` in order and returns what became of each, with the photo's vectors by these `models`, where
    there are some. `now` is the time in Unix seconds.

    Deleting an unknown id, or keeping the photo of one, is ItemNotFound, and the others go on. A put of what is there
    already is UNCHANGED and takes no `seq`.
    """
    return _Batch(connection, changes, models).apply(now)


class _Batch:
    """`before` is what the database holds of the items concerned, `after` what it shall hold."""

    def __init__(self, connection: Connection, changes: Sequence[Change], models: Iterable[str]) -> None:
        self._connection = connection
        self._changes = changes
        # Locked first, so that transactions of other writers, where the database allows them, come one after another.
        self._seq: int = connection.execute(_LOCK_META).scalar_one()
        self._last_seq = self._seq
        self._before = self._stored_items({change.id for change in changes})
        self._after: dict[str, _Row | None] = dict(self._before)
        puts = [change for change in changes if isinstance(change, Put)]
        shas = {put.photo.sha256 for put in puts if put.photo} | {row.sha256 for row in self._before.values()}
        self._photo_ids = self._stored_photos(shas)
        self._models = set(models)
        self._stored_vectors = self._vectors_of(self._models.union(*(put.vectors for put in puts)) if puts else set())
        self._new_photos: dict[str, tuple[int, Photo]] = {}
        self._new_vectors: dict[tuple[str, str], NDArray[np.float32]] = {}  # by model and photo

    def apply(self, now: float) -> list[Applied | ItemNotFound]:
        results = [self._decide_delete(c) if isinstance(c, Delete) else self._decide_put(c) for c in self._changes]
        if self._seq > self._last_seq:
            self._write_items({id for id, row in self._after.items() if row != self._before.get(id)}, now)
        self._write_vectors()
        return results

    # ------------------------------------------------------------------------------------------------ looking up

    def _stored_items(self, ids: Iterable[str]) -> dict[str, _Row]:
        return {id: _Row(*row) for id, *row in self._rows(_ITEMS_BY_ID, ids)}

    def _stored_photos(self, shas: Iterable[str]) -> dict[str, int]:
        return dict(self._rows(_PHOTOS_BY_SHA256, shas))

    def _vectors_of(self, names: set[str]) -> dict[tuple[str, str], bytes]:
        """What the database has of these models' vectors of the photos concerned."""
        rows = self._rows(_VECTORS_BY_PHOTO, self._photo_ids.values(), models=sorted(names)) if names else ()
        return {(model, sha256): vector for model, sha256, vector in rows}

    def _rows(self, query: Select[*tuple[Any, ...]], some: Iterable[Any], **more: Any) -> Iterator[Any]:
        for part in in_parts(some):
            yield from self._connection.execute(query, {"some": part, **more})

    # ------------------------------------------------------------------------------------------------- deciding

    def _decide_delete(self, change: Delete) -> Applied | ItemNotFound:
        if self._after.get(change.id) is None:
            return _not_found(change.id)
        self._seq += 1
        self._after[change.id] = None
        return Applied(self._seq, Outcome.DELETED, change.id, None)

    def _decide_put(self, change: Put) -> Applied | ItemNotFound:
        old = self._after.get(change.id)
        if change.photo is None and old is None:
            return _not_found(change.id)
        sha256 = change.photo.sha256 if change.photo else old.sha256 if old else ""
        metadata = encode_metadata(change.metadata)
        if old and (old.category, old.metadata, old.sha256) == (change.category, metadata, sha256):
            seq, outcome = old.seq, Outcome.UNCHANGED
        else:
            self._seq += 1
            seq, outcome = self._seq, Outcome.UPDATED if old else Outcome.CREATED
            self._after[change.id] = _Row(seq, change.category, metadata, sha256)
        if change.photo and sha256 not in self._photo_ids and sha256 not in self._new_photos:
            self._new_photos[sha256] = (seq, change.photo)
        entry = Entry(seq, change.id, change.category, dict(change.metadata), sha256)
        return Applied(seq, outcome, change.id, entry, self._vectors(change, sha256))

    def _vectors(self, change: Put, sha256: str) -> dict[str, NDArray[np.float32]]:
        found = {}
        for model in self._models.union(change.vectors):
            key = (model, sha256)
            if key in self._stored_vectors:
                found[model] = decode_vector(self._stored_vectors[key])
            elif key in self._new_vectors:
                found[model] = self._new_vectors[key]
            elif model in change.vectors:
                found[model] = self._new_vectors[key] = change.vectors[model]
        return found

    # ------------------------------------------------------------------------------------------------- writing

    def _write_items(self, changed: set[str], now: float) -> None:
        gone = [self._before[id] for id in changed if id in self._before]
        come = [(id, row) for id in changed if (row := self._after[id])]
        photos_added, bytes_added = self._add_photos({row.sha256 for _, row in come})
        category_ids, categories_added = self._add_categories(come)
        self._delete(_DELETE_ITEMS, [row.seq for row in gone])
        _insert(
            self._connection,
            items,
            [
                {
                    "seq": row.seq,
                    "id": id,
                    "category_id": category_ids[row.category],
                    "photo_id": self._photo_ids[row.sha256],
                    "metadata": row.metadata,
                    "updated_at": now,
                }
                for id, row in sorted(come, key=lambda each: each[1].seq)
            ],
        )
        photos_removed, bytes_removed = self._remove_photos(row.sha256 for row in gone)
        categories_removed = self._count_categories(gone, [row for _, row in come])
        added = {
            "items": len(come) - len(gone),
            "categories": categories_added - categories_removed,
            "photos": photos_added - photos_removed,
            "bytes": bytes_added - bytes_removed,
        }
        self._connection.execute(_COUNT, {"seq": self._seq, **added})

    def _add_photos(self, used: set[str]) -> tuple[int, int]:
        """Adds the photos that an item shows at the end of the batch. Returns how many, and their bytes."""
        added = [(number, photo) for sha256, (number, photo) in self._new_photos.items() if sha256 in used]
        self._photo_ids.update((photo.sha256, number) for number, photo in added)
        rows = [
            {
                "id": number,
                "sha256": photo.sha256,
                "bytes": len(photo.data),
                "width": photo.width,
                "height": photo.height,
                "format": photo.format,
            }
            for number, photo in added
        ]
        _insert(self._connection, photos, rows)
        _insert(self._connection, photo_data, [{"photo_id": number, "data": photo.data} for number, photo in added])
        return len(added), sum(len(photo.data) for _, photo in added)

    def _remove_photos(self, released: Iterable[str]) -> tuple[int, int]:
        """Removes those that no item shows any more, with their vectors. Returns how many, and their bytes."""
        numbers = {self._photo_ids[sha256] for sha256 in released}
        orphans = numbers - {number for (number,) in self._rows(_PHOTOS_IN_USE, numbers)}
        sizes = [size for (size,) in self._rows(_PHOTO_SIZES, orphans)]
        self._delete(_DELETE_PHOTOS, orphans)
        self._photo_ids = {sha256: number for sha256, number in self._photo_ids.items() if number not in orphans}
        return len(orphans), sum(sizes)

    def _add_categories(self, come: list[tuple[str, _Row]]) -> tuple[dict[str, int], int]:
        """Adds the categories that are new. Returns the numbers of all that are used, and how many are new."""
        first_seq: dict[str, int] = {}
        for _, row in come:
            first_seq[row.category] = min(row.seq, first_seq.get(row.category, row.seq))
        numbers: dict[str, int] = dict(self._rows(_CATEGORIES_BY_NAME, first_seq))
        new = {name: seq for name, seq in first_seq.items() if name not in numbers}
        _insert(self._connection, categories, [{"id": seq, "name": name, "item_count": 0} for name, seq in new.items()])
        return numbers | new, len(new)

    def _count_categories(self, gone: list[_Row], come: list[_Row]) -> int:
        """Brings the categories' counts up to date and removes empty ones. Returns how many those are."""
        difference = Counter(row.category for row in come)
        difference.subtract(Counter(row.category for row in gone))
        rows = [{"category": name, "added": added} for name, added in difference.items() if added]
        if rows:
            self._connection.execute(_COUNT_CATEGORY, rows)
        fewer = [name for name, added in difference.items() if added < 0]
        empty = [number for (number,) in self._rows(_EMPTY_CATEGORIES, fewer)]
        self._delete(_DELETE_CATEGORIES, empty)
        return len(empty)

    def _write_vectors(self) -> None:
        by_model: dict[str, dict[int, NDArray[np.float32]]] = {}
        for (model, sha256), vector in self._new_vectors.items():
            if sha256 in self._photo_ids:
                by_model.setdefault(model, {})[self._photo_ids[sha256]] = vector
        for model, of_photo in by_model.items():
            insert_vectors(self._connection, model, of_photo)

    def _delete(self, statement: Executable, some: Iterable[int]) -> None:
        for part in in_parts(some):
            self._connection.execute(statement, {"some": part})


def insert_vectors(connection: Connection, model: str, of_photo: dict[int, NDArray[np.float32]]) -> None:
    """Stores the vectors that `model` made, by the photos' numbers; none of them may be there already."""
    model_id = connection.execute(_MODEL_BY_NAME, {"name": model}).scalar_one_or_none()
    if model_id is None:
        model_id = connection.execute(insert(models).values(name=model).returning(models.c.id)).scalar_one()
    _insert(
        connection,
        vectors,
        [
            {"photo_id": number, "model_id": model_id, "vector": encode_vector(vector)}
            for number, vector in of_photo.items()
        ],
    )


def in_parts(values: Iterable[Any]) -> Iterator[list[Any]]:
    """`values` without repeats, in lists short enough for one statement."""
    distinct = sorted(set(values))
    for start in range(0, len(distinct), _LOOKUP):
        yield distinct[start : start + _LOOKUP]


def _insert(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(_INSERT[table], rows)


def _not_found(id: str) -> ItemNotFound:
    return ItemNotFound("no item has this id", field="id", got=id, expected="the id of an item")
