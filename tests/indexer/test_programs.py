"""What the programs say of themselves: up to date, whole, and no burden."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from indexer import programs
from indexer.datadir import DataDir
from indexer.programs import Activity, Reporter, read_activity
from tests.indexer.galleries import new_data


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return new_data(tmp_path)


class Clock:
    """Stands where it is put."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


WORKING = Activity("embedding", "backfill", stage=2, categories=20, done=1, total=9, remaining_s=4.5)


def test_what_a_program_says_is_read_with_its_process_and_time(data: DataDir) -> None:
    assert read_activity(data, "indexer") is None
    Reporter(data, "indexer", Clock()).say(WORKING)
    assert read_activity(data, "indexer") == replace(
        WORKING, pid=os.getpid(), at=1000.0, started_at=1000.0, alive_at=1000.0
    )
    assert read_activity(data, "trainer") is None


@pytest.mark.parametrize(
    ("after_s", "said", "written"),
    [
        (0.4, replace(WORKING, done=2), False),
        (0.5, replace(WORKING, done=2), True),
        (-3600.0, replace(WORKING, done=2), True),
        (0.0, replace(WORKING, words="indexing"), True),
        (0.0, replace(WORKING, phase="index"), True),
        (0.0, replace(WORKING, stage=3), True),
        (0.0, replace(WORKING, done=9), True),
    ],
    ids=["soon", "later", "the clock was set back", "words", "phase", "stage", "done"],
)
def test_news_are_written_at_once_and_progress_twice_a_second(
    data: DataDir, after_s: float, said: Activity, written: bool
) -> None:
    clock = Clock()
    reporter = Reporter(data, "indexer", clock)
    reporter.say(WORKING)
    clock.now += after_s
    reporter.say(said)
    found = read_activity(data, "indexer")
    assert found is not None
    assert replace(found, pid=0, at=0.0, started_at=0.0, alive_at=0.0) == (said if written else WORKING)


def test_each_process_says_when_it_started_and_goes_on_saying_so(data: DataDir) -> None:
    clock = Clock()
    reporter = Reporter(data, "trainer", clock)
    for words in ("waits", "teaches"):
        clock.now += 50.0
        reporter.say(Activity(words))
        found = read_activity(data, "trainer")
        assert found is not None
        assert (found.at, found.started_at) == (clock.now, 1000.0)
    Reporter(data, "trainer", clock).say(Activity("waits"))
    again = read_activity(data, "trainer")
    assert again is not None
    assert again.started_at == 1100.0


def test_what_a_kill_left_of_the_news_is_written_over(data: DataDir) -> None:
    (data.programs / ".indexer.json").write_text('{"words": "half a sent')
    Reporter(data, "indexer").say(WORKING)
    assert [path.name for path in data.programs.iterdir()] == ["indexer.json"]


def test_news_that_cannot_be_written_stop_nobody(data: DataDir) -> None:
    data.programs.rmdir()
    Reporter(data, "indexer").say(WORKING)
    assert read_activity(data, "indexer") is None


@pytest.mark.parametrize("text", ["", "[1]", '{"words": "later versions", "mood": "good"}'])
def test_news_that_cannot_be_read_are_none(data: DataDir, text: str) -> None:
    (data.programs / "indexer.json").write_text(text)
    assert read_activity(data, "indexer") is None


# ---------------------------------------------------------------------------------------------------- signs of life


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_RENEW_S", 0.002)


def readings(data: DataDir) -> Iterator[Activity]:
    """What is read of the indexer, again and again for ten seconds."""
    end = time.monotonic() + 10.0
    while time.monotonic() < end:
        if (found := read_activity(data, "indexer")) is not None:
            yield found
        time.sleep(0.001)
    raise TimeoutError


@pytest.mark.usefixtures("often")
def test_a_program_with_nothing_new_to_say_goes_on_giving_signs_of_life(data: DataDir) -> None:
    clock = Clock()
    with Reporter(data, "indexer", clock) as reporter:
        reporter.say(WORKING)
        clock.now += 600.0
        found = next(each for each in readings(data) if each.alive_at != 1000.0)
    assert found == replace(WORKING, pid=os.getpid(), at=1000.0, started_at=1000.0, alive_at=1600.0)


@pytest.mark.usefixtures("often")
def test_a_program_that_has_not_said_a_word_gives_no_sign(data: DataDir) -> None:
    with Reporter(data, "indexer"):
        time.sleep(0.05)
        assert read_activity(data, "indexer") is None


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("error", [None, KeyboardInterrupt], ids=["it ends", "it is interrupted"])
def test_a_program_that_has_ended_writes_over_no_successors_news(
    data: DataDir, error: type[BaseException] | None
) -> None:
    try:
        with Reporter(data, "indexer") as reporter:
            reporter.say(WORKING)
            if error is not None:
                raise error
    except KeyboardInterrupt:
        pass
    (data.programs / "indexer.json").unlink()
    time.sleep(0.05)
    assert read_activity(data, "indexer") is None
    assert "alive" not in {thread.name for thread in threading.enumerate()}


def test_no_sign_of_life_puts_older_news_back(data: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_RENEW_S", 0.0)
    with Reporter(data, "indexer") as reporter:
        for n in range(100):
            reporter.say(Activity(f"word {n}"))
            found = read_activity(data, "indexer")
            assert found is not None
            assert found.words == f"word {n}"


def test_the_end_of_a_program_waits_for_no_sign_of_life(data: DataDir) -> None:
    with Reporter(data, "indexer"):
        began = time.monotonic()
    assert time.monotonic() - began < programs._RENEW_S / 2


def test_news_of_an_older_version_are_read(data: DataDir) -> None:
    Reporter(data, "indexer", Clock()).say(WORKING)
    path = data.programs / "indexer.json"
    raw = json.loads(path.read_text())
    del raw["alive_at"]
    path.write_text(json.dumps(raw))
    found = read_activity(data, "indexer")
    assert found is not None
    assert (found.at, found.alive_at) == (1000.0, 0.0)
