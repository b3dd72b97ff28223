"""The indexer's program: what it takes up, gives up, tries again and refuses; and how it is started and stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from indexer import __main__ as program
from indexer.__main__ import Program, main
from indexer.candidate import refuse
from indexer.catalogue import Catalogue, Delete
from indexer.datadir import DataDir, Lock
from indexer.errors import CatalogueDamaged, ModelDamaged, StorageFull
from indexer.generation import State, candidate_generation, load_info, numbers, set_live, state_of
from indexer.model import ONNX, Manifest
from indexer.programs import Reporter, read_activity
from indexer.worker import Answer, Effort
from tests.conftest import ROOT
from tests.indexer.galleries import damage_photo, live, model, new_data, put_photos
from tests.indexer.in_process import InProcess

WAIT_S = 60.0


class Watched(InProcess):
    """A worker that calls `meanwhile` before each answer."""

    meanwhile: Callable[[], None] = staticmethod(lambda: None)

    def receive(self, timeout_s: float) -> Answer | None:
        self.meanwhile()
        return super().receive(timeout_s)


@dataclass
class Shop:
    """A data directory with a live model, and the program over it."""

    data: DataDir
    catalogue: Catalogue
    first: Manifest
    program: Program
    naps: list[float] = field(default_factory=list)

    def said(self) -> str:
        activity = read_activity(self.data, "indexer")
        return activity.words if activity else ""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    data = new_data(tmp_path)
    live(data, first := model(data, 0))
    monkeypatch.setattr(program, "_LOOK_S", 0.0)
    monkeypatch.setattr(Watched, "meanwhile", staticmethod(lambda: None))
    with Catalogue.open(data.catalogue_url) as catalogue:
        put_photos(catalogue, range(12))
        made = Program(
            data, catalogue, data.catalogue_url, Effort(1, batch=4), 1.0, True, Reporter(data, "indexer"), Watched
        )
        shop = Shop(data, catalogue, first, made)
        monkeypatch.setattr(made, "_nap", lambda seconds: shop.naps.extend([seconds] if seconds else []))
        yield shop


def once(action: Callable[[], object]) -> Callable[[], None]:
    """Does it at the first call only."""
    left = [action]

    def act() -> None:
        if left:
            left.pop()()

    return act


# ---------------------------------------------------------------------------------------------------- candidates


def test_once_ends_when_nothing_is_left_to_do(shop: Shop) -> None:
    model(shop.data, 1, shop.first)
    shop.program.run()
    info = candidate_generation(shop.data)
    assert info is not None
    assert (info.number, info.seq) == (2, 12)
    assert shop.said() == "waits for a model to embed the gallery by"


def test_it_gives_signs_of_life_while_it_works_with_nothing_new_to_say(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[str] = []

    def works() -> None:
        until = time.monotonic() + WAIT_S
        while time.monotonic() < until and not alive:
            said = read_activity(shop.data, "indexer")
            if said is not None and said.alive_at > said.at:
                alive.append(said.phase)

    monkeypatch.setattr("indexer.programs._RENEW_S", 0.002)
    monkeypatch.setattr(Watched, "meanwhile", staticmethod(once(works)))
    model(shop.data, 1, shop.first)
    assert program._run(shop.program) == 0
    assert alive == ["backfill"]
    assert shop.said() == "stopped"
    assert not [thread for thread in threading.enumerate() if thread.name == "alive"]


def test_a_newer_candidate_takes_the_place_of_the_one_that_is_backfilled(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = model(shop.data, 1, shop.first)
    monkeypatch.setattr(Watched, "meanwhile", staticmethod(once(lambda: model(shop.data, 2, shop.first))))
    shop.program.run()
    info = candidate_generation(shop.data)
    assert info is not None
    assert info.model == model(shop.data, 2, shop.first).id
    assert numbers(shop.data) == [1, 2]
    assert older.id not in shop.catalogue.models_with_vectors()


def test_a_rollback_ends_the_backfill_of_what_was_taught_from_the_model_before(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = model(shop.data, 1, shop.first)
    live(shop.data, second)
    model(shop.data, 2, second)
    monkeypatch.setattr(Watched, "meanwhile", staticmethod(once(lambda: set_live(shop.data, 1))))
    shop.program.run()
    assert numbers(shop.data) == [1, 2]
    assert shop.catalogue.models_with_vectors() == []


# ---------------------------------------------------------------------------------------------------- failures


def fail_with(shop: Shop, monkeypatch: pytest.MonkeyPatch, *errors: Exception) -> None:
    """Workers that fail at their start, one after the other, and then work."""
    shop.program.once = False
    waiting = list(errors)

    def start(*arguments: object) -> Watched:
        if waiting:
            raise waiting.pop(0)
        return Watched(*arguments)  # type: ignore[arg-type]

    shop.program.start_worker = start

    def stop_when_idle(seconds: float) -> None:
        shop.naps.append(seconds)
        if shop.said().startswith("waits for a model"):
            shop.program.stop = signal.SIGTERM

    monkeypatch.setattr(shop.program, "_nap", stop_when_idle)


def test_a_backfill_that_fails_is_tried_again_later_and_later(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    model(shop.data, 1, shop.first)
    fail_with(shop, monkeypatch, *[StorageFull("the disk is full")] * 8)
    shop.program.run()
    assert [nap for nap in shop.naps if nap][:8] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert candidate_generation(shop.data) is not None


def test_photos_that_cannot_be_read_are_said_and_tried_again_until_an_operator_has_acted(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    model(shop.data, 1, shop.first)
    fail_with(shop, monkeypatch)
    damage_photo(shop.data, 5)
    words: list[str] = []

    def act(seconds: float) -> None:
        words.append(shop.said())
        if len(words) == 3:
            shop.catalogue.apply([Delete("item-5")])
        if shop.said().startswith("waits for a model"):
            shop.program.stop = signal.SIGTERM

    monkeypatch.setattr(shop.program, "_nap", lambda seconds: act(seconds) if seconds else None)
    shop.program.run()
    assert all("item 'item-5', photo " in each for each in words[:3])
    assert words[1].startswith("the backfill failed, and is tried again in 2 s: photos that model")
    info = candidate_generation(shop.data)
    assert info is not None
    assert info.seq == 13


def test_with_once_a_failure_ends_the_program(shop: Shop) -> None:
    model(shop.data, 1, shop.first)
    damage_photo(shop.data, 5)
    with pytest.raises(CatalogueDamaged, match="item-5"):
        shop.program.run()


def test_a_model_that_is_damaged_three_times_in_a_row_is_refused_with_the_reason(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = model(shop.data, 1, shop.first)
    (shop.data.model(bad.id) / ONNX).write_bytes(b"altered")
    fail_with(shop, monkeypatch)
    shop.program.run()
    info = load_info(shop.data, 2)
    assert (info.model, state_of(shop.data, info)) == (bad.id, State.REJECTED)
    assert "model.onnx was altered" in info.gates[0].reason
    assert [nap for nap in shop.naps if nap][:2] == [1, 2]


def test_a_model_that_looks_damaged_for_a_while_is_not_refused(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    model(shop.data, 1, shop.first)
    damaged, other = ModelDamaged("it does not load"), StorageFull("the disk is full")
    fail_with(shop, monkeypatch, damaged, damaged, other, damaged, damaged)
    shop.program.run()
    assert candidate_generation(shop.data) is not None


def test_a_refusal_that_cannot_be_recorded_is_tried_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    model(shop.data, 1, shop.first)
    fail_with(shop, monkeypatch, *[ModelDamaged("it does not load")] * 4)
    full = [OSError(28, "No space left on device")]

    def refuse_later(data: DataDir, of: Manifest, reason: str) -> object:
        if full:
            raise full.pop()
        return refuse(data, of, reason)

    monkeypatch.setattr(program, "refuse", refuse_later)
    shop.program.run()
    assert state_of(shop.data, load_info(shop.data, 2)) is State.REJECTED


def test_housekeeping_that_fails_stops_no_backfill(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    model(shop.data, 1, shop.first)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(program, "tidy", fail)
    shop.program.run()
    assert candidate_generation(shop.data) is not None


# ---------------------------------------------------------------------------------------------------- the command


def test_a_second_indexer_of_a_directory_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = new_data(tmp_path)
    with Lock(data, "indexer.lock"):
        assert main(["--data", str(data.root), "--once"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m indexer: ")
    assert f"is in use by process {os.getpid()} (indexer.lock)" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--share", "0"], "share is out of range"),
        (["--threads", "0"], "threads is too small"),
        (["--database-url", "mysql://x/y"], "cannot use this database URL"),
    ],
)
def test_arguments_that_cannot_be_used_end_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["--data", str(tmp_path), "--once", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


@pytest.mark.parametrize("arguments", [[], ["--data", "x", "--poll-s", "0"], ["--data", "x", "--threads", "two"]])
def test_a_command_line_that_is_none_ends_with_2_and_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="sessions have no niceness here")
@pytest.mark.parametrize(("flags", "niceness"), [([], 19), (["--no-give-way"], 0)], ids=["gives way", "does not"])
def test_its_session_gives_way_with_it(tmp_path: Path, flags: list[str], niceness: int) -> None:
    """The process that embeds is of that session, and cannot lead it."""
    data = new_data(tmp_path)
    live(data, model(data, 0))
    command = [sys.executable, "-m", "indexer", "--data", str(data.root), *flags]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True) as process:
        until = time.monotonic() + WAIT_S
        while read_activity(data, "indexer") is None and time.monotonic() < until:
            time.sleep(0.02)
        found = Path(f"/proc/{process.pid}/autogroup").read_text()
        process.kill()
    assert found.endswith(f" nice {niceness}\n")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_a_backfill_soon_and_what_was_stored_stays(tmp_path: Path, number: int, status: int) -> None:
    data = new_data(tmp_path)
    live(data, first := model(data, 0))
    candidate = model(data, 1, first)
    with Catalogue.open(data.catalogue_url) as catalogue:
        put_photos(catalogue, range(200))
        command = [sys.executable, "-m", "indexer", "--data", str(data.root), "--no-give-way"]
        # A hundredth of its time: the first batch takes milliseconds, all of them a long time.
        command += ["--batch", "2", "--threads", "1", "--share", "0.001"]
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
            until = time.monotonic() + WAIT_S
            while catalogue.vector_count(candidate.id) == 0 and time.monotonic() < until:
                time.sleep(0.02)
            began = time.monotonic()
            process.send_signal(number)
            assert process.wait(WAIT_S) == status
            assert time.monotonic() - began < 10
            assert process.stderr is not None
            assert "Traceback" not in process.stderr.read()
        assert 0 < catalogue.vector_count(candidate.id) < 200
        activity = read_activity(data, "indexer")
        assert activity is not None
        assert activity.words == "stopped"
        with Lock(data, "indexer.lock"):
            pass
