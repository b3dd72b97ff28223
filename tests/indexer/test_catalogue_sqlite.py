"""SQLite's part of the promises: durability, crashes, full disks, damaged files, and space."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from indexer.catalogue import Applied, Catalogue, Delete, Outcome, database
from indexer.catalogue.database import SqliteDatabase
from indexer.errors import CatalogueDamaged, StorageFull
from tests.indexer.catalogues import fresh_url, photo, put

PHOTO_BYTES = 20_000


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    with Catalogue.open(fresh_url("sqlite", tmp_path)) as opened:
        yield opened


def sqlite_of(catalogue: Catalogue) -> SqliteDatabase:
    assert isinstance(catalogue._database, SqliteDatabase)
    return catalogue._database


def pragma(catalogue: Catalogue, text: str) -> object:
    """Runs a pragma on the writing connection."""
    with sqlite_of(catalogue)._driver() as connection:
        return connection.execute(f"PRAGMA {text}").fetchone()[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1), ("auto_vacuum", 2), ("page_size", 8192)],
)
def test_the_file_is_durable_and_fit_for_photos(catalogue: Catalogue, name: str, value: object) -> None:
    assert pragma(catalogue, name) == value


def test_a_full_disk_changes_nothing_and_writing_goes_on_when_there_is_room(catalogue: Catalogue) -> None:
    catalogue.apply([put("a", size=PHOTO_BYTES)])
    pragma(catalogue, f"max_page_count = {int(str(pragma(catalogue, 'page_count'))) + 4}")
    with pytest.raises(StorageFull, match="full") as refused:
        catalogue.apply([put("b", size=100), put("c", size=10 * PHOTO_BYTES), Delete("a")])
    assert refused.value.retry_after_s is not None
    assert catalogue.get_many(["a", "b", "c"]).keys() == {"a"}
    pragma(catalogue, "max_page_count = 1000000")
    (answer,) = catalogue.apply([put("c", size=10 * PHOTO_BYTES)])
    assert isinstance(answer, Applied)
    assert answer.seq == 2
    catalogue.verify()


_WRITES_UNTIL_REFUSED = """
import resource, sys
from indexer.catalogue import Catalogue
from indexer.errors import StorageFull
from tests.indexer.catalogues import put

with Catalogue.open(sys.argv[1]) as catalogue:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
    try:
        for n in range(1000):
            catalogue.apply([put(str(n), size=20_000)])
    except StorageFull:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        (answer,) = catalogue.apply([put("after", size=20_000)])
        catalogue.verify()
        print(n, answer.seq, catalogue.totals().items)
"""


def test_a_write_that_the_file_system_refuses_changes_nothing(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", _WRITES_UNTIL_REFUSED, fresh_url("sqlite", tmp_path)]
    printed = subprocess.run(arguments, check=True, capture_output=True, text=True, timeout=60).stdout
    written, seq, items = map(int, printed.split())
    assert 0 < written < 1000
    assert (seq, items) == (written + 1, written + 1)


_ACKNOWLEDGES = """
import sys, threading
from indexer.catalogue import Capacity, Catalogue, Committer
from tests.indexer.catalogues import put

catalogue = Catalogue.open(sys.argv[1])
with Committer(catalogue, Capacity(max_transaction_changes=8), lambda applied: None) as committer:
    def stream(lane):
        for n in range(1_000_000):
            id = f"{sys.argv[2]}-{lane}-{n}"
            applied = committer.submit(put(id, f"category {n % 7}", size=20_000)).result()
            sys.stdout.write(f"{id} {applied.seq}\\n")
            sys.stdout.flush()
    for lane in range(4):
        threading.Thread(target=stream, args=(lane,)).start()
    threading.Event().wait()
"""


def test_every_acknowledged_item_survives_kill_9_at_a_random_instant(tmp_path: Path) -> None:
    url = fresh_url("sqlite", tmp_path)
    chance = random.Random(8)
    acknowledged: dict[str, int] = {}
    for kill in range(10):
        acknowledged |= _killed_while_it_acknowledges(url, str(kill), chance.randint(6, 40), chance.uniform(0, 0.02))
        with Catalogue.open(url) as catalogue:
            catalogue.verify()
            entries = {entry.id: entry.seq for entry in catalogue.entries()}
            assert len(entries) == catalogue.totals().items == catalogue.last_seq
            assert acknowledged.items() <= entries.items()
            for id in chance.sample(sorted(acknowledged), 3):
                assert catalogue.image(id) == photo(id, PHOTO_BYTES)
    assert len(acknowledged) > 50


def _killed_while_it_acknowledges(url: str, name: str, after: int, after_s: float) -> dict[str, int]:
    """Runs a writer in a process of its own, kills it `after_s` seconds after its `after`-th word, and returns what it
    said."""
    child = subprocess.Popen([sys.executable, "-c", _ACKNOWLEDGES, url, name], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child, child.stdout:
        lines = [child.stdout.readline() for _ in range(after)]
        time.sleep(after_s)
        child.kill()
        lines += child.stdout.readlines()
    assert child.returncode == -signal.SIGKILL
    return {id: int(seq) for id, seq in (line.split() for line in lines if line.endswith("\n"))}


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "catalogue.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(CatalogueDamaged, match="Restore it from a backup"):
        Catalogue.open(fresh_url("sqlite", tmp_path))


def test_a_database_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "catalogue.db") as connection:
        connection.execute("CREATE TABLE orders (id INTEGER)")
    connection.close()
    with pytest.raises(CatalogueDamaged, match="a database of its own") as refused:
        Catalogue.open(fresh_url("sqlite", tmp_path))
    assert refused.value.got == "orders"


def test_a_program_that_only_reads_opens_it_while_another_one_writes(catalogue: Catalogue, tmp_path: Path) -> None:
    catalogue.apply([put("a")])
    with sqlite_of(catalogue).write(), Catalogue.open(fresh_url("sqlite", tmp_path)) as other:
        assert other.image("a") == photo("a")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    with Catalogue.open(fresh_url("sqlite", tmp_path)) as catalogue:
        catalogue.apply([put(str(n), size=PHOTO_BYTES) for n in range(20)])
    path = tmp_path / "catalogue.db"
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(CatalogueDamaged, match="cannot be read"):
        Catalogue.open(fresh_url("sqlite", tmp_path))


def test_a_catalogue_in_a_folder_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageFull, match="unable to open"):
        Catalogue.open(fresh_url("sqlite", tmp_path / "missing"))


def test_space_is_given_back_after_deletes(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SqliteDatabase, "free_bytes", 1 << 20)
    monkeypatch.setattr(SqliteDatabase, "release_bytes", 1 << 20)
    path = sqlite_of(catalogue)._path
    for start in range(0, 500, 100):
        catalogue.apply([put(str(n), size=PHOTO_BYTES) for n in range(start, start + 100)])
    catalogue.apply([Delete(str(n)) for n in range(490)])
    steps = 1
    while catalogue.upkeep():
        steps += 1
    assert 5 < steps < 20
    pragma(catalogue, "wal_checkpoint(TRUNCATE)")
    assert path.stat().st_size < 3 << 20
    assert not catalogue.upkeep()
    catalogue.verify()


def test_space_of_deleted_photos_is_used_again(catalogue: Catalogue) -> None:
    for turn in range(6):
        catalogue.apply([put("a", shows=f"{turn}", size=50 * PHOTO_BYTES)])
    assert int(str(pragma(catalogue, "page_count"))) * 8192 < 3 * 50 * PHOTO_BYTES


def test_readers_do_not_let_the_log_grow_without_bound(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SqliteDatabase, "max_log_bytes", 2 << 20)
    catalogue.apply([put(str(n), size=PHOTO_BYTES) for n in range(50)])
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            for _ in catalogue.entries():
                pass

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    largest = 0
    for start in range(50, 1050, 50):
        catalogue.apply([put(str(n), size=PHOTO_BYTES) for n in range(start, start + 50)])
        catalogue.upkeep()
        largest = max(largest, sqlite_of(catalogue).log_bytes())
    done.set()
    for reader in readers:
        reader.join()
    assert largest < 8 << 20  # 20 MB were written


def test_a_reader_that_stays_delays_the_writer_only_briefly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_BUSY_S", 20.0)  # how long other statements wait
    monkeypatch.setattr(SqliteDatabase, "max_log_bytes", 1 << 20)
    with Catalogue.open(fresh_url("sqlite", tmp_path)) as catalogue:
        with sqlite_of(catalogue).read() as connection:
            connection.exec_driver_sql("SELECT * FROM meta").all()
            catalogue.apply([put(str(n), size=PHOTO_BYTES) for n in range(100)])
            began = time.monotonic()
            assert not catalogue.upkeep()
            assert time.monotonic() - began < 10.0
            (answer,) = catalogue.apply([put("0", size=PHOTO_BYTES)])
            assert isinstance(answer, Applied)
            assert answer.outcome is Outcome.UNCHANGED
        catalogue.upkeep()
        assert sqlite_of(catalogue).log_bytes() == 0
