"""Generations: which may go live, which can be gone back to, which stay, and what a crash leaves."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from indexer import generation as generations
from indexer.datadir import DataDir
from indexer.devices import detect
from indexer.errors import GenerationDamaged
from indexer.files import STAGING
from indexer.generation import (
    GenerationInfo,
    State,
    candidate_generation,
    candidate_model,
    gates_of,
    live_model,
    live_number,
    load_generation,
    load_info,
    numbers,
    previous_generation,
    publish_generation,
    publishing,
    read_live,
    remove_stale,
    set_live,
    state_of,
    sweep_generations,
    write_verdict,
)
from indexer.index import Segment
from indexer.model import MANIFEST
from tests.indexer.galleries import FAILED, PASSED, generation, live, model, new_data, run_program


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return new_data(tmp_path)


# ---------------------------------------------------------------------------------------------------- states


def test_a_generation_is_a_candidate_until_it_is_live_and_previous_after_that(data: DataDir) -> None:
    old = live(data, first := model(data, 0))
    new = generation(data, model(data, 1, first, PASSED), PASSED)
    assert (state_of(data, old), state_of(data, new)) == (State.LIVE, State.CANDIDATE)
    set_live(data, new.number)
    assert (state_of(data, old), state_of(data, new)) == (State.PREVIOUS, State.LIVE)
    set_live(data, old.number)
    assert (state_of(data, old), state_of(data, new)) == (State.LIVE, State.PREVIOUS)


@pytest.mark.parametrize("where", ["model", "index", "verdict"])
def test_a_gate_that_failed_anywhere_rejects(data: DataDir, where: str) -> None:
    live(data, first := model(data, 0))
    taught = model(data, 1, first, FAILED if where == "model" else PASSED)
    info = generation(data, taught, FAILED if where == "index" else PASSED)
    write_verdict(data, info.number, [FAILED if where == "verdict" else PASSED])
    assert state_of(data, info) is State.REJECTED
    assert [gate.passed for gate in gates_of(data, info)] == [
        where != "model",
        where != "index",
        where != "verdict",
    ]
    assert candidate_generation(data) is None


def test_what_is_published_says_of_itself_what_was_published(data: DataDir) -> None:
    of = model(data, 0)
    info = generation(data, of, PASSED)
    assert load_info(data, 1) == info
    assert (info.number, info.model, info.seq, info.gates) == (1, of.id, 3, (PASSED,))
    assert load_generation(data, 1, detect(), 1).segment.seqs.tolist() == [1, 2, 3]


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2}', '{"format": 1, "number": 7}'])
def test_a_generation_that_cannot_be_read_is_damaged(data: DataDir, text: str) -> None:
    generation(data, model(data, 0))
    (data.generation(1) / "generation.json").write_text(text)
    with pytest.raises(GenerationDamaged, match="generation 1 cannot be read"):
        load_info(data, 1)


# ---------------------------------------------------------------------------------------------------- candidates


def test_nothing_is_a_candidate_before_anything_is_live(data: DataDir) -> None:
    model(data, 0)
    assert candidate_model(data) is None
    assert candidate_generation(data) is None
    assert live_model(data) is None
    assert remove_stale(data, keep=1) == []


def test_the_model_to_backfill_is_the_newest_that_was_taught_from_the_live_one_and_passed(data: DataDir) -> None:
    live(data, first := model(data, 0))
    other = model(data, 1)
    assert candidate_model(data) is None
    taught = [model(data, 2, first), model(data, 3, first)]
    model(data, 4, other)
    model(data, 5, first, PASSED, FAILED)
    assert candidate_model(data) == taught[-1]


def test_of_models_the_training_says_which_is_newer_whatever_the_clock_said(data: DataDir) -> None:
    live(data, first := model(data, 0))
    newer = model(data, 1, first, training=2)
    model(data, 2, first, training=1)
    assert candidate_model(data) == newer


def test_a_model_that_has_a_generation_is_not_backfilled_again_nor_is_an_older_one(data: DataDir) -> None:
    live(data, first := model(data, 0))
    model(data, 1, first)
    info = generation(data, model(data, 2, first), FAILED)
    assert state_of(data, info) is State.REJECTED
    assert candidate_model(data) is None


def test_a_model_that_is_still_being_published_is_no_candidate(data: DataDir) -> None:
    live(data, first := model(data, 0))
    taught = data.model(model(data, 1, first, PASSED).id)
    taught.rename(taught.with_name(f"{STAGING}{taught.name}-x"))  # whole, and killed before its renaming
    assert candidate_model(data) is None


def test_a_model_that_cannot_be_read_is_no_candidate(data: DataDir) -> None:
    live(data, first := model(data, 0))
    (data.model(model(data, 1, first).id) / MANIFEST).write_text("{")
    assert candidate_model(data) is None


def test_a_model_that_was_live_never_comes_back_by_itself(data: DataDir) -> None:
    old = live(data, first := model(data, 0))
    second = model(data, 1, first)
    live(data, second)
    leftover = generation(data, second)  # a merge that was cut off
    set_live(data, old.number)
    assert candidate_generation(data) is None
    assert remove_stale(data, keep=1) == [2, leftover.number]
    assert candidate_model(data) is None
    assert candidate_generation(data) is None


def test_the_candidate_is_the_newest_of_those_taught_from_the_live_model(data: DataDir) -> None:
    live(data, first := model(data, 0))
    other = model(data, 1)
    wanted = [generation(data, model(data, seed, first), PASSED) for seed in (2, 3)][-1]
    generation(data, model(data, 4, other), PASSED)
    generation(data, model(data, 5, first), FAILED)
    assert candidate_generation(data) == wanted
    write_verdict(data, wanted.number, [FAILED])
    assert candidate_generation(data) == load_info(data, wanted.number - 1)


# ---------------------------------------------------------------------------------------------------- going back


def test_going_back_leads_to_the_model_that_the_live_one_was_taught_from(data: DataDir) -> None:
    live(data, first := model(data, 0))
    second = model(data, 1, first)
    live(data, second)
    merged = live(data, second)
    live(data, model(data, 2, second))
    assert previous_generation(data) == merged
    set_live(data, merged.number)
    assert previous_generation(data) == load_info(data, 1)
    set_live(data, 1)
    assert previous_generation(data) is None


def test_going_back_passes_over_a_model_that_has_no_generation_any_more(data: DataDir) -> None:
    oldest = live(data, first := model(data, 0))
    live(data, second := model(data, 1, first))
    generation(data, second)  # never live
    live(data, model(data, 2, second))
    generations._remove(data, 2)
    assert previous_generation(data) == oldest


# ---------------------------------------------------------------------------------------------------- what stays


def test_what_stays_is_what_is_live_what_can_be_and_the_reasons_of_the_last_refusal(data: DataDir) -> None:
    live(data, oldest := model(data, 0))  # 1
    live(data, old := model(data, 1, oldest))  # 2
    live(data, old)  # 3, a merge of 2
    live(data, current := model(data, 2, old))  # 4
    generation(data, current)  # 5, a merge that was cut off
    generation(data, model(data, 3, old))  # 6, taught from what was live
    generation(data, model(data, 4, current), PASSED)  # 7
    generation(data, model(data, 5, current), FAILED)  # 8
    generation(data, model(data, 6, current), FAILED)  # 9
    assert remove_stale(data, keep=3) == [2, 5, 6, 8]
    assert numbers(data) == [1, 3, 4, 7, 9]
    assert remove_stale(data, keep=2) == [1]
    assert remove_stale(data, keep=1) == [3]
    assert numbers(data) == [4, 7, 9]


def test_what_was_live_last_stays_though_its_number_is_lower(data: DataDir) -> None:
    first = live(data, base := model(data, 0))
    live(data, model(data, 1, base))
    set_live(data, first.number)
    live(data, model(data, 2, base))
    remove_stale(data, 2)
    previous = previous_generation(data)
    assert previous is not None
    assert previous.number == first.number
    assert numbers(data) == [first.number, 3]


def test_a_verdict_is_never_inherited(data: DataDir) -> None:
    live(data, first := model(data, 0))
    refused = generation(data, taught := model(data, 1, first, PASSED))
    write_verdict(data, refused.number, [FAILED])
    shutil.rmtree(data.generation(refused.number))  # as an operator may
    assert state_of(data, generation(data, taught)) is State.CANDIDATE
    remove_stale(data, 2)
    assert list(data.verdicts.iterdir()) == []


def test_the_verdict_on_a_generation_goes_with_it(data: DataDir) -> None:
    live(data, first := model(data, 0))
    for seed in (1, 2):
        write_verdict(data, generation(data, model(data, seed, first)).number, [FAILED])
    assert remove_stale(data, keep=1) == [2]
    assert not data.verdict(2).exists()
    assert data.verdict(3).exists()


def test_a_generation_that_is_published_while_others_are_removed_stays(
    data: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    live(data, first := model(data, 0))
    live(data, first)
    second = model(data, 1, first)
    publisher = threading.Thread(target=generation, args=(data, second, PASSED))
    kept = generations._kept

    def kept_meanwhile(*arguments: object) -> set[int]:
        found = kept(*arguments)  # type: ignore[arg-type]
        publisher.start()
        publisher.join(0.1)
        return found

    monkeypatch.setattr(generations, "_kept", kept_meanwhile)
    assert remove_stale(data, keep=1) == [1]
    publisher.join(20)
    assert numbers(data) == [2, 3]


# ---------------------------------------------------------------------------------------------------- live.json


def test_the_live_model_is_told_while_another_generation_takes_its_place(
    data: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = live(data, model(data, 0))
    second = generation(data, taught := model(data, 1))
    load = generations.load_info

    def load_late(data: DataDir, number: int) -> GenerationInfo:
        if number == first.number and data.generation(number).exists():
            set_live(data, second.number)
            generations._remove(data, first.number)
        return load(data, number)

    monkeypatch.setattr(generations, "load_info", load_late)
    assert live_model(data) == taught.id


def test_a_live_generation_that_is_gone_is_damage(data: DataDir) -> None:
    info = live(data, model(data, 0))
    generations._remove(data, info.number)
    with pytest.raises(GenerationDamaged, match="generation 1 cannot be read"):
        live_model(data)


def test_live_json_remembers_what_is_still_there_and_every_model(data: DataDir) -> None:
    models = [model(data, seed) for seed in range(3)]
    for each in models:
        live(data, each)
    generations._remove(data, 1)
    set_live(data, 2)
    kept = read_live(data)
    assert kept is not None
    assert (kept.number, kept.been_live, kept.models) == (2, (3,), tuple(each.id for each in models))


@pytest.mark.parametrize("text", ["", "{}", '{"number": 1, "been_live": 2, "models": []}'])
def test_a_live_json_that_cannot_be_read_is_damaged(data: DataDir, text: str) -> None:
    data.live.write_text(text)
    with pytest.raises(GenerationDamaged, match=r"live\.json cannot be read"):
        live_number(data)


# ---------------------------------------------------------------------------------------------------- numbers


def test_programs_that_publish_at_once_get_numbers_of_their_own(data: DataDir) -> None:
    of = model(data, 0)
    threads = [threading.Thread(target=generation, args=(data, of)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert numbers(data) == list(range(1, 9))
    assert [load_info(data, number).number for number in numbers(data)] == list(range(1, 9))


def test_a_number_that_was_live_is_not_given_to_another_generation(data: DataDir) -> None:
    live(data, first := model(data, 0))
    live(data, model(data, 1, first))
    set_live(data, 1)
    assert remove_stale(data, keep=1) == [2]
    new = generation(data, model(data, 2, first))
    assert new.number == 3
    assert state_of(data, new) is State.CANDIDATE


def test_the_number_of_a_merge_that_a_kill_cut_off_is_not_given_to_another_generation(data: DataDir) -> None:
    live(data, first := model(data, 0))
    assert run_program(_PUBLISH, data.root, first.id, "after the rename") == -9
    assert remove_stale(data, keep=2) == [2]
    assert generation(data, first).number == 3


def test_a_number_that_a_kill_cut_off_before_the_rename_is_not_given_again(data: DataDir) -> None:
    live(data, first := model(data, 0))
    assert run_program(_PUBLISH, data.root, first.id, "before the rename") == -9
    sweep_generations(data)
    assert generation(data, first).number == 3


@pytest.mark.parametrize("text", [None, "", "[]", '{"number": "x"}'])
def test_where_the_last_number_is_lost_what_is_there_and_what_was_live_say_the_next(
    data: DataDir, text: str | None
) -> None:
    live(data, first := model(data, 0))
    live(data, first)
    if text is None:
        data.last_generation.unlink()
    else:
        data.last_generation.write_text(text)
    assert generation(data, first).number == 3


# ---------------------------------------------------------------------------------------------------- crashes

_PUBLISH = """
import os, signal, sys
import numpy as np
from pathlib import Path
from indexer import files, generation
from indexer.datadir import DataDir
from indexer.index import Segment
data, model, step = DataDir(Path(sys.argv[1])), sys.argv[2], sys.argv[3]
kill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
if step == "while it is written":
    generation.write_json = kill
elif step == "before the rename":
    files.os.rename = kill
elif step == "while stale ones are removed":
    generation.shutil.rmtree = kill
if step == "while stale ones are removed":
    generation.remove_stale(data, 1)
segment = Segment.build(np.eye(3, 32, dtype=np.float32), np.array([1, 2, 3], np.uint64))
generation.publish_generation(data, model, 3, segment)
kill()
"""


@pytest.mark.parametrize("step", ["while it is written", "before the rename"])
def test_a_generation_whose_publishing_was_cut_off_is_swept(data: DataDir, step: str) -> None:
    live(data, first := model(data, 0))
    assert run_program(_PUBLISH, data.root, model(data, 1, first).id, step) == -9
    assert any(path.name.startswith(STAGING) for path in data.generations.iterdir())
    sweep_generations(data)
    assert {path.name for path in data.generations.iterdir()} == {"00000001", "last.json"}
    assert live_number(data) == 1


def test_after_its_publishing_a_candidate_is_taken_up_and_a_merge_is_removed(data: DataDir) -> None:
    live(data, first := model(data, 0))
    assert run_program(_PUBLISH, data.root, first.id, "after the rename") == -9
    assert live_number(data) == 1
    assert candidate_generation(data) is None
    assert remove_stale(data, keep=2) == [2]
    taught = model(data, 1, first)
    assert run_program(_PUBLISH, data.root, taught.id, "after the rename") == -9
    found = candidate_generation(data)
    assert found is not None
    assert found.model == taught.id
    assert remove_stale(data, keep=2) == []


def test_after_live_json_the_new_generation_is_what_a_restart_loads(data: DataDir) -> None:
    live(data, first := model(data, 0))
    set_live(data, generation(data, taught := model(data, 1, first)).number)
    number = live_number(data)
    assert number is not None
    assert load_generation(data, number, detect(), 1).model.id == taught.id


def test_half_of_a_stale_generation_is_never_taken_for_one(data: DataDir) -> None:
    live(data, first := model(data, 0))
    live(data, first)
    assert run_program(_PUBLISH, data.root, first.id, "while stale ones are removed") == -9
    assert numbers(data) == [2]
    assert remove_stale(data, keep=2) == []
    assert {path.name for path in data.generations.iterdir()} == {"00000002", "last.json"}


def test_a_full_disk_while_publishing_leaves_nothing(data: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    of = model(data, 0)

    def full(segment: Segment, folder: Path) -> None:
        (folder / "index.faiss").write_bytes(b"some of it")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Segment, "save", full)
        with pytest.raises(OSError, match="No space"):
            generation(data, of)
    assert list(data.generations.iterdir()) == []
    assert generation(data, of).number == 1


def test_the_right_to_publish_is_given_back_when_its_holder_fails(data: DataDir) -> None:
    with pytest.raises(ZeroDivisionError), publishing(data):
        raise ZeroDivisionError
    with publishing(data):
        pass


def test_an_index_of_another_dimension_than_its_model_is_damage(data: DataDir) -> None:
    of = model(data, 0)
    segment = Segment.build(np.eye(3, 8, dtype=np.float32), np.array([1, 2, 3], np.uint64))
    publish_generation(data, of.id, 3, segment)
    with pytest.raises(GenerationDamaged, match="another dimension"):
        load_generation(data, 1, detect(), 1)


def test_the_gates_of_a_generation_are_kept_as_json(data: DataDir) -> None:
    generation(data, model(data, 0), PASSED)
    stored = json.loads((data.generation(1) / "generation.json").read_text())
    assert stored["gates"]["gates"] == [
        {
            "name": "a gate",
            "passed": True,
            "measured": 1.0,
            "required": 0.5,
            "reason": "it is met",
            "cohort": None,
            "probes": 0,
        }
    ]
