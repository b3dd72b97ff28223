"""The catalogue's tables, and what is checked before they are used.

    items ──> categories          an item is one entry: an update deletes the old row and inserts a new one
      └────> photos <── photo_data
                ^────── vectors ──> models

Rows are small, except those of `photo_data` and `vectors`, which nothing scans. New photos and categories are numbered
with the `seq` of the change that brought them, so that tables lie on the disk in the order of `seq`. `meta` is one row:
the counts in it are kept in the transaction that changes them, so that nothing has to count.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    Double,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    insert,
    inspect,
    select,
)
from sqlalchemy.exc import DBAPIError

from indexer.errors import CatalogueDamaged

VERSION = 1

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


def check(connection: Connection) -> bool:
    """Whether the database holds a catalogue; False when it is empty.

    Errors: CatalogueDamaged when it holds something else, or was written by a newer version.
    """
    present = set(inspect(connection).get_table_names())
    if not present:
        return False
    if meta.name in present:
        _check_version(_stored_version(connection))
    if absent := sorted(_tables.tables.keys() - present):
        raise CatalogueDamaged(
            f"the database is no catalogue: it has tables, but not {', '.join(absent)}. Give the catalogue a database"
            " of its own, or restore this one from a backup",
            field="catalogue",
            got=", ".join(sorted(present)),
            expected="a catalogue, or an empty database",
        )
    return True


def create(connection: Connection) -> None:
    """Makes the tables in an empty database."""
    _tables.create_all(connection)
    empty = dict.fromkeys(("last_seq", "item_count", "category_count", "photo_count", "photo_bytes"), 0)
    connection.execute(insert(meta).values(id=1, schema_version=VERSION, **empty))


def drop(connection: Connection) -> None:
    """Removes the catalogue's tables, with all that is in them."""
    _tables.drop_all(connection)


def _stored_version(connection: Connection) -> int | None:
    try:
        return connection.execute(select(meta.c.schema_version)).scalar_one_or_none()
    except DBAPIError as error:
        raise CatalogueDamaged(f"the catalogue's version cannot be read: {error.orig}", field="catalogue") from error


def _check_version(version: int | None) -> None:
    if version == VERSION:
        return
    newer = version is not None and version > VERSION
    raise CatalogueDamaged(
        f"the catalogue was written by a newer Everlook (schema {version}); upgrade this one, or restore a backup"
        if newer
        else f"the catalogue says schema {version}, which no release has written; restore a backup",
        field="catalogue",
        got=f"schema {version}",
        expected=f"schema {VERSION}",
    )
