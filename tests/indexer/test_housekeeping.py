"""What no generation needs any more goes, and nothing else."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from indexer import housekeeping
from indexer.catalogue import Catalogue
from indexer.datadir import DataDir
from indexer.generation import previous_generation, remove_stale, set_live
from indexer.housekeeping import needed_models, stale_models, tidy
from indexer.model import MANIFEST, Manifest
from indexer.stages import Outcome, Training, Waiting, begin, end
from tests.indexer.galleries import FAILED, PASSED, generation, live, model, new_data, put_photos, run_program

LATER = time.time() + 7200  # when models that are made here are young no more


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return new_data(tmp_path)


@pytest.fixture
def catalogue(data: DataDir) -> Iterator[Catalogue]:
    with Catalogue.open(data.catalogue_url) as opened:
        put_photos(opened, range(3))
        yield opened
        opened.verify()


def no_pause(seconds: float) -> None:
    """For tests that do not wait."""


def embed(catalogue: Catalogue, *models: Manifest) -> None:
    """Gives every photo a vector of each of these models."""
    for of in models:
        vector = np.eye(1, of.dimension, dtype=np.float32)[0]
        catalogue.store_vectors(of.id, dict.fromkeys(catalogue.missing_vectors(of.id), vector))


def ids(*models: Manifest) -> list[str]:
    return sorted(of.id for of in models)


def folders(data: DataDir) -> list[str]:
    return sorted(path.name for path in data.models.iterdir())


# ---------------------------------------------------------------------------------------------------- vectors


def test_the_vectors_that_stay_are_those_of_generations_of_the_live_model_and_of_the_candidate(
    data: DataDir, catalogue: Catalogue
) -> None:
    live(data, first := model(data, 0))
    live(data, current := model(data, 1, first))
    refused = model(data, 2, current)
    generation(data, refused, FAILED)
    abandoned = model(data, 3, first)
    candidate = model(data, 4, current)
    unmade = model(data, 5, current, FAILED)
    embed(catalogue, first, current, refused, abandoned, candidate, unmade)
    tidy(data, catalogue, no_pause)
    assert catalogue.models_with_vectors() == ids(first, current, candidate)
    assert [catalogue.vector_count(each) for each in ids(first, current, candidate)] == [3, 3, 3]


def test_vectors_are_dropped_a_few_at_a_time_with_a_pause_after_each(
    data: DataDir, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    live(data, first := model(data, 0))
    embed(catalogue, stale := model(data, 1))
    monkeypatch.setattr(housekeeping, "_VECTORS", 2)
    left: list[int] = []
    tidy(data, catalogue, lambda seconds: left.append(catalogue.vector_count(stale.id)))
    assert left == [1, 0]
    assert first.id not in catalogue.models_with_vectors()


def test_dropping_ends_when_a_rollback_makes_the_model_a_candidate_again(
    data: DataDir, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = live(data, base := model(data, 0))
    given_up = model(data, 2, base)
    live(data, model(data, 1, base))
    embed(catalogue, given_up)
    monkeypatch.setattr(housekeeping, "_VECTORS", 1)
    tidy(data, catalogue, lambda seconds: set_live(data, first.number))
    assert catalogue.vector_count(given_up.id) == 2


@pytest.mark.parametrize("doubt", ["nothing is live", "live.json", "the live generation", "another generation"])
def test_in_doubt_nothing_goes(data: DataDir, catalogue: Catalogue, doubt: str) -> None:
    stale = model(data, 1)
    if doubt != "nothing is live":
        live(data, model(data, 0))
        other = generation(data, model(data, 2))
        path = {
            "live.json": data.live,
            "the live generation": data.generation(1) / "generation.json",
            "another generation": data.generation(other.number) / "generation.json",
        }[doubt]
        path.write_text("{")
    embed(catalogue, stale)
    before = folders(data)
    tidy(data, catalogue, no_pause, clock=lambda: LATER)
    assert catalogue.vector_count(stale.id) == 3
    assert folders(data) == before
    assert needed_models(data) is None


# ---------------------------------------------------------------------------------------------------- models


def test_the_models_that_stay_are_those_that_may_be_served_the_candidate_and_the_newest_rejected(
    data: DataDir, catalogue: Catalogue
) -> None:
    live(data, first := model(data, 0))
    live(data, current := model(data, 1, first))
    made = model(data, 2, current)
    generation(data, made, PASSED)
    gone = [model(data, 3, first), model(data, 4, current, FAILED), model(data, 5)]
    kept = [first, current, made, model(data, 6, current), model(data, 7, current, FAILED)]
    assert stale_models(data, time.time()) == []
    tidy(data, catalogue, no_pause, clock=lambda: LATER)
    assert folders(data) == sorted(each.id[:16] for each in kept)
    assert not any(data.model(each.id).exists() for each in gone)


def test_a_young_model_stays_whatever_it_is(data: DataDir) -> None:
    live(data, model(data, 0))
    young = model(data, 1)
    assert stale_models(data, young.created_at + 3599) == []
    assert stale_models(data, young.created_at + 3601) == [young]


def test_the_models_on_the_way_back_to_one_that_was_live_stay(data: DataDir, catalogue: Catalogue) -> None:
    live(data, unreachable := model(data, 0))  # 1
    oldest = live(data, reachable := model(data, 1, unreachable))  # 2
    between = model(data, 2, reachable)
    live(data, model(data, 3, between))  # 3
    assert remove_stale(data, keep=2) == [1]
    tidy(data, catalogue, no_pause, clock=lambda: LATER)
    assert data.model(between.id).exists()
    assert not data.model(unreachable.id).exists()
    assert previous_generation(data) == oldest


def begun(data: DataDir, catalogue: Catalogue, base: Manifest) -> Training:
    """A training from that model, under way."""
    shas = [entry.image_sha256 for entry in catalogue.entries()]
    chosen = [Waiting(name, (shas[0], shas[1]), 0, 0.0, 0.0) for name in ("a", "b")]
    return begin(data, catalogue, chosen, stage=1, base=base.id, reason="a test")


def test_what_a_training_under_way_started_from_stays_until_it_has_ended(data: DataDir, catalogue: Catalogue) -> None:
    live(data, first := model(data, 0))
    training = begun(data, catalogue, first)
    live(data, model(data, 1))
    assert remove_stale(data, keep=1) == [1]
    assert stale_models(data, LATER) == []
    end(data, training, Outcome("failed", "a test"))
    assert stale_models(data, LATER) == [first]


def test_a_training_that_cannot_be_read_keeps_everything(data: DataDir, catalogue: Catalogue) -> None:
    live(data, first := model(data, 0))
    training = begun(data, catalogue, first)
    (data.stage(training.number) / "stage.json").write_text("{")
    model(data, 1)
    assert stale_models(data, LATER) == []


def test_what_is_no_model_is_left_alone(data: DataDir, catalogue: Catalogue) -> None:
    live(data, first := model(data, 0))
    broken = model(data, 1)
    (data.model(broken.id) / MANIFEST).write_text("{")
    (data.models / ".staging-model-of-the-trainer").mkdir()
    tidy(data, catalogue, no_pause, clock=lambda: LATER)
    assert folders(data) == sorted([".staging-model-of-the-trainer", first.id[:16], broken.id[:16]])


# ---------------------------------------------------------------------------------------------------- crashes

_KILLED = """
import os, signal, sys
from pathlib import Path
from indexer import housekeeping
from indexer.catalogue import Catalogue
from indexer.datadir import DataDir
data, step = DataDir(Path(sys.argv[1])), sys.argv[2]
kill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
housekeeping._VECTORS = 1
if step == "model":
    housekeeping.shutil.rmtree = kill
with Catalogue.open(data.catalogue_url) as catalogue:
    housekeeping.tidy(data, catalogue, kill if step == "vectors" else lambda seconds: None, clock=lambda: 1e12)
"""


@pytest.mark.parametrize("step", ["vectors", "model"])
def test_what_a_kill_left_is_removed_at_the_next_turn(data: DataDir, catalogue: Catalogue, step: str) -> None:
    live(data, first := model(data, 0))
    embed(catalogue, stale := model(data, 1))
    assert run_program(_KILLED, data.root, step) == -signal.SIGKILL
    assert catalogue.vector_count(stale.id) == (2 if step == "vectors" else 0)
    assert data.model(stale.id).exists() == (step == "vectors")
    assert (data.models / f".staging-stale-{stale.id[:16]}").exists() == (step == "model")
    tidy(data, catalogue, no_pause, clock=lambda: LATER)
    assert catalogue.models_with_vectors() == []
    assert folders(data) == [first.id[:16]]
    assert os.listdir(data.models) == folders(data)
