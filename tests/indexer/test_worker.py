"""The process that does a backfill's heavy work: it gives way, it answers, and it ends with its owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from indexer.catalogue import Catalogue
from indexer.datadir import DataDir
from indexer.errors import ModelDamaged, NotServing
from indexer.generation import load_info
from indexer.model import ONNX, Manifest
from indexer.worker import Answer, Effort, Embed, Embedded, Index, Indexed, Indexing, Worker
from tests.conftest import ROOT
from tests.indexer.galleries import damage_photo, live, model, new_data, photo_sha256, put_photos

WAIT_S = 60.0
EFFORT = Effort(threads=2, give_way=False)


@pytest.fixture
def data(tmp_path: Path) -> Iterator[DataDir]:
    data = new_data(tmp_path)
    with Catalogue.open(data.catalogue_url) as catalogue:
        put_photos(catalogue, range(6))
        yield data


@pytest.fixture
def candidate(data: DataDir) -> Manifest:
    live(data, first := model(data, 0))
    return model(data, 1, first)


def answer(worker: Worker) -> Answer:
    """What a worker says next."""
    found = worker.receive(WAIT_S)
    assert found is not None
    return found


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def child() -> psutil.Process:
    """The worker's process: the one that is no helper of Python's own."""
    (found,) = (each for each in psutil.Process().children() if "spawn_main" in " ".join(each.cmdline()))
    return found


def test_a_worker_embeds_says_what_it_could_not_read_and_makes_the_generation(
    data: DataDir, candidate: Manifest
) -> None:
    damage_photo(data, 2)
    shas = [photo_sha256(seed) for seed in range(6)]
    with Worker(data, data.catalogue_url, candidate, EFFORT) as worker:
        worker.send(Embed((*shas[:4], "0" * 64)))
        worker.send(Embed(tuple(shas[4:])))
        answers = [answer(worker), answer(worker)]
        assert all(isinstance(each, Embedded) for each in answers)
        first, second = sorted(
            (each for each in answers if isinstance(each, Embedded)), key=lambda each: -len(each.vectors)
        )
        assert set(first.vectors) == {shas[0], shas[1], shas[3]}
        assert set(first.unreadable) == {shas[2]}
        assert (set(second.vectors), second.unreadable) == (set(shas[4:]), {})
        assert worker.receive(0.0) is None

        worker.send(Index(0))
        steps = []
        while isinstance(said := answer(worker), Indexing):
            steps.append(said.step)
        assert steps == ["read", "check", "publish"]
        assert isinstance(said, Indexed)
        assert load_info(data, said.info.number) == said.info


def test_a_worker_stands_behind_everybody_else_and_its_owner_does_not(data: DataDir, candidate: Manifest) -> None:
    if not hasattr(os, "SCHED_IDLE"):
        pytest.skip("this system has no idle class")
    with Worker(data, data.catalogue_url, candidate, Effort(threads=1)) as worker:
        worker.send(Embed((photo_sha256(0),)))
        answer(worker)
        assert os.sched_getscheduler(child().pid) == os.SCHED_IDLE
        assert {os.sched_getscheduler(thread.id) for thread in child().threads()} == {os.SCHED_IDLE}
        assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_a_model_that_was_altered_is_told_to_the_owner(data: DataDir, candidate: Manifest) -> None:
    (data.model(candidate.id) / ONNX).write_bytes(b"altered")
    with (
        Worker(data, data.catalogue_url, candidate, EFFORT) as worker,
        pytest.raises(ModelDamaged, match=r"model\.onnx was altered"),
    ):
        worker.receive(WAIT_S)


def test_a_worker_that_dies_is_missed(data: DataDir, candidate: Manifest) -> None:
    with Worker(data, data.catalogue_url, candidate, EFFORT) as worker:
        child().send_signal(signal.SIGKILL)
        with pytest.raises(NotServing, match="ended by signal 9"):
            worker.receive(WAIT_S)
        with pytest.raises(NotServing, match="ended by signal 9"):
            worker.send(Embed(()))


_OWNER = """
import sys, time
from pathlib import Path
from indexer.datadir import DataDir
from indexer.generation import candidate_model
from indexer.worker import Effort, Embed, Worker
data = DataDir(Path(sys.argv[1]))
with Worker(data, data.catalogue_url, candidate_model(data), Effort(1, 0.001, give_way=False)) as worker:
    worker.send(Embed((sys.argv[2],)))
    worker.receive(60)
    print(worker._process.pid, flush=True)
    worker.send(Embed((sys.argv[2],)))  # rests for long before it
    time.sleep(60)
"""


def test_a_worker_ends_with_its_owner_however_that_ends(data: DataDir, candidate: Manifest) -> None:
    command = [sys.executable, "-c", _OWNER, str(data.root), photo_sha256(0)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        worker = psutil.Process(int(owner.stdout.readline()))
        owner.kill()
    wait_for(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)
