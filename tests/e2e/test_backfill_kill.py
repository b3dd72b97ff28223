"""Kill -9 against the indexer: however often, the generation is the one that is made without, and no work is repeated
but what was in hand."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest

from indexer.catalogue import Catalogue
from indexer.datadir import DataDir
from indexer.devices import detect
from indexer.generation import State, load_generation, load_info, numbers, state_of
from indexer.model import Manifest
from indexer.programs import read_activity
from tests.conftest import ROOT
from tests.e2e import counting
from tests.e2e.folders import check_whole
from tests.indexer.galleries import live, model, new_data, put_photos

PHOTOS, BATCH, THREADS = 240, 8, 2
IN_HAND = 2 * THREADS * BATCH
WAIT_S = 120.0


@dataclass
class Trial:
    """One data directory through many kills."""

    data: DataDir
    candidate: Manifest
    rng: random.Random
    folder: Path
    """Where its indexers count the photos that they embed."""
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.environment = counting.environment(self.folder)

    def start(self) -> subprocess.Popen[bytes]:
        options = ["--once", "--no-give-way", "--threads", str(THREADS), "--batch", str(BATCH)]
        command = [sys.executable, "-m", "indexer", "--data", str(self.data.root), *options]
        return subprocess.Popen(command, cwd=ROOT, env=self.environment, stderr=subprocess.DEVNULL)

    def start_and_kill(self, catalogue: Catalogue) -> None:
        """Kills the indexer, or only its worker, somewhere in its start, its embedding, or while it makes the index."""
        with self.start() as program:
            match self.rng.choice(["start", "embedding", "embedding", "index"]):
                case "start":
                    time.sleep(self.rng.uniform(0, 4))
                case "embedding":
                    stored = self.rng.randint(catalogue.vector_count(self.candidate.id), PHOTOS)
                    self._wait(program, lambda: catalogue.vector_count(self.candidate.id) >= stored)
                    time.sleep(self.rng.uniform(0, 0.05))
                case "index":
                    self._wait(program, self._indexes)
                    time.sleep(self.rng.uniform(0, 0.05))
            children = psutil.Process(program.pid).children() if program.poll() is None else []
            victim = self.rng.choice([psutil.Process(program.pid), *children]) if program.poll() is None else None
            if victim is not None and victim.is_running():
                victim.send_signal(signal.SIGKILL)
            program.wait(WAIT_S)
        psutil.wait_procs(children, WAIT_S)
        assert not any(child.is_running() for child in children)

    def _indexes(self) -> bool:
        activity = read_activity(self.data, "indexer")
        return activity is not None and activity.phase == "index"

    def _wait(self, program: subprocess.Popen[bytes], reached: Callable[[], bool]) -> None:
        until = time.monotonic() + WAIT_S
        while program.poll() is None and not reached():
            assert time.monotonic() < until
            time.sleep(0.005)

    @property
    def embedded(self) -> int:
        """Photos that were embedded, by all workers together."""
        return counting.embedded(self.folder)


def run(folder: Path, seed: int, kills: int) -> Trial:
    """A gallery that is backfilled by an indexer that is killed so many times, and then is not."""
    data = new_data(folder)
    live(data, first := model(data, 0))
    candidate = model(data, 1, first)
    with Catalogue.open(data.catalogue_url) as catalogue:
        put_photos(catalogue, range(PHOTOS))
    shutil.copytree(data.root, folder / "unharmed")
    trial = Trial(data, candidate, random.Random(seed), folder)
    with Catalogue.open(data.catalogue_url) as catalogue:
        for _ in range(kills):
            trial.start_and_kill(catalogue)
    with trial.start() as program:
        assert program.wait(WAIT_S) == 0
    return trial


def check(folder: Path, trial: Trial, kills: int) -> None:
    """What the kills left is what there is without them."""
    assert PHOTOS <= trial.embedded <= PHOTOS + kills * IN_HAND
    unharmed = Trial(DataDir(folder / "unharmed"), trial.candidate, trial.rng, folder / "without")
    with unharmed.start() as program:
        assert program.wait(WAIT_S) == 0
    assert unharmed.embedded == PHOTOS
    segments = []
    for data in (trial.data, unharmed.data):
        check_whole(data.root)
        first, made = numbers(data)
        assert first == 1
        assert made == 2 or data == trial.data  # a kill just before the rename costs a number
        assert state_of(data, load_info(data, made)) is State.CANDIDATE
        with Catalogue.open(data.catalogue_url) as catalogue:
            catalogue.verify()
            assert catalogue.vector_count(trial.candidate.id) == PHOTOS
        segments.append(load_generation(data, made, detect(), 1).segment)
    assert segments[0].seqs.tolist() == segments[1].seqs.tolist() == list(range(1, PHOTOS + 1))
    np.testing.assert_allclose(segments[0].vectors, segments[1].vectors, atol=1e-6)


@pytest.mark.parametrize("kills", [3, pytest.param(25, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_a_backfill_that_is_killed_ends_as_if_it_had_not_been(tmp_path: Path, kills: int) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    (tmp_path / "without").mkdir()
    check(tmp_path, run(tmp_path, seed, kills), kills)
