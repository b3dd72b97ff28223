"""What went live is in the history: after promotions, rollbacks, kills, and with a database that refuses."""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.catalogue import Cause, CohortCounts, History, Measurement, Photo, Put
from indexer.datadir import DataDir
from indexer.engine import Engine, Options
from indexer.errors import StorageFull
from indexer.generation import GenerationInfo, live_number, previous_generation
from tests.e2e.folders import publish_candidate
from tests.indexer.tiny_model import write_tiny_model


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    """A data directory with a first model."""
    data = DataDir(tmp_path / "data")
    write_tiny_model(data.models)
    return data


@pytest.fixture
def engine(data: DataDir) -> Iterator[Engine]:
    with Engine(data) as engine:
        yield engine


def candidate(engine: Engine, seed: int, *cohorts: tuple[str, ...]) -> GenerationInfo:
    return publish_candidate(engine.data, engine.catalogue, seed, *cohorts)


def told(engine: Engine) -> list[tuple[int, str, str, int | None, bool]]:
    """What the history says went live."""
    return [(each.generation, each.model, each.base, each.cohort, each.again) for each in engine.history.swaps()]


def test_promotions_and_rollbacks_are_in_the_history_after_the_first_model(engine: Engine) -> None:
    zero = engine.live.current.generation.info
    one = candidate(engine, 1, ("a", "b"))
    engine.promote(one.number)
    two = candidate(engine, 2, ("a", "b"), ("c", "d"))
    engine.promote(two.number)
    back = previous_generation(engine.data)
    assert back is not None
    engine.promote(back.number)
    assert told(engine) == [
        (zero.number, zero.model, "", None, False),
        (one.number, one.model, zero.model, 0, False),
        (two.number, two.model, one.model, 1, False),
        (one.number, one.model, zero.model, 0, True),
    ]
    times = [each.at for each in engine.history.swaps()]
    assert times == sorted(times)


def test_a_restart_adds_nothing(data: DataDir, engine: Engine) -> None:
    engine.promote(candidate(engine, 1, ("a", "b")).number)
    before = told(engine)
    engine.__exit__(None, None, None)
    with Engine(data) as again:
        assert told(again) == before


def test_a_merge_is_no_swap(data: DataDir) -> None:
    with Engine(data, Options(merge_min_entries=1)) as engine:
        before, number = told(engine), engine.live.current.generation.number
        shown = Photo(b"a", hashlib.sha256(b"a").hexdigest(), 1, 1, "PNG")
        model = engine.live.current.generation.model
        vector = np.eye(1, model.dimension, dtype=np.float32)[0]
        engine.submit(Put("a", "b", {}, shown, {model.id: vector})).result(20)
        deadline = time.monotonic() + 20
        while engine.live.current.generation.number == number:
            assert time.monotonic() < deadline, "it was not merged"
            time.sleep(0.01)
        assert told(engine) == before
    with Engine(data) as engine:
        assert told(engine) == before


def refused(*_: Any) -> None:
    raise StorageFull("the disk is full")


def test_a_history_that_cannot_be_written_fails_no_swap_and_the_next_start_makes_up_for_it(
    data: DataDir, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a kill between live.json and the row."""
    one = candidate(engine, 1, ("a", "b"))
    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        patched.setattr(History, "append_swap", refused)
        engine.promote(one.number)
    assert "the disk is full" in caplog.text
    assert live_number(data) == one.number
    assert len(told(engine)) == 1
    engine.__exit__(None, None, None)
    with Engine(data) as again:
        assert told(again)[1:] == [(one.number, one.model, told(again)[0][1], 0, False)]
        assert again.history.awaits_measurement(one.model)


def promote_unnoted(engine: Engine, info: GenerationInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    """A generation goes live while the history cannot be written."""
    with monkeypatch.context() as patched:
        patched.setattr(History, "append_swap", refused)
        engine.promote(info.number)
        engine.note_live()
    assert info.model not in [each.model for each in engine.history.swaps()]


def test_a_row_that_was_lost_is_made_up_for_when_the_history_can_be_written_and_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = told(engine)
    engine.note_live()
    assert told(engine) == before
    one = candidate(engine, 1, ("a", "b"))
    promote_unnoted(engine, one, monkeypatch)
    for _ in range(2):
        engine.note_live()
        assert told(engine) == [*before, (one.number, one.model, before[0][1], 0, False)]
    assert engine.history.awaits_measurement(one.model)


def measure(engine: Engine, *cohorts: int) -> None:
    """The first measurement after a swap."""
    info, swap = engine.live.current.generation.info, engine.history.last_swap()
    assert swap is not None
    counts = tuple(CohortCounts(cohort, 10, 5, 6, 7) for cohort in cohorts)
    engine.record(Measurement(swap.at, info.number, info.model, Cause.SWAP, counts))


def test_a_row_that_was_lost_is_put_in_before_the_next_swap_and_older_cohorts_keep_their_references(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    zero = engine.live.current.generation.info
    one = candidate(engine, 1, ("a", "b"))
    engine.promote(one.number)
    measure(engine, 0)
    two = candidate(engine, 2, ("a", "b"), ("c", "d"))
    promote_unnoted(engine, two, monkeypatch)
    three = candidate(engine, 3, ("a", "b"), ("c", "d"), ("e", "f"))
    engine.promote(three.number)
    assert told(engine) == [
        (zero.number, zero.model, "", None, False),
        (one.number, one.model, zero.model, 0, False),
        (two.number, two.model, one.model, 1, False),
        (three.number, three.model, two.model, 2, False),
    ]
    measure(engine, 0, 1, 2)
    assert engine.history.references(three.model).keys() == {0, 2}  # the second stage was not measured when it began


def test_an_engine_that_is_closed_notes_nothing_and_does_not_fail(data: DataDir) -> None:
    with Engine(data) as engine:
        pass
    engine.note_live()


def test_a_history_that_cannot_be_read_keeps_no_server_from_starting(
    data: DataDir, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(History, "last_swap", refused)
    with caplog.at_level(logging.WARNING), Engine(data) as engine:
        assert engine.live.current.generation.number == 1
    assert "the disk is full" in caplog.text


def test_a_restored_catalogue_gives_no_number_again_that_its_history_names(data: DataDir, engine: Engine) -> None:
    engine.promote(candidate(engine, 1, ("a", "b")).number)
    last = candidate(engine, 2, ("a", "b"), ("c", "d"))
    engine.promote(last.number)
    engine.record(Measurement(time.time(), last.number + 3, last.model, Cause.TIMER, (CohortCounts(0, 1, 1, 1, 1),)))
    before = told(engine)
    engine.__exit__(None, None, None)
    forget_generations(data)
    with Engine(data) as restored:
        live = restored.live.current.generation.info
        assert (live.number, live.model) == (last.number + 4, last.model)
        assert told(restored) == before
        assert candidate(restored, 3, ("a", "b")).number == live.number + 1


def test_a_history_whose_numbers_cannot_be_read_stops_no_start(
    data: DataDir, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine.__exit__(None, None, None)
    forget_generations(data)
    monkeypatch.setattr(History, "last_generation", refused)
    with caplog.at_level(logging.WARNING), Engine(data) as restored:
        assert restored.live.current.generation.number == 1
    assert "the disk is full" in caplog.text


def forget_generations(data: DataDir) -> None:
    """As where a backup without them is restored."""
    data.live.unlink()
    for folder in (data.generations, data.verdicts):
        shutil.rmtree(folder)


def test_the_history_of_a_model_that_an_earlier_version_made_live_begins_with_the_next_swap(
    data: DataDir, engine: Engine
) -> None:
    one = candidate(engine, 1, ("a", "b"))
    engine.promote(one.number)
    zero = previous_generation(data)
    assert zero is not None
    with engine.catalogue._database.write() as connection:
        connection.exec_driver_sql("DELETE FROM swaps")
    engine.__exit__(None, None, None)
    with Engine(data) as engine:
        assert told(engine) == []
        engine.promote(zero.number)
        assert told(engine) == [(zero.number, zero.model, "", None, True)]
        assert engine.history.references(zero.model) == {}
