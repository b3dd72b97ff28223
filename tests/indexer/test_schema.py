"""A catalogue that an earlier version wrote is brought up to this one: whole or not at all, by one of many at once."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Connection, inspect, text

from indexer.catalogue import Catalogue, Cause, CohortCounts, Measurement, SwapRecord, schema
from indexer.errors import CatalogueDamaged
from tests.indexer.catalogues import DATABASES, fresh_url, photo, put

# What version 1 made, as SQLite keeps it.
VERSION_1 = """
CREATE TABLE meta (id INTEGER NOT NULL CHECK (id = 1), schema_version INTEGER NOT NULL, last_seq BIGINT NOT NULL,
    item_count BIGINT NOT NULL, category_count BIGINT NOT NULL, photo_count BIGINT NOT NULL,
    photo_bytes BIGINT NOT NULL, PRIMARY KEY (id));
CREATE TABLE categories (id INTEGER NOT NULL, name TEXT NOT NULL, item_count BIGINT NOT NULL, PRIMARY KEY (id),
    UNIQUE (name));
CREATE TABLE photos (id INTEGER NOT NULL, sha256 VARCHAR(64) NOT NULL, bytes BIGINT NOT NULL, width INTEGER NOT NULL,
    height INTEGER NOT NULL, format TEXT NOT NULL, PRIMARY KEY (id), UNIQUE (sha256));
CREATE TABLE photo_data (photo_id INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (photo_id),
    FOREIGN KEY(photo_id) REFERENCES photos (id) ON DELETE CASCADE);
CREATE TABLE items (seq INTEGER NOT NULL, id TEXT NOT NULL, category_id INTEGER NOT NULL, photo_id INTEGER NOT NULL,
    metadata TEXT NOT NULL, updated_at DOUBLE NOT NULL, PRIMARY KEY (seq), UNIQUE (id),
    FOREIGN KEY(category_id) REFERENCES categories (id), FOREIGN KEY(photo_id) REFERENCES photos (id));
CREATE TABLE models (id INTEGER NOT NULL, name TEXT NOT NULL, PRIMARY KEY (id), UNIQUE (name));
CREATE TABLE vectors (model_id INTEGER NOT NULL, photo_id INTEGER NOT NULL, vector BLOB NOT NULL,
    PRIMARY KEY (model_id, photo_id), FOREIGN KEY(model_id) REFERENCES models (id),
    FOREIGN KEY(photo_id) REFERENCES photos (id) ON DELETE CASCADE);
INSERT INTO meta VALUES (1, 1, 7, 1, 1, 1, 1);
INSERT INTO categories VALUES (7, 'apples', 1);
INSERT INTO photos VALUES (7, '{sha256}', 1, 320, 240, 'JPEG');
INSERT INTO photo_data VALUES (7, CAST('a' AS BLOB));
INSERT INTO items VALUES (7, 'a', 7, 7, '{{}}', 1.0);
"""


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database of version 1, with one item."""
    url = fresh_url(request.param, tmp_path)
    with Catalogue.open(url) as catalogue:
        catalogue.apply([put("a")])
        with catalogue._database.write() as connection:
            for table in (schema.recall, schema.swaps):
                table.drop(connection)
            connection.execute(text("UPDATE meta SET schema_version = 1"))
    return url


def version(catalogue: Catalogue) -> int:
    with catalogue._database.read() as connection:
        return int(connection.execute(text("SELECT schema_version FROM meta")).scalar_one())


def use(catalogue: Catalogue) -> None:
    """Everything is there and can be added to."""
    assert version(catalogue) == schema.VERSION
    assert catalogue.image("a") == photo("a")
    before = len(catalogue.history.swaps())
    catalogue.history.append_swap(SwapRecord(1.0, 1, "m", "", None, False))
    assert len(catalogue.history.swaps()) == before + 1
    catalogue.history.append(Measurement(2.0 + before, 1, "m", Cause.START, (CohortCounts(None, 1, 1, 1, 1),)))
    assert len(catalogue.history.measurements()) == before + 1
    catalogue.verify()


def test_a_catalogue_of_version_1_is_brought_up_to_date_when_it_is_opened(url: str) -> None:
    with Catalogue.open(url) as catalogue:
        use(catalogue)
    with Catalogue.open(url) as catalogue:
        use(catalogue)


def test_so_is_a_file_that_version_1_wrote(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "catalogue.db") as connection:
        connection.executescript(VERSION_1.format(sha256=photo("a").sha256))
    connection.close()
    with Catalogue.open(fresh_url("sqlite", tmp_path)) as catalogue:
        use(catalogue)
        assert catalogue.last_seq == 7


def test_many_programs_may_open_it_at_once(url: str) -> None:
    begin = threading.Barrier(6)

    def open_it() -> int:
        begin.wait()
        with Catalogue.open(url) as catalogue:
            return version(catalogue)

    with ThreadPoolExecutor(6) as pool:
        opened = [pool.submit(open_it) for _ in range(6)]
        assert [each.result(30) for each in opened] == [schema.VERSION] * 6
    with Catalogue.open(url) as catalogue:
        use(catalogue)


@pytest.mark.parametrize("database", DATABASES)
def test_many_programs_may_make_it_at_once(database: str, tmp_path: Path) -> None:
    make_at_once(fresh_url(database, tmp_path))


def test_many_programs_may_make_a_file_at_once_however_they_meet(tmp_path: Path) -> None:
    for number in range(20):
        make_at_once(f"sqlite:///{tmp_path}/{number}.db")


def make_at_once(url: str, programs: int = 12) -> None:
    begin = threading.Barrier(programs)

    def open_it() -> int:
        begin.wait()
        with Catalogue.open(url) as catalogue:
            return catalogue.last_seq

    with ThreadPoolExecutor(programs) as pool:
        opened = [pool.submit(open_it) for _ in range(programs)]
        assert [each.result(30) for each in opened] == [0] * programs


def test_one_that_is_cut_off_leaves_version_1_as_it_was(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    create_all = schema._tables.create_all

    def killed(connection: Connection) -> None:
        create_all(connection)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(schema._tables, "create_all", killed)
        with pytest.raises(KeyboardInterrupt):
            Catalogue.open(url)
    with Catalogue.open(url) as catalogue:
        use(catalogue)


def test_a_catalogue_of_this_version_without_its_tables_is_damaged(url: str) -> None:
    with Catalogue.open(url) as catalogue, catalogue._database.write() as connection:
        schema.swaps.drop(connection)
        assert schema.swaps.name not in inspect(connection).get_table_names()
    with pytest.raises(CatalogueDamaged, match="not swaps"):
        Catalogue.open(url)
