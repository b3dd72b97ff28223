"""Connections to SQLite or PostgreSQL: durability, space, and what a driver's error means.

One connection writes, and belongs to whoever holds `write`; each read has its own, for as long as it takes.

SQLite keeps recent commits in a log beside the file (`-wal`) until a checkpoint copies them into it. FULL means that a
commit returns after the log is fsynced. A reader sees one instant, and the log cannot start again before the reader
ends; therefore reads are short, and past a size the writer waits a moment for them.

| crash at this step               | found so at restart                                                               |
|----------------------------------|-----------------------------------------------------------------------------------|
| while a new file is made         | an empty file, or an empty catalogue: the tables come in one transaction          |
| before a commit's fsync is done  | the state before it; after a kill without power loss perhaps the state after it   |
| after it                         | the state after it: SQLite reads the log again                                    |
| during a checkpoint              | the same: the log is still whole, and the checkpoint is repeated                  |
| while free pages are given back  | the same content; the pages are given back later                                  |
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, cast

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.pool import QueuePool

from indexer.errors import CatalogueDamaged, EverlookError, InvalidField, NotServing, StorageFull

_BUSY_S = 5.0  # how long a statement waits for another process that holds the database
_LOOK_S = 0.02  # between two looks whether another one has made the file
_RETRY_S = 5.0  # full disks do not empty themselves in a second
_READERS = 8  # connections kept; more threads than that open more, for as long as they need them


class Database(Protocol):
    """What the catalogue needs of a database. Reads may come from any thread, writes from one at a time."""

    def read(self) -> contextlib.AbstractContextManager[Connection]:
        """A connection that sees one instant. Errors: as `storage_error` says."""

    def write(self) -> contextlib.AbstractContextManager[Connection]:
        """One transaction: durable when the block ends well, undone when it raises. Errors: as `storage_error` says."""

    def upkeep(self) -> bool:
        """One short step of housekeeping between transactions; True when another one is worth while."""

    def problems(self) -> list[str]:
        """What the database's own check of itself finds; reads everything."""

    def close(self) -> None:
        """Closes every connection."""


def open_database(url: str) -> Database:
    """Connects. Errors: InvalidField for another kind of URL, CatalogueDamaged when the file is no database."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise _bad_url("no database URL") from None
    backend = parsed.get_backend_name()
    if backend == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return SqliteDatabase(parsed)
    if backend == "postgresql":
        return PostgresDatabase(parsed.set(drivername="postgresql+psycopg"))
    raise _bad_url(f"{backend} without a file" if backend == "sqlite" else backend)


def _bad_url(got: str) -> InvalidField:
    expected = "sqlite:///file or postgresql://user@host/database"
    return InvalidField("the catalogue cannot use this database URL", field="catalogue", got=got, expected=expected)


class SqliteDatabase:
    """A file. Nothing to set up, and faster than a network for one machine."""

    # Photos of some 20 KB: bigger pages would waste more at their ends, smaller ones make longer chains.
    page_bytes = 8192
    checkpoint_bytes = 16 << 20
    max_log_bytes = 64 << 20  # then the writer waits for readers to let the log start again
    max_log_wait_s = 0.25
    free_bytes = 16 << 20  # kept for the next photos; what is free beyond that goes back to the file system
    release_bytes = 4 << 20  # at a time, since changes wait meanwhile

    def __init__(self, url: URL) -> None:
        self._path = Path(str(url.database))
        self._reader = self._engine(url, writes=False, pool_size=_READERS, max_overflow=-1)
        self._writer = self._engine(url, writes=True, pool_size=1, max_overflow=0)
        with translated():
            self._open()

    def _open(self) -> None:
        """Makes the file where there is none, and finds out whether it is a database.

        Of several programs that make it at once one does. SQLite tells the others so at once, whatever their timeout,
        where waiting for each other could be for ever.
        """
        deadline = time.monotonic() + _BUSY_S
        while True:
            try:
                self._make_file()
                self._writer.connect().close()
                return
            except (DBAPIError, sqlite3.Error) as error:
                if not _is_busy(error) or time.monotonic() > deadline:
                    raise
                time.sleep(_LOOK_S)

    def _make_file(self) -> None:
        """Settles what can be chosen only while the file is empty; later these would wait for whoever writes."""
        if self._path.exists() and self._path.stat().st_size > 0:
            return
        with contextlib.closing(sqlite3.connect(self._path, timeout=_BUSY_S)) as connection:
            for pragma in (f"page_size = {self.page_bytes}", "auto_vacuum = INCREMENTAL", "journal_mode = WAL"):
                connection.execute(f"PRAGMA {pragma}").fetchall()

    def _engine(self, url: URL, *, writes: bool, **pool: Any) -> Engine:
        engine = create_engine(
            url, poolclass=QueuePool, connect_args={"timeout": _BUSY_S, "check_same_thread": False}, **pool
        )

        @event.listens_for(engine, "connect")
        def configure(connection: sqlite3.Connection, _: object) -> None:
            connection.isolation_level = None  # the driver shall not begin transactions of its own
            for pragma in self._pragmas(writes=writes):
                connection.execute(f"PRAGMA {pragma}").fetchall()

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

        return engine

    def _pragmas(self, *, writes: bool) -> list[str]:
        if not writes:
            return ["query_only = ON"]
        return [
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
            f"wal_autocheckpoint = {self.checkpoint_bytes // self.page_bytes}",
            f"journal_size_limit = {self.max_log_bytes}",
            "cache_size = -32768",  # KiB: the inner pages of every index of a million items
        ]

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        with translated(), self._reader.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        with translated(writing=True), self._writer.begin() as connection:
            yield connection

    def upkeep(self) -> bool:
        with translated(writing=True), self._driver() as connection:
            if self.log_bytes() > self.max_log_bytes:
                connection.execute(f"PRAGMA busy_timeout = {int(self.max_log_wait_s * 1000)}")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                connection.execute(f"PRAGMA busy_timeout = {int(_BUSY_S * 1000)}")
            (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
            (free_pages,) = connection.execute("PRAGMA freelist_count").fetchone()
            excess = free_pages - self.free_bytes // page_bytes
            if excess <= 0:
                return False
            step = self.release_bytes // page_bytes
            # As a script, because it takes one step per page and gives no rows: `execute` would stop after the first.
            connection.executescript(f"PRAGMA incremental_vacuum({min(excess, step)})")
            return bool(excess > step)

    def log_bytes(self) -> int:
        """Size of the write-ahead log."""
        try:
            return os.stat(f"{self._path}-wal").st_size
        except FileNotFoundError:
            return 0

    def problems(self) -> list[str]:
        with translated(), self._driver() as connection:
            found = [text for (text,) in connection.execute("PRAGMA integrity_check") if text != "ok"]
            return found + [f"dangling row in {row[0]}" for row in connection.execute("PRAGMA foreign_key_check")]

    @contextlib.contextmanager
    def _driver(self) -> Iterator[sqlite3.Connection]:
        """The writing connection without a transaction, as these pragmas want it."""
        with contextlib.closing(self._writer.raw_connection()) as pooled:
            yield cast(sqlite3.Connection, pooled.driver_connection)

    def close(self) -> None:
        self._reader.dispose()
        self._writer.dispose()


class PostgresDatabase:
    """A server, for a shop that has one. Space is given back by its autovacuum."""

    def __init__(self, url: URL) -> None:
        # `pool_pre_ping`: a server that was restarted meanwhile costs a new connection, not a failed call.
        self._reader = create_engine(url, pool_pre_ping=True, pool_size=_READERS, max_overflow=-1)
        self._writer = create_engine(
            url,
            pool_pre_ping=True,
            pool_size=1,
            max_overflow=0,
            connect_args={"options": "-c synchronous_commit=on"},  # acknowledged means durable, whatever the default is
        )
        with translated():
            self._writer.connect().close()

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        with translated(), self._reader.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        with translated(writing=True), self._writer.begin() as connection:
            yield connection

    def upkeep(self) -> bool:
        return False

    def problems(self) -> list[str]:
        return []

    def close(self) -> None:
        self._reader.dispose()
        self._writer.dispose()


@contextlib.contextmanager
def translated(*, writing: bool = False) -> Iterator[None]:
    """Raises the engine's error in place of the driver's, where it has one; others pass as they are."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        known = storage_error(error, writing=writing)
        if known is None:
            raise
        raise known from error


_SQLITE_REFUSED = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
}
_SQLITE_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
# The classes of SQLSTATE: 53 insufficient resources, 58 system error, 25006 read-only, XX001 and XX002 damaged,
# 08 connection, 57P shutting down.
_POSTGRES_REFUSED = ("53", "58", "25006")
_POSTGRES_DAMAGED = ("XX001", "XX002")
_POSTGRES_GONE = ("08", "57P")


def _is_busy(error: DBAPIError | sqlite3.Error) -> bool:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return getattr(cause, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def storage_error(error: DBAPIError | sqlite3.Error, *, writing: bool) -> EverlookError | None:
    """What a driver's error means for the caller.

    StorageFull: the database refuses, and nothing was changed. NotServing: it is gone, perhaps in the middle of a
    commit, so that nobody knows whether that happened. CatalogueDamaged: what is stored cannot be read. None: unknown.
    """
    cause = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
    state = getattr(cause, "sqlstate", None) or ""
    lost = isinstance(error, OperationalError) and not code and not state
    if lost or state.startswith(_POSTGRES_GONE) or (isinstance(error, DBAPIError) and error.connection_invalidated):
        return NotServing("the database cannot be reached", retry_after_s=_RETRY_S)
    if code in _SQLITE_DAMAGED or state in _POSTGRES_DAMAGED or (code == sqlite3.SQLITE_IOERR and not writing):
        return CatalogueDamaged(
            f"the catalogue cannot be read: {cause}. Restore it from a backup, or salvage it with the database's tools",
            field="catalogue",
            got=str(cause),
            expected="a catalogue",
        )
    if code in _SQLITE_REFUSED or code == sqlite3.SQLITE_IOERR or state.startswith(_POSTGRES_REFUSED):
        return StorageFull(f"the database refuses: {cause}", got=str(cause), retry_after_s=_RETRY_S)
    return None
