"""What is read from files is read again when they have changed, and only then."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from server.remembered import Remembered


class Reading:
    """Counts how often it is read."""

    def __init__(self, *paths: Path, clock_s: float = 0.0) -> None:
        self.times = 0
        self.error: Exception | None = None
        self.remembered = Remembered(self.read, paths, lambda: clock_s or time.time() + 60)

    def read(self) -> int:
        self.times += 1
        if self.error is not None:
            raise self.error
        return self.times


def test_what_has_not_changed_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a")
    reading = Reading(tmp_path, tmp_path / "file", tmp_path / "missing")
    assert [reading.remembered() for _ in range(3)] == [1, 1, 1]


@pytest.mark.parametrize("change", ["entry", "replaced", "comes", "goes"])
def test_any_change_of_its_files_is_seen(change: str, tmp_path: Path) -> None:
    folder, file, later = tmp_path / "folder", tmp_path / "file", tmp_path / "later"
    folder.mkdir()
    file.write_text("a")
    reading = Reading(folder, file, later)
    reading.remembered()
    if change == "entry":
        (folder / "n").mkdir()
        os.utime(folder, (1, 1))
    elif change == "replaced":
        before = file.stat()
        (tmp_path / "aside").write_text("b")
        os.utime(tmp_path / "aside", ns=(before.st_atime_ns, before.st_mtime_ns))  # of the same time and size
        (tmp_path / "aside").rename(file)
    elif change == "comes":
        later.write_text("c")
    else:
        file.unlink()
    assert [reading.remembered() for _ in range(2)] == [2, 2]


def test_what_has_changed_a_moment_ago_is_read_until_its_time_can_tell_two_changes_apart(tmp_path: Path) -> None:
    os.utime(tmp_path, (1000, 1000))
    assert [Reading(tmp_path, clock_s=now).remembered() for now in (1001.0, 1003.0)] == [1, 1]
    fresh, settled = Reading(tmp_path, clock_s=1001.0), Reading(tmp_path, clock_s=1003.0)
    assert [fresh.remembered() for _ in range(3)] == [1, 2, 3]
    assert [settled.remembered() for _ in range(3)] == [1, 1, 1]


def test_an_error_is_raised_and_not_remembered(tmp_path: Path) -> None:
    os.utime(tmp_path, (1000, 1000))
    reading = Reading(tmp_path)
    reading.error = ValueError("damaged")
    for _ in range(2):
        with pytest.raises(ValueError, match="damaged"):
            reading.remembered()
    reading.error = None
    assert [reading.remembered() for _ in range(2)] == [3, 3]
