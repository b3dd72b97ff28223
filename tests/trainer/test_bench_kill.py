"""The bench as a program: after any signal to any of its processes, the same command ends in the same results."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.trainer import benches, slow_steps
from trainer import protocol
from trainer.bench import report
from trainer.bench.config import Bench
from trainer.bench.plan import Stage, tasks
from trainer.bench.run import results
from trainer.stage import Schedule

METHODS = ("finetune", "mutual")

Everything = dict[str, dict[str, str]]


@pytest.fixture(scope="module", autouse=True)
def backbone() -> Iterator[None]:
    with benches.tiny_backbone():
        yield


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Control-C is heard, also where these tests run in the background of a shell, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return benches.photos(tmp_path_factory.mktemp("pool") / "photos", categories=4)


@pytest.fixture(scope="module")
def bench(photos: Path) -> Bench:
    first, later = (Schedule(steps, learning_rate=1e-5, p=2, k=2) for steps in (200, 150))
    return benches.bench(photos, (2, 2), first=first, later=later, methods=METHODS, evaluate_every=50)


@pytest.fixture(scope="module")
def whole(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Everything:
    """Never broken off, in one process."""
    read = bench.reading(protocol.check_photos(bench.protocol))
    return benches.everything(bench, benches.do_all(read, tmp_path_factory.mktemp("whole")))


def start(photos: Path, out: Path, *, step_s: float = 0.0) -> subprocess.Popen[str]:
    numbers = "--sizes 2,2 --train 0.7 --validation 0.25 --image-size 32 --p 2 --k 2 --seeds 0 --learning-rate 1e-5"
    steps = "--first-steps 200 --steps 150 --evaluate-every 50"
    jobs = ("--jobs", str(os.cpu_count()))  # one thread each
    program = (sys.executable, "-m", "tests.trainer.tiny_bench", "bench", str(photos), "--out", str(out))
    return subprocess.Popen(
        [*program, *numbers.split(), *steps.split(), *jobs, "--backbones", "tiny", "--methods", *METHODS],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", slow_steps.STEP_S: str(step_s)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(photos: Path, out: Path) -> None:
    """Goes on to the end."""
    process = start(photos, out)
    printed, errors = process.communicate(timeout=250)
    assert (process.returncode, printed) == (0, f"results: {out / report.PAGE}\n"), errors


def await_steps(process: subprocess.Popen[str], stage: Stage, out: Path, steps: int) -> None:
    """Until a stage has done so many steps."""
    path, end = stage.folder(out) / "steps.jsonl", time.monotonic() + 200
    while not path.exists() or path.read_text().count("\n") < steps:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)


def workers(process: subprocess.Popen[str]) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.slow
def test_ctrl_c_and_the_same_command_again_end_in_the_same_results(
    photos: Path, bench: Bench, whole: Everything, tmp_path: Path
) -> None:
    process = start(photos, tmp_path, step_s=0.02)
    await_steps(process, tasks(bench)[0][0], tmp_path, 50)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it, to the workers too
    printed, errors = process.communicate(timeout=100)
    assert (process.returncode, printed) == (130, "")
    assert errors.splitlines()[-1] == f"interrupted; the same command goes on with what is in {tmp_path}"
    assert "Traceback" not in errors
    assert not tasks(bench)[0][0].done(tmp_path)
    finish(photos, tmp_path)
    assert benches.everything(bench, tmp_path) == whole


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="children are found in /proc")
def test_when_the_parent_is_killed_the_workers_end_and_the_same_command_goes_on(
    photos: Path, bench: Bench, whole: Everything, tmp_path: Path
) -> None:
    process = start(photos, tmp_path, step_s=0.02)
    await_steps(process, tasks(bench)[0][0], tmp_path, 50)
    pids = workers(process)
    assert pids
    process.kill()
    finish(photos, tmp_path)  # at once: the worker that is left may still be at its last step
    process.communicate()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert benches.everything(bench, tmp_path) == whole


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="children are found in /proc")
def test_when_a_worker_is_killed_the_others_go_on_and_so_does_the_same_command(
    photos: Path, bench: Bench, whole: Everything, tmp_path: Path
) -> None:
    process = start(photos, tmp_path, step_s=0.02)
    mutual = benches.task(bench, "mutual")[0]
    await_steps(process, mutual, tmp_path, 50)
    held = next(pid for pid in workers(process) if holds(pid, mutual.folder(tmp_path)))
    os.kill(held, signal.SIGKILL)
    printed, errors = process.communicate(timeout=200)
    assert (process.returncode, printed) == (1, "")
    assert "1 of 3 runs failed; " in errors.splitlines()[-1]
    assert "mutual stage 1, seed 0: its process was killed" in errors.splitlines()[-1]
    assert {result["method"] for result in results(bench, tmp_path)} == {"initial", "finetune"}
    finish(photos, tmp_path)
    assert benches.everything(bench, tmp_path) == whole


def holds(pid: int, folder: Path) -> bool:
    """Whether a process has a folder open."""
    return any(path.exists() and path.resolve() == folder for path in Path(f"/proc/{pid}/fd").iterdir())
