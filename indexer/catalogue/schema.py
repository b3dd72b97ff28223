"""The catalogue's tables, and what is checked before they are used.

    items ──> categories          an item is one entry: an update deletes the old row and inserts a new one
      └────> photos <── photo_data
                ^────── vectors ──> models
    recall, swaps                 what was measured of the generations, and which went live (`history`)

Rows are small, except those of `photo_data` and `vectors`, which nothing scans. New photos and categories are numbered
with the `seq` of the change that brought them, so that tables lie on the disk in the order of `seq`. `meta` is one row:
the counts in it are kept in the transaction that changes them, so that nothing has to count.

A catalogue that an earlier version wrote is brought up to this one when it is opened, by whichever program comes first.

| crash at this step                    | found so at restart                                                         |
|---------------------------------------|-----------------------------------------------------------------------------|
| while the tables are made or added to | an empty database, or the earlier version whole: it comes in one transaction |
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Connection,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    func,
    insert,
    inspect,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError

from indexer.errors import CatalogueDamaged

VERSION = 2
_LOCK = 0x65766572  # of PostgreSQL: one program at a time makes the tables

# SQLite makes a column of exactly this type the key of the table itself. Texts compare by their bytes everywhere.
_Number = BigInteger().with_variant(Integer, "sqlite")
_Text = Text().with_variant(Text(collation="C"), "postgresql")

_tables = MetaData()

meta = Table(
    "meta",
    _tables,
    Column("id", Integer, CheckConstraint("id = 1"), primary_key=True, autoincrement=False),
    Column("schema_version", Integer, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("item_count", BigInteger, nullable=False),
    Column("category_count", BigInteger, nullable=False),
    Column("photo_count", BigInteger, nullable=False),
    Column("photo_bytes", BigInteger, nullable=False),
)
categories = Table(
    "categories",
    _tables,
    Column("id", _Number, primary_key=True, autoincrement=False),
    Column("name", _Text, nullable=False, unique=True),
    Column("item_count", BigInteger, nullable=False),
)
photos = Table(
    "photos",
    _tables,
    Column("id", _Number, primary_key=True, autoincrement=False),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("bytes", BigInteger, nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("format", Text, nullable=False),
)
photo_data = Table(
    "photo_data",
    _tables,
    Column("photo_id", _Number, ForeignKey("photos.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("data", LargeBinary, nullable=False),
)
items = Table(
    "items",
    _tables,
    Column("seq", _Number, primary_key=True, autoincrement=False),
    Column("id", _Text, nullable=False, unique=True),
    Column("category_id", _Number, ForeignKey("categories.id"), nullable=False, index=True),
    Column("photo_id", _Number, ForeignKey("photos.id"), nullable=False, index=True),
    Column("metadata", Text, nullable=False),
    Column("updated_at", Double, nullable=False),
)
models = Table(
    "models",
    _tables,
    Column("id", SmallInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("name", _Text, nullable=False, unique=True),
)
vectors = Table(
    "vectors",
    _tables,
    Column("model_id", ForeignKey("models.id"), primary_key=True, autoincrement=False),
    Column("photo_id", ForeignKey("photos.id", ondelete="CASCADE"), primary_key=True, autoincrement=False, index=True),
    Column("vector", LargeBinary, nullable=False),
)


recall = Table(
    "recall",
    _tables,
    Column("id", _Number, primary_key=True),
    Column("at", Double, nullable=False, index=True),
    Column("generation", BigInteger, nullable=False),
    Column("model", _Text, nullable=False),
    Column("cause", Text, nullable=False),
    Column("cohort", Integer),
    Column("probes", Integer, nullable=False),
    Column("found_1", Integer, nullable=False),
    Column("found_5", Integer, nullable=False),
    Column("found_10", Integer, nullable=False),
    Index("recall_of_model", "cause", "model", "cohort"),
)
swaps = Table(
    "swaps",
    _tables,
    Column("id", _Number, primary_key=True),
    Column("at", Double, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("model", _Text, nullable=False),
    Column("base", _Text, nullable=False),
    Column("cohort", Integer),
    Column("again", Boolean, nullable=False),
)
_SINCE = {recall.name: 2, swaps.name: 2}
"""The version that brought a table, where that is not the first."""


def check(connection: Connection) -> bool:
    """Whether the database holds a catalogue of this version; False when it is empty, or an earlier version wrote it.

    Errors: CatalogueDamaged when it holds something else, or was written by a newer version.
    """
    present = _present(connection)
    if not present:
        return False
    version = VERSION
    if meta.name in present:
        version = _checked_version(_stored_version(connection))
        present = _present(connection)  # once more: another program may have brought it up to date between the looks
    expected = {name for name in _tables.tables if _SINCE.get(name, 1) <= version}
    if absent := sorted(expected - present):
        raise CatalogueDamaged(
            f"the database is no catalogue: it has tables, but not {', '.join(absent)}. Give the catalogue a database"
            " of its own, or restore this one from a backup",
            field="catalogue",
            got=", ".join(sorted(present)),
            expected="a catalogue, or an empty database",
        )
    return version == VERSION


def prepare(connection: Connection) -> None:
    """Makes the tables in an empty database, or those that an earlier version did not have. Others may do so too."""
    if connection.dialect.name == "postgresql":  # SQLite's writing transaction is alone anyway
        connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
    if check(connection):
        return
    empty = not _present(connection)
    _tables.create_all(connection)
    if empty:
        zero = dict.fromkeys(("last_seq", "item_count", "category_count", "photo_count", "photo_bytes"), 0)
        connection.execute(insert(meta).values(id=1, schema_version=VERSION, **zero))
    else:
        connection.execute(update(meta).values(schema_version=VERSION))


def drop(connection: Connection) -> None:
    """Removes the catalogue's tables, with all that is in them."""
    _tables.drop_all(connection)


def _present(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names())


def _stored_version(connection: Connection) -> int | None:
    try:
        return connection.execute(select(meta.c.schema_version)).scalar_one_or_none()
    except DBAPIError as error:
        raise CatalogueDamaged(f"the catalogue's version cannot be read: {error.orig}", field="catalogue") from error


def _checked_version(version: int | None) -> int:
    if version is not None and 1 <= version <= VERSION:
        return version
    newer = version is not None and version > VERSION
    raise CatalogueDamaged(
        f"the catalogue was written by a newer Everlook (schema {version}); upgrade this one, or restore a backup"
        if newer
        else f"the catalogue says schema {version}, which no release has written; restore a backup",
        field="catalogue",
        got=f"schema {version}",
        expected=f"schema {VERSION}",
    )
