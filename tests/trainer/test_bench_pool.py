"""All runs of a bench: what becomes of them when one of them, the disk, or a person breaks them off.

Threads stand in for its processes; `test_bench_kill.py` has those.
"""

from __future__ import annotations

import errno
import json
import multiprocessing
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from indexer.errors import EverlookError, ImageUnreadable, StorageFull
from tests.trainer import benches
from trainer.bench import pool, report, worker
from trainer.bench.config import Bench
from trainer.bench.plan import Stage, Task, tasks
from trainer.bench.progress import Bar
from trainer.bench.run import Runner, results

METHODS = ("finetune", "mutual")

Everything = dict[str, dict[str, str]]


@pytest.fixture(scope="module", autouse=True)
def backbone() -> Iterator[None]:
    with benches.tiny_backbone():
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return benches.photos(tmp_path_factory.mktemp("pool") / "photos", categories=4)


class Shown:
    """What a display was given. Ctrl-C comes when it shows its bars for the `interrupt_at`th time."""

    def __init__(self, interrupt_at: int = -1) -> None:
        self.lines: list[str] = []
        self.bars: list[list[Bar]] = []
        self._interrupt_at = interrupt_at

    def line(self, text: str) -> None:
        self.lines.append(text)

    def show(self, bars: Sequence[Bar]) -> None:
        self.bars.append(list(bars))
        if len(self.bars) == self._interrupt_at:
            raise KeyboardInterrupt


class Thread(threading.Thread):
    """In place of a process."""

    def __init__(self, function: Callable[[], None]) -> None:
        super().__init__(target=function)
        self.exitcode = 0

    def kill(self) -> None:
        """It ends by itself."""


@pytest.fixture(scope="module")
def bench(photos: Path) -> Bench:
    return benches.bench(photos, (2, 2), methods=METHODS, seeds=(0, 1), evaluate_every=0)


@pytest.fixture(scope="module")
def whole(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Everything:
    return benches.everything(bench, benches.do_all(bench, tmp_path_factory.mktemp("whole")))


@pytest.fixture
def began() -> list[Task]:
    """The tasks that were begun."""
    return []


@pytest.fixture
def dies() -> dict[Stage, int]:
    """The exit codes of those that die before they have done anything, by their first stage."""
    return {}


@pytest.fixture(autouse=True)
def threads(began: list[Task], dies: dict[Stage, int], monkeypatch: pytest.MonkeyPatch) -> None:
    one_at_a_time = threading.Lock()  # torch's seed is the whole process's

    def start(bench: Bench, out: Path, task: Task, threads: int) -> tuple[Thread, Connection]:
        here, there = multiprocessing.Pipe()

        def work() -> None:
            if task[0] in dies:
                thread.exitcode = dies[task[0]]
            else:
                with one_at_a_time:
                    worker.work(bench, out, task, threads, there)
            there.close()

        thread = Thread(work)
        began.append(task)
        thread.start()
        return thread, here

    monkeypatch.setattr(pool, "start", start)
    monkeypatch.setattr(worker, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(worker, "_TELL_EVERY_S", 0.0)


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the plots, which take seconds."""
    monkeypatch.setattr(report, "write", lambda found, out: [out / report.PAGE])


def run(bench: Bench, out: Path, *, jobs: int = 2, shown: Shown | None = None) -> Shown:
    shown = shown or Shown()
    pool.run_all(bench, out, jobs=jobs, threads=1, display=shown)
    return shown


@pytest.mark.usefixtures("page")
@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_all_runs_are_done_the_first_stages_before_those_that_need_them(
    jobs: int, bench: Bench, tmp_path: Path, whole: Everything, began: list[Task]
) -> None:
    shown = run(bench, tmp_path, jobs=jobs)
    assert benches.everything(bench, tmp_path) == whole
    assert (len(began), set(began)) == (6, set(tasks(bench)))
    for task in began:
        needed = [first for first in began if first[0].number == 0 and first[0].run.seed == task[0].run.seed]
        assert began.index(needed[0]) <= began.index(task)
    assert shown.lines[0] == f"6 of 6 stages are left to learn, in 22 steps; runs side by side: {jobs}"
    assert len([line for line in shown.lines if re.search(r": done; Recall@1 of validation photos: ", line)]) == 6
    assert shown.bars[-1][0][:3] == ("all steps", 22, 22)
    assert max(len(bars) for bars in shown.bars) <= 1 + jobs


def test_the_results_are_one_object_with_configuration_machine_and_runs(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = benches.bench(photos, (2, 2), methods=("finetune",))
    written: list[int] = []
    write = pool.write

    def count(*arguments: Any) -> Any:
        found = write(*arguments)
        written.append(len(found["runs"]))
        return found

    monkeypatch.setattr(pool, "write", count)
    run(bench, tmp_path)
    assert set(written) == {1, 2}  # after each stage
    text = (tmp_path / pool.RESULTS).read_text()
    assert "NaN" not in text
    found = json.loads(text)
    assert (found["format"], found["config"]) == (1, json.loads(json.dumps(bench.described())))
    assert found["runs"] == list(results(bench, tmp_path))
    assert {"processor", "cores", "memory_gib", "system", "python", "packages", "device"} <= found["machine"].keys()
    assert found["machine"]["device"] == "cpu"
    assert (tmp_path / report.PAGE).read_text().startswith("# one-task, 2 + 2 categories: tiny at 32 px")


@pytest.mark.usefixtures("page")
def test_more_methods_and_seeds_are_added_to_what_is_done(
    bench: Bench, photos: Path, tmp_path: Path, whole: Everything, began: list[Task]
) -> None:
    small = benches.bench(photos, (2, 2), methods=("mutual",), seeds=(1,), evaluate_every=0)
    run(small, tmp_path)
    assert len(began) == 2
    run(bench, tmp_path)
    assert (len(began), set(began)) == (6, set(tasks(bench)))
    assert benches.everything(bench, tmp_path) == whole


@pytest.mark.usefixtures("page")
def test_nothing_is_begun_where_all_is_done(bench: Bench, tmp_path: Path, began: list[Task]) -> None:
    benches.do_all(bench, tmp_path)
    shown = run(bench, tmp_path)
    assert (began, shown.lines) == ([], ["0 of 6 stages are left to learn, in 0 steps; runs side by side: 2"])
    assert len(json.loads((tmp_path / pool.RESULTS).read_text())["runs"]) == 6


@pytest.mark.usefixtures("page")
@pytest.mark.parametrize("interrupt_at", [1, 2, 4, 8])
def test_an_interrupted_bench_goes_on_to_the_same_results(
    interrupt_at: int, bench: Bench, tmp_path: Path, whole: Everything
) -> None:
    shown, before = Shown(interrupt_at), set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        run(bench, tmp_path, shown=shown)
    assert shown.lines[-1].startswith("stopping; the runs end at their next step")
    assert set(threading.enumerate()) <= before
    run(bench, tmp_path)
    assert benches.everything(bench, tmp_path) == whole


@pytest.mark.usefixtures("page")
@pytest.mark.parametrize(
    ("exitcode", "says"),
    [(-9, "its process was killed"), (-15, "ended by SIGTERM"), (3, "ended with exit code 3")],
)
def test_a_process_that_dies_fails_its_run_and_no_other(
    exitcode: int, says: str, bench: Bench, tmp_path: Path, whole: Everything, dies: dict[Stage, int]
) -> None:
    stage = benches.task(bench, "mutual")[0]
    dies[stage] = exitcode
    shown = Shown()
    with pytest.raises(EverlookError, match=f"1 of 6 runs failed; .*mutual stage 1, seed 0: .*{says}"):
        run(bench, tmp_path, shown=shown)
    assert any(re.match(f"mutual stage 1, seed 0: .*{says}", line) for line in shown.lines)
    assert len(json.loads((tmp_path / pool.RESULTS).read_text())["runs"]) == 5
    assert not stage.done(tmp_path)
    del dies[stage]
    run(bench, tmp_path)
    assert benches.everything(bench, tmp_path) == whole


@pytest.mark.usefixtures("page")
def test_runs_whose_first_stage_failed_cannot_begin(
    bench: Bench, tmp_path: Path, dies: dict[Stage, int], began: list[Task]
) -> None:
    dies[tasks(bench)[0][0]] = -9
    with pytest.raises(EverlookError, match=r"1 of 6 runs failed, and 2 that need them could not begin; .* seed 0: "):
        run(bench, tmp_path)
    assert len(began) == 4
    assert {result["seed"] for result in results(bench, tmp_path)} == {1}


@pytest.mark.usefixtures("page")
def test_an_error_of_a_run_is_told_with_its_name(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    do = Runner.do

    def fail(runner: Runner, stages: Sequence[Stage]) -> None:
        if stages[0].run.seed == 1:
            raise ImageUnreadable("c1.jpg is no image", field="photos")
        do(runner, stages)

    monkeypatch.setattr(Runner, "do", fail)
    with pytest.raises(EverlookError, match=r"first stage, seed 1: c1\.jpg is no image"):
        run(bench, tmp_path)


@pytest.mark.usefixtures("page")
@pytest.mark.parametrize("where", ["trainer.bench.run.write_bytes", "trainer.bench.pool.write_json"])
def test_a_full_disk_stops_all_and_what_is_done_is_kept(
    where: str, bench: Bench, tmp_path: Path, whole: Everything, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *content: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    before = set(threading.enumerate())
    run(benches.bench(bench.protocol.folder, (2, 2), methods=("finetune",), evaluate_every=0), tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(where, full)
        with pytest.raises(StorageFull, match=r"No space left .*; what is done is kept, and the same command goes on"):
            run(bench, tmp_path)
    assert set(threading.enumerate()) <= before
    run(bench, tmp_path)
    assert benches.everything(bench, tmp_path) == whole


@pytest.mark.usefixtures("page")
def test_what_crashes_have_left_is_removed(bench: Bench, tmp_path: Path) -> None:
    benches.do_all(bench, tmp_path)
    folder = benches.task(bench, "mutual")[0].folder(tmp_path)
    before = sorted(path.name for path in folder.iterdir())
    for path in (folder / "checkpoint.pt", folder / "steps.jsonl", folder / ".staging-x", tmp_path / ".staging-y"):
        path.write_bytes(b"left")
    run(bench, tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == before
    assert not (tmp_path / ".staging-y").exists()
