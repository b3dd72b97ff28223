"""Since when categories wait: neither a change of metadata nor a restart begins that anew."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from indexer.datadir import DataDir
from indexer.stages import Waiting
from trainer.sightings import Sightings


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    data = DataDir(tmp_path)
    data.create()
    return data


def kiwis(*photos: str, since: float, latest: float, probes: int = 1) -> Waiting:
    return Waiting("kiwis", photos, probes, since, latest)


PEARS = Waiting("pears", ("5", "6"), 0, 3.0, 4.0)
NOW = 1000.0


def test_at_first_the_catalogues_times_are_all_that_is_known(data: DataDir) -> None:
    waiting = [kiwis("1", "2", since=1.0, latest=2.0), PEARS]
    assert Sightings(data).dated(waiting, NOW) == waiting


@pytest.mark.parametrize("restarted", [False, True])
def test_a_change_that_leaves_the_photos_begins_nothing_anew(restarted: bool, data: DataDir) -> None:
    sightings = Sightings(data)
    sightings.dated([kiwis("1", "2", since=1.0, latest=2.0)], NOW)
    if restarted:
        sightings = Sightings(data)
    changed = kiwis("2", "1", since=500.0, latest=600.0)
    assert sightings.dated([changed, PEARS], NOW) == [kiwis("2", "1", since=1.0, latest=2.0), PEARS]


@pytest.mark.parametrize("changed", [(("1", "2", "3"), 1), (("1",), 1), (("1", "2"), 2)], ids=["more", "less", "probe"])
def test_other_photos_have_it_settle_anew_alone(changed: tuple[tuple[str, ...], int], data: DataDir) -> None:
    sightings = Sightings(data)
    sightings.dated([kiwis("1", "2", since=1.0, latest=2.0)], NOW)
    photos, probes = changed
    (found,) = sightings.dated([kiwis(*photos, since=500.0, latest=600.0, probes=probes)], NOW)
    assert (found.since, found.latest) == (1.0, 600.0)
    (later,) = sightings.dated([kiwis(*photos, since=700.0, latest=800.0, probes=probes)], NOW)
    assert (later.since, later.latest) == (1.0, 600.0)


def test_what_waits_no_longer_is_forgotten(data: DataDir) -> None:
    sightings = Sightings(data)
    sightings.dated([kiwis("1", since=1.0, latest=2.0), PEARS], NOW)
    sightings.dated([PEARS], NOW)
    assert list(json.loads((data.programs / "waiting.json").read_text())) == ["pears"]
    assert sightings.dated([kiwis("1", since=500.0, latest=600.0)], NOW)[0].since == 500.0


@pytest.mark.parametrize("restarted", [False, True])
def test_what_is_ripe_stays_so_from_when_it_was_first_seen(restarted: bool, data: DataDir) -> None:
    sightings = Sightings(data)
    sightings.dated([kiwis("1", "2", since=1.0, latest=2.0), PEARS], NOW)
    assert sightings.ripe_since(["pears"], 100.0) == 100.0
    if restarted:
        sightings = Sightings(data)
        sightings.dated([kiwis("1", "2", since=1.0, latest=2.0), PEARS], NOW)
    assert sightings.ripe_since(["kiwis", "pears"], 200.0) == 100.0
    assert sightings.ripe_since(["kiwis"], 300.0) == 200.0  # each has its own time, and the longest counts


@pytest.mark.parametrize("restarted", [False, True])
def test_what_is_ripe_no_more_begins_anew(restarted: bool, data: DataDir) -> None:
    sightings = Sightings(data)
    sightings.dated([PEARS], NOW)
    sightings.ripe_since(["pears"], 100.0)
    assert sightings.ripe_since([], 200.0) == 0.0
    if restarted:
        sightings = Sightings(data)
        sightings.dated([PEARS], NOW)
    assert sightings.ripe_since(["pears"], 300.0) == 300.0
    sightings.dated([], NOW)  # it was learned, or is gone
    sightings.dated([PEARS], NOW)
    assert sightings.ripe_since(["pears"], 400.0) == 400.0


def test_more_photos_leave_what_is_ripe_as_it_is(data: DataDir) -> None:
    sightings = Sightings(data)
    sightings.dated([kiwis("1", "2", since=1.0, latest=2.0)], NOW)
    sightings.ripe_since(["kiwis"], 100.0)
    sightings.dated([kiwis("1", "2", "3", since=1.0, latest=150.0)], NOW)
    assert sightings.ripe_since(["kiwis"], 200.0) == 100.0


@pytest.mark.parametrize("restarted", [False, True])
def test_what_a_clock_that_was_ahead_saw_counts_from_when_it_is_right_again(restarted: bool, data: DataDir) -> None:
    year = 365 * 86_400.0
    waiting = [kiwis("1", "2", since=1.0, latest=year + 50.0), replace(PEARS, since=year, latest=year)]
    sightings = Sightings(data)
    assert sightings.dated(waiting, year + 100.0) == waiting
    assert sightings.ripe_since(["kiwis", "pears"], year + 100.0) == year + 100.0
    if restarted:
        sightings = Sightings(data)
    for now in (200.0, 300.0):
        found = [(each.since, each.latest) for each in sightings.dated(waiting, now)]
        assert found == [(1.0, 200.0), (200.0, 200.0)]
        assert sightings.ripe_since(["kiwis", "pears"], now) == 200.0


def test_what_is_ripe_is_written_once(data: DataDir) -> None:
    sightings = Sightings(data)
    sightings.dated([PEARS], NOW)
    sightings.ripe_since(["pears"], 100.0)
    (data.programs / "waiting.json").unlink()
    assert sightings.ripe_since(["pears"], 200.0) == 100.0
    assert not (data.programs / "waiting.json").exists()


def test_what_an_older_version_saw_is_known(data: DataDir) -> None:
    sightings = Sightings(data)
    sightings.dated([PEARS], NOW)
    path = data.programs / "waiting.json"
    path.write_text(json.dumps({name: each[:3] for name, each in json.loads(path.read_text()).items()}))
    again = Sightings(data)
    assert again.dated([replace(PEARS, since=500.0, latest=600.0)], NOW) == [PEARS]
    assert again.ripe_since(["pears"], 700.0) == 700.0


class Killed(BaseException):
    """Ends the process where it stands."""


class TestCrashTable:
    def test_while_it_is_written(self, data: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
        sightings = Sightings(data)
        sightings.dated([kiwis("1", since=1.0, latest=2.0)], NOW)

        def kill(*_: object) -> NoReturn:
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", kill)
            with pytest.raises(Killed):
                sightings.dated([kiwis("1", "2", since=500.0, latest=600.0)], NOW)
        assert {path.name for path in data.programs.iterdir()} == {"waiting.json", ".waiting.json"}
        assert Sightings(data).dated([kiwis("1", since=500.0, latest=600.0)], NOW) == [
            kiwis("1", since=1.0, latest=2.0)
        ]
        Sightings(data).dated([PEARS], NOW)
        assert {path.name for path in data.programs.iterdir()} == {"waiting.json"}

    @pytest.mark.parametrize(
        "content",
        [None, "", "{", "[]", "3", '{"kiwis": 3}', '{"kiwis": ["x", 2, "1"]}', '{"kiwis": [1, 2, "1", 3, 4]}'],
    )
    def test_after_a_loss_of_power(self, content: str | None, data: DataDir) -> None:
        path = data.programs / "waiting.json"
        path.unlink(missing_ok=True) if content is None else path.write_text(content)
        waiting = [kiwis("1", "2", since=1.0, latest=2.0)]
        assert Sightings(data).dated(waiting, NOW) == waiting


def test_a_full_disk_stops_nothing(data: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    sightings = Sightings(data)
    sightings.dated([kiwis("1", since=1.0, latest=2.0)], NOW)
    assert sightings.dated([kiwis("1", since=500.0, latest=600.0)], NOW)[0].since == 1.0
