"""The catalogue: every item with its photo, and the vectors that models made of the photos.

Every change takes the next `seq`, without gaps and for ever, also a deletion: the total order from which an index can
be rebuilt. Photos are addressed by the SHA-256 of their bytes; items with the same photo share it and its vectors, and
the last one to go takes them along.

Each write is one transaction. A crash in it leaves the state before, a crash after it the state after (`database` says
how); there is nothing in between to repair.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import and_, delete, func, select, tuple_

from indexer.catalogue.changes import apply_changes, in_parts, insert_vectors
from indexer.catalogue.database import Database, open_database
from indexer.catalogue.history import History
from indexer.catalogue.schema import categories, check, items, meta, models, photo_data, photos, prepare, vectors
from indexer.catalogue.values import (
    Applied,
    CategoryCount,
    Change,
    Entry,
    EntryChunk,
    Photo,
    StoredItem,
    Totals,
    decode_metadata,
    decode_vector,
)
from indexer.errors import CatalogueDamaged, ItemNotFound, PhotoDamaged

_CHUNK = 2000  # rows of one read: short enough not to hold up a checkpoint
_STORED_ITEM = (
    select(
        items.c.id,
        categories.c.name,
        items.c.metadata,
        items.c.seq,
        items.c.updated_at,
        photos.c.sha256,
        photos.c.bytes,
        photos.c.width,
        photos.c.height,
        photos.c.format,
    )
    .join(categories, items.c.category_id == categories.c.id)
    .join(photos, items.c.photo_id == photos.c.id)
)
_PHOTO = select(photo_data.c.data, photos.c.sha256, photos.c.width, photos.c.height, photos.c.format).join(
    photos, photo_data.c.photo_id == photos.c.id
)


class Catalogue:
    """Reads are safe from any thread. Writes are for one thread, which is the `Committer`'s while there is one.

    Errors of every method: CatalogueDamaged when what is stored cannot be read, NotServing when the database is gone.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self.history = History(database)
        """What was measured of the generations, and which went live."""

    @classmethod
    def open(cls, url: str) -> Self:
        """Opens the catalogue at a database URL, made where the database is empty and brought up to this version.

        Errors: CatalogueDamaged when it is something else, damaged, or of a newer version; InvalidField for a URL of
        another kind of database; StorageFull where the disk refuses.
        """
        database = open_database(url)
        try:
            with database.read() as connection:  # a program that only reads does not wait for the one that writes
                ready = check(connection)
            if not ready:
                with database.write() as connection:
                    prepare(connection)
        except BaseException:
            database.close()
            raise
        return cls(database)

    def close(self) -> None:
        """Closes every connection."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --------------------------------------------------------------------------------------------------- reads

    @property
    def last_seq(self) -> int:
        """The last change; 0 before the first."""
        return self.totals().last_seq

    def totals(self) -> Totals:
        """What the catalogue holds; reads one row."""
        query = select(
            meta.c.item_count, meta.c.category_count, meta.c.photo_count, meta.c.photo_bytes, meta.c.last_seq
        )
        with self._database.read() as connection:
            return Totals(*connection.execute(query).one())

    def get(self, id: str) -> StoredItem:
        """One item. Errors: ItemNotFound."""
        found = self.get_many([id]).get(id)
        if found is None:
            raise _no_item(id)
        return found

    def get_many(self, ids: Sequence[str]) -> dict[str, StoredItem]:
        """Those of `ids` that exist, in that order."""
        found = {
            id: StoredItem(id, category, decode_metadata(text), *rest)
            for id, category, text, *rest in self._rows_where_in(_STORED_ITEM, items.c.id, ids)
        }
        return {id: found[id] for id in ids if id in found}

    def image(self, id: str) -> Photo:
        """The photo of an item. Errors: ItemNotFound; PhotoDamaged when the bytes are not those that were sent."""
        found = self._rows(_PHOTO.join(items, items.c.photo_id == photos.c.id).where(items.c.id == id))
        if not found:
            raise _no_item(id)
        return self._checked(Photo(*found[0]))

    def photo(self, sha256: str) -> Photo:
        """A photo by its address. Errors: ItemNotFound when no item shows it; PhotoDamaged as in `image`."""
        found = self._rows(_PHOTO.where(photos.c.sha256 == sha256))
        if not found:
            raise ItemNotFound("no item has this photo", field="image_sha256", got=sha256)
        return self._checked(Photo(*found[0]))

    def categories(self, page_size: int, after_name: str = "") -> list[CategoryCount]:
        """Up to `page_size` categories that have items, after a name in the order of UTF-8 bytes."""
        query = select(categories.c.name, categories.c.item_count).where(categories.c.name > after_name)
        return [CategoryCount(*row) for row in self._rows(query.order_by(categories.c.name).limit(page_size))]

    def items_of(self, names: Sequence[str]) -> Iterator[StoredItem]:
        """The items of these categories, by `seq` within some hundreds of categories at a time."""
        for part in in_parts(names):
            chosen = _STORED_ITEM.where(categories.c.name.in_(part)).order_by(items.c.seq)
            last = 0
            while rows := self._rows(chosen.where(items.c.seq > last).limit(_CHUNK)):
                last = rows[-1].seq
                yield from (StoredItem(id, name, decode_metadata(text), *rest) for id, name, text, *rest in rows)

    def entries(self, after_seq: int = 0) -> Iterator[Entry]:
        """The live entries with a `seq` above `after_seq`, in its order.

        Read in several instants: a change that comes meanwhile may or may not show, and an entry never shows twice.
        """
        for chunk in self._chunks(None, after_seq):
            yield from chunk.entries

    def entries_with_vectors(self, model: str, after_seq: int = 0) -> Iterator[EntryChunk]:
        """As `entries`, in chunks, with the vectors that `model` made."""
        return self._chunks(model, after_seq)

    def vectors(self, model: str, shas: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        """The vectors (D,) that `model` made of these photos, by address; those that are missing are left out."""
        query = (
            select(photos.c.sha256, vectors.c.vector)
            .join(photos, vectors.c.photo_id == photos.c.id)
            .join(models, and_(vectors.c.model_id == models.c.id, models.c.name == model))
        )
        return {sha: decode_vector(blob) for sha, blob in self._rows_where_in(query, photos.c.sha256, shas)}

    def ids_showing(self, shas: Iterable[str]) -> Iterator[tuple[str, str]]:
        """The address of the photo and the id, of every item that shows one of these photos."""
        query = select(photos.c.sha256, items.c.id).join(items, items.c.photo_id == photos.c.id)
        return ((sha256, id) for sha256, id in self._rows_where_in(query, photos.c.sha256, shas))

    def missing_vectors(self, model: str) -> Iterator[str]:
        """The addresses of the photos of which `model` has no vector yet, each once, oldest photo first."""
        query = select(photos.c.id, photos.c.sha256).where(vectors.c.photo_id.is_(None)).order_by(photos.c.id)
        query = query.select_from(photos.outerjoin(vectors, self._made_by(model, photos.c.id)))
        last = 0
        while found := self._rows(query.where(photos.c.id > last).limit(_CHUNK)):
            last = found[-1].id
            yield from (sha256 for _, sha256 in found)

    def vector_count(self, model: str) -> int:
        """Of how many photos there is a vector that `model` made."""
        query = select(func.count()).select_from(vectors.join(models)).where(models.c.name == model)
        return int(self._rows(query)[0][0])

    def models_with_vectors(self) -> list[str]:
        """The ids of the models whose vectors are kept."""
        return [name for (name,) in self._rows(select(models.c.name).order_by(models.c.name))]

    def _chunks(self, model: str | None, after_seq: int) -> Iterator[EntryChunk]:
        columns: list[Any] = [items.c.seq, items.c.id, categories.c.name, items.c.metadata, photos.c.sha256]
        tables = items.join(categories, items.c.category_id == categories.c.id)
        tables = tables.join(photos, items.c.photo_id == photos.c.id)
        if model is not None:
            columns.append(vectors.c.vector)
            tables = tables.outerjoin(vectors, self._made_by(model, items.c.photo_id))
        query = select(*columns).select_from(tables).order_by(items.c.seq).limit(_CHUNK)
        names: dict[str, str] = {}  # one string for all the items of a category
        while rows := self._rows(query.where(items.c.seq > after_seq)):
            after_seq = rows[-1].seq
            entries = [
                Entry(seq, id, names.setdefault(name, name), decode_metadata(text), sha256)
                for seq, id, name, text, sha256, *_ in rows
            ]
            yield _chunk(entries, [row[5] if model is not None else None for row in rows])

    def _checked(self, photo: Photo) -> Photo:
        if hashlib.sha256(photo.data).hexdigest() == photo.sha256:
            return photo
        shows = min((id for _, id in self.ids_showing([photo.sha256])), default="")
        raise PhotoDamaged(
            f"the bytes of photo {photo.sha256} have changed on the disk; item {shows!r} shows it",
            field="image_sha256",
            expected=photo.sha256,
        )

    def _made_by(self, model: str, photo_id: Any) -> Any:
        """The condition that a row of `vectors` is the one of that photo and model."""
        rows = self._rows(select(models.c.id).where(models.c.name == model))
        return and_(vectors.c.photo_id == photo_id, vectors.c.model_id == (rows[0].id if rows else -1))

    def _rows_where_in(self, query: Any, column: Any, values: Iterable[Any]) -> list[Any]:
        return [row for part in in_parts(values) for row in self._rows(query.where(column.in_(part)))]

    def _rows(self, query: Any) -> Sequence[Any]:
        """Everything at once, so that the read is over before the caller looks at it."""
        with self._database.read() as connection:
            rows: Sequence[Any] = connection.execute(query).all()
            return rows

    # -------------------------------------------------------------------------------------------------- writes

    def apply(self, changes: Sequence[Change], models: Iterable[str] = ()) -> list[Applied | ItemNotFound]:
        """Applies changes in order, as one durable transaction. An unknown id is an answer, and the others go on.

        What was put is answered with its photo's vectors by these `models`, as far as they are there.

        Errors: StorageFull, and nothing was changed; NotServing when nobody knows whether it was.
        """
        with self._database.write() as connection:
            return apply_changes(connection, changes, self._clock(), models)

    def store_vectors(self, model: str, of_photo: Mapping[str, NDArray[np.float32]]) -> int:
        """Stores vectors (D,) by the address of their photo, where they are missing. Returns how many were stored.

        Photos that are gone are left out, and vectors that are there stay.
        """
        stored = 0
        with self._database.write() as connection:
            connection.execute(select(meta.c.id).with_for_update())
            query = select(photos.c.sha256, photos.c.id).select_from(
                photos.outerjoin(vectors, self._made_by(model, photos.c.id))
            )
            for part in in_parts(of_photo):
                found = connection.execute(query.where(vectors.c.photo_id.is_(None), photos.c.sha256.in_(part))).all()
                insert_vectors(connection, model, {number: of_photo[sha256] for sha256, number in found})
                stored += len(found)
        return stored

    def drop_vectors(self, model: str, limit: int = _CHUNK) -> int:
        """Removes up to `limit` vectors of a model, oldest photos first. Returns how many; 0 when none is left."""
        with self._database.write() as connection:
            model_id = connection.execute(select(models.c.id).where(models.c.name == model)).scalar_one_or_none()
            if model_id is None:
                return 0
            of_model = select(vectors.c.photo_id, vectors.c.model_id).where(vectors.c.model_id == model_id)
            some = of_model.order_by(vectors.c.photo_id).limit(limit).subquery()
            chosen = tuple_(vectors.c.photo_id, vectors.c.model_id).in_(select(some))
            removed = connection.execute(delete(vectors).where(chosen)).rowcount
            if removed < limit:
                connection.execute(delete(models).where(models.c.id == model_id))
            return removed

    def upkeep(self) -> bool:
        """One short step of housekeeping, of the thread that writes; True when another one is worth while."""
        return self._database.upkeep()

    def verify(self) -> None:
        """Reads everything and compares the counts with what is there. Errors: CatalogueDamaged with what is wrong."""
        problems = self._database.problems()
        counts = select(
            select(func.count()).select_from(items).scalar_subquery(),
            select(func.count(items.c.category_id.distinct())).scalar_subquery(),
            select(func.count()).select_from(photo_data).scalar_subquery(),
            select(func.coalesce(func.sum(func.length(photo_data.c.data)), 0)).scalar_subquery(),
            select(meta.c.last_seq).scalar_subquery(),
        )
        counted, kept = Totals(*self._rows(counts)[0]), self.totals()
        if counted != kept:
            problems.append(f"the counts say {kept}, the tables {counted}")
        if problems:
            raise CatalogueDamaged("; ".join(problems), field="catalogue", got=problems[0])


def _chunk(entries: list[Entry], blobs: list[bytes | None]) -> EntryChunk:
    present = np.array([blob is not None for blob in blobs], dtype=np.bool_)
    joined = decode_vector(b"".join(blob for blob in blobs if blob is not None))
    made = int(present.sum())
    return EntryChunk(entries, present, joined.reshape(made, -1) if made else np.empty((0, 0), np.float32))


def _no_item(id: str) -> ItemNotFound:
    return ItemNotFound("no item has this id", field="id", got=id, expected="the id of an item")
