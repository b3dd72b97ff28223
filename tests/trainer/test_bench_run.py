"""Runs of the bench: broken off anywhere and in any way they end as if they had not been, to the bit."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from indexer.errors import EverlookError, InvalidField, ModelDamaged
from indexer.files import STAGING
from tests.trainer import benches
from trainer.bench import run
from trainer.bench.config import Bench
from trainer.bench.plan import RESULT, Task, tasks
from trainer.bench.record import MILESTONES, STEPS, Record
from trainer.bench.run import CHECKPOINT, MODEL, News, Runner
from trainer.memory import MEMORY
from trainer.stage import Progress

METHOD = "mutual"
# Of a task with two later stages, each with its begin, four steps and its end.
NEWS = 12


class Broken(Exception):
    """What breaks a run off."""


@pytest.fixture(scope="module", autouse=True)
def backbone() -> Iterator[None]:
    with benches.tiny_backbone():
        yield


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return benches.bench(benches.photos(tmp_path_factory.mktemp("bench") / "photos"))


@pytest.fixture(scope="module")
def whole(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a bench that was never broken off. Read only."""
    return benches.do_all(bench, tmp_path_factory.mktemp("whole"))


@pytest.fixture
def task(bench: Bench) -> Task:
    return benches.task(bench, METHOD)


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    """Results with the first stage alone."""
    shutil.copytree(whole / "runs/tiny/seed-0/first", tmp_path / "runs/tiny/seed-0/first")
    return tmp_path


def break_at(number: int) -> Callable[[News], None]:
    """Raises when it hears the news of that number, counted from 1."""
    heard = 0

    def tell(news: News) -> None:
        nonlocal heard
        heard += 1
        if heard == number:
            raise Broken

    return tell


def break_off(bench: Bench, out: Path, task: Task, at: int) -> None:
    with pytest.raises(Broken):
        Runner(bench, out, break_at(at)).do(task)


def same(task: Task, out: Path, whole: Path) -> bool:
    return all(benches.files(out, stage) == benches.files(whole, stage) for stage in task)


@pytest.mark.parametrize("at", range(1, NEWS + 1))
def test_a_run_that_is_interrupted_and_resumed_is_the_same_to_the_bit(
    at: int, bench: Bench, task: Task, out: Path, whole: Path
) -> None:
    break_off(bench, out, task, at)
    Runner(bench, out).do(task)
    assert same(task, out, whole)


def test_a_run_that_is_interrupted_at_every_step_is_the_same_to_the_bit(
    bench: Bench, task: Task, out: Path, whole: Path
) -> None:
    for _ in range(2 * bench.later.steps):
        break_off(bench, out, task, at=2)
    Runner(bench, out).do(task)
    assert same(task, out, whole)


def test_the_first_stage_is_resumed_too(bench: Bench, tmp_path: Path, whole: Path) -> None:
    first = tasks(bench)[0]
    break_off(bench, tmp_path, first, at=3)
    Runner(bench, tmp_path).do(first)
    assert same(first, tmp_path, whole)


@pytest.mark.parametrize("checkpoint", [None, 1, 2], ids=["none", "of step 1", "of step 2"])
def test_a_run_that_is_killed_goes_on_from_an_older_checkpoint_to_the_same_end(
    checkpoint: int | None, bench: Bench, task: Task, out: Path, whole: Path
) -> None:
    folder = task[0].folder(out)
    kept = b""
    if checkpoint:
        break_off(bench, out, task, at=1 + checkpoint)
        kept = (folder / CHECKPOINT).read_bytes()
        break_off(bench, out, task, at=1 + 4 - checkpoint)
    else:
        break_off(bench, out, task, at=5)
    assert len((folder / STEPS).read_text().splitlines()) == 4
    (folder / CHECKPOINT).unlink()
    if kept:
        (folder / CHECKPOINT).write_bytes(kept)
    (folder / f"{STAGING}{CHECKPOINT}-x").write_bytes(b"half of a checkp")
    with (folder / STEPS).open("a") as file:
        file.write('{"step": 5, "seco')
    Runner(bench, out).do(task)
    assert same(task, out, whole)


@pytest.mark.parametrize("method", ["mutual", "initial"])
@pytest.mark.parametrize(
    "write", ["write_bytes", "memories.save", "write_json", "tidy"], ids=["model", "memory", "result", "end"]
)
def test_a_crash_between_any_two_files_of_a_stage_changes_nothing(
    write: str, method: str, bench: Bench, out: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = benches.task(bench, method)

    def crash(*arguments: Any) -> None:
        raise Broken

    with monkeypatch.context() as patch:
        patch.setattr(f"trainer.bench.run.{write}", crash)
        with pytest.raises(Broken):
            Runner(bench, out).do(task)
    Runner(bench, out).do(task)
    assert same(task, out, whole)


def test_a_full_disk_ends_a_run_which_goes_on_when_there_is_room(
    bench: Bench, task: Task, out: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for function in ("stage.write_bytes", "bench.run.write_bytes", "memory.write_bytes", "bench.run.write_json"):
        with monkeypatch.context() as patch:
            patch.setattr(f"trainer.{function}", full)
            with pytest.raises(OSError, match="No space left"):
                Runner(bench, out).do(task)
        assert not task[0].done(out)
    Runner(bench, out).do(task)
    assert same(task, out, whole)


@pytest.mark.parametrize("step", [2, 4])
def test_a_milestone_that_could_not_be_kept_is_measured_after_all(
    step: int, bench: Bench, task: Task, out: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = Record.milestone

    def full(record: Record, at: int, recalls: dict[str, Any]) -> None:
        if at == step:
            raise OSError(errno.ENOSPC, "No space left on device")
        keep(record, at, recalls)

    with monkeypatch.context() as patch:
        patch.setattr(Record, "milestone", full)
        with pytest.raises(OSError, match="No space left"):
            Runner(bench, out).do(task)
    Runner(bench, out).do(task)
    assert same(task, out, whole)


def test_a_stage_that_is_done_is_not_done_again(bench: Bench, task: Task, out: Path) -> None:
    heard: list[News] = []
    Runner(bench, out).do(task)
    Runner(bench, out, heard.append).do(task)
    assert heard == []


def test_a_run_says_how_far_it_is(bench: Bench, task: Task, out: Path, whole: Path) -> None:
    heard: list[News] = []
    Runner(bench, out, heard.append).do(task)
    assert [(news.stage.number, news.step) for news in heard] == [
        (stage, step) for stage in (1, 2) for step in (0, 1, 2, 3, 4, 4)
    ]
    begin, *steps, end = heard[:6]
    assert begin.loss is None
    assert all(news.loss is not None and news.loss > 0 and news.step_s > 0 for news in steps)
    assert [news.recalls is None for news in heard] == 2 * [True, True, True, True, True, False]
    assert end.recalls == json.loads((task[0].folder(whole) / RESULT).read_text())["milestones"][-1]


# Once for the process: an audit hook cannot be removed.
_opened: list[str] | None = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _opened is not None and str(arguments[0]).endswith(".jpg"):
        _opened.append(str(arguments[0]))


sys.addaudithook(_audit)


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """The photos that are opened during a test."""
    global _opened
    _opened = []
    yield _opened
    _opened = None


@pytest.mark.parametrize(("method", "stages"), [("finetune", [1]), ("mutual", [1]), ("joint", [0, 1])])
def test_a_stage_learns_from_its_own_training_photos_and_no_others(
    method: str, stages: list[int], bench: Bench, out: Path, opened: list[str]
) -> None:
    def begin_to_look(news: News) -> None:
        if news.step == 0:  # validation and test photos have been decoded, for recall
            opened.clear()
        if news.recalls is not None:
            raise Broken

    with pytest.raises(Broken):
        Runner(bench, out, begin_to_look).do(benches.task(bench, method))
    own, allowed = ({str(path) for path, _ in bench.protocol.photos(of, "train")} for of in ([1], stages))
    assert own <= set(opened) <= allowed
    assert (set(opened) == own) == (method != "joint")


def test_the_result_holds_what_the_training_showed(bench: Bench, task: Task, whole: Path) -> None:
    result = json.loads((task[1].folder(whole) / RESULT).read_text())
    assert (result["method"], result["seed"], result["backbone"], result["stage"]) == (METHOD, 0, "tiny", 2)
    assert (result["steps"], result["threads"]) == (4, 1)
    assert [point["step"] for point in result["milestones"]] == [2, 4]
    for point in result["milestones"]:
        assert [point["test"][name]["queries"] for name in ("old", "new", "all")] == [16, 8, 24]
        assert [point["validation"][name]["queries"] for name in ("old", "new", "all")] == [8, 4, 12]
    assert [entry["step"] for entry in result["losses"]] == [4]
    assert set(result["losses"][0]) == {"step", "triplet", "triplet_supporter", "correlation", "mutual"}
    assert 0 < result["seconds_per_step"] <= result["seconds"]
    assert result["peak_memory_mib"] > 0
    assert result["memory_bytes"] == (task[1].folder(whole) / MEMORY).stat().st_size


def test_results_are_those_of_all_stages_that_are_done(bench: Bench, whole: Path, out: Path) -> None:
    found = {(result["method"], result["stage"]) for result in run.results(bench, whole)}
    assert found == {("initial", 0)} | {(method, stage) for method in benches.METHODS for stage in (1, 2)}
    assert [(result["method"], result["stage"]) for result in run.results(bench, out)] == [("initial", 0)]


def test_a_method_that_does_not_learn_keeps_the_first_model(bench: Bench, whole: Path) -> None:
    first, *later = (stage.folder(whole) / MODEL for stage in (*tasks(bench)[0], *benches.task(bench, "initial")))
    assert {path.read_bytes() for path in later} == {first.read_bytes()}


class TestRecord:
    """Steps and milestones, and what comes of them."""

    def add(self, record: Record, steps: range, *, seconds: float, scale: float = 1.0) -> None:
        for step in steps:
            record.add(Progress(step, 25, {"a": step * scale, "b": 0.5}, seconds), peak_memory_mib=10.0 + step)

    def test_losses_are_means_of_ten_steps_and_of_the_rest(self, tmp_path: Path) -> None:
        record = Record(tmp_path)
        self.add(record, range(1, 26), seconds=1.0)
        assert record.summary()["losses"] == [
            {"step": 10, "a": 5.5, "b": 0.5},
            {"step": 20, "a": 15.5, "b": 0.5},
            {"step": 25, "a": 23.0, "b": 0.5},
        ]

    def test_a_step_that_is_done_again_counts_once(self, tmp_path: Path) -> None:
        self.add(Record(tmp_path), range(1, 18), seconds=1.0, scale=7.0)
        record = Record(tmp_path)
        self.add(record, range(5, 17), seconds=3.0)
        summary = record.summary()
        assert summary["seconds"] == 4 * 1.0 + 12 * 3.0 + 1.0
        assert summary["losses"][1] == {"step": 17, "a": (sum(range(11, 17)) + 7 * 17) / 7, "b": 0.5}
        assert summary["peak_memory_mib"] == 27.0
        assert Record(tmp_path).summary() == summary

    def test_the_time_of_a_step_is_the_median_without_the_first(self, tmp_path: Path) -> None:
        record = Record(tmp_path)
        assert record.seconds_per_step == 0.0
        for step, seconds in enumerate([60.0, 1.0, 9.0, 2.0], start=1):
            record.add(Progress(step, 4, {"a": 1.0}, seconds), 1.0)
            assert record.seconds_per_step == [60.0, 1.0, 5.0, 2.0][step - 1]

    def test_a_part_of_a_line_is_dropped(self, tmp_path: Path) -> None:
        self.add(Record(tmp_path), range(1, 3), seconds=1.0)
        with (tmp_path / STEPS).open("ab") as file:
            file.write(b'{"step": 3, "losses": {"a\xff')
        record = Record(tmp_path)
        self.add(record, range(3, 5), seconds=1.0)
        assert record.summary()["seconds"] == 4.0
        assert Record(tmp_path).summary() == record.summary()

    def test_milestones_are_replaced_from_the_step_that_is_done_again(self, tmp_path: Path) -> None:
        record = Record(tmp_path)
        for step in (2, 4, 6):
            record.milestone(step, {"test": step})
        again = Record(tmp_path)
        assert [again.has_milestone(step) for step in (2, 3, 4, 6)] == [True, False, True, True]
        self.add(again, range(4, 5), seconds=1.0)
        assert [again.has_milestone(step) for step in (2, 4, 6)] == [True, False, False]
        again.milestone(4, {"test": "again"})
        assert again.summary()["milestones"] == [{"step": 2, "test": 2}, {"step": 4, "test": "again"}]
        assert json.loads((tmp_path / MILESTONES).read_text())["milestones"] == again.summary()["milestones"]


# What is done to the first stage's folder; the other one holds another model and its memory.
Change = Callable[[Path, Path], object]


def damage(change: Callable[[Path], object]) -> Change:
    return lambda first, other: change(first)


def other_file(name: str) -> Change:
    return lambda first, other: shutil.copy(other / name, first / name)


def other_network(first: Path, other: Path) -> None:
    state = load_file(first / MODEL)
    save_file({**state, "head.weight": torch.zeros(64, 512)}, first / MODEL)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (damage(lambda first: (first / MODEL).unlink()), ModelDamaged, "model.safetensors is missing"),
        (damage(lambda first: (first / MODEL).write_bytes(b"")), ModelDamaged, "or no model"),
        (damage(lambda first: (first / MEMORY).unlink()), ModelDamaged, "memory.safetensors is missing"),
        (damage(lambda first: (first / MEMORY).write_bytes(b"x" * 99)), ModelDamaged, "or no memory"),
        (other_network, InvalidField, "is the model of another network than tiny"),
        (other_file(MODEL), InvalidField, "is the memory of another network"),
        (other_file(MEMORY), InvalidField, "is the memory of another network"),
    ],
    ids=["no model", "empty model", "no memory", "no memory's bytes", "other shapes", "other model", "other memory"],
)
def test_files_of_another_network_are_found_before_anything_is_learned(
    change: Change, error: type[EverlookError], says: str, bench: Bench, out: Path, whole: Path
) -> None:
    states = bench.check()
    run.check(bench, out, states)
    change(out / "runs/tiny/seed-0/first", whole / "runs/tiny/seed-0/finetune/stage-1")
    with pytest.raises(error, match=says):
        run.check(bench, out, states)


def test_files_that_no_run_goes_on_from_are_not_looked_at(bench: Bench, whole: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "copy"))
    (out / "runs/tiny/seed-0/finetune/stage-1" / MODEL).unlink()
    run.check(bench, out, bench.check())
