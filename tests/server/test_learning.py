"""What the server reads of trainings, models and generations, from files as the other programs leave them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from everlook.v1 import everlook_pb2 as pb
from indexer import stages
from indexer.datadir import DataDir
from indexer.gates import RecallLimits
from indexer.generation import GenerationInfo, publish_generation, set_live, write_verdict
from indexer.index import Segment
from indexer.programs import Activity, Reporter, read_activity
from server.generations import listed
from server.learning import Learning
from server.metrics import Metrics
from server.progress import Progress
from server.supervisor import Child, Supervisor
from server.swapper import Failure, Swap, Swapper
from tests.indexer.tiny_model import write_tiny_model
from tests.server.learned import begun, ended, measured, model_of

LIVE, PREVIOUS = pb.GENERATION_STATE_LIVE, pb.GENERATION_STATE_PREVIOUS
CANDIDATE, READY, REJECTED = (
    pb.GENERATION_STATE_CANDIDATE,
    pb.GENERATION_STATE_READY,
    pb.GENERATION_STATE_REJECTED,
)


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    """A data directory with empty folders."""
    made = DataDir(tmp_path)
    made.create()
    return made


def generation(data: DataDir, model: str, dimension: int = 32) -> GenerationInfo:
    """A generation of a model, of no items."""
    return publish_generation(
        data, model, 0, Segment.build(np.empty((0, dimension), np.float32), np.empty(0, np.uint64))
    )


def references_of(data: DataDir) -> Callable[[str], Mapping[int, float]]:
    """Those that the trainer measured, for every model."""
    return lambda model: Learning(data).references()


@pytest.fixture
def base(data: DataDir) -> str:
    """The id of model 0, of which generation 1 is live."""
    model = write_tiny_model(data.models).id
    set_live(data, generation(data, model).number)
    return model


# ---------------------------------------------------------------------------------------------------- trainings


def test_a_training_is_under_way_until_something_has_come_of_it(data: DataDir) -> None:
    learning = Learning(data)
    assert learning.running() is None
    training = begun(data, 1, ["a", "b"], stage=2)
    running = learning.running()
    assert running is not None
    assert (running.number, running.stage, running.categories) == (1, 2, ("a", "b"))
    ended(data, training, "failed", "out of memory")
    assert learning.running() is None
    (record,) = learning.records()
    assert record.outcome is not None
    assert (record.outcome.state, record.outcome.reason) == ("failed", "out of memory")


def test_a_training_that_has_ended_is_read_once(data: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    load = stages.load

    def noted(data: DataDir, number: int) -> Any:
        reads.append(number)
        return load(data, number)

    monkeypatch.setattr(stages, "load", noted)
    ended(data, begun(data, 1, ["a", "b"]), "cancelled")
    training = begun(data, 2, ["a", "b"])
    learning = Learning(data)
    for _ in range(3):
        assert [record.training.number for record in learning.records()] == [1, 2]
    assert reads == [1, 2]
    ended(data, training, "cancelled")
    for _ in range(3):
        assert learning.running() is None
    assert reads == [1, 2, 2]


def test_a_training_that_cannot_be_read_hides_no_other(data: DataDir) -> None:
    begun(data, 1, ["a", "b"])
    begun(data, 2, ["c", "d"])
    (data.stage(2) / "stage.json").write_text("{")
    running = Learning(data).running()
    assert running is not None
    assert running.number == 1


def test_the_reference_of_a_cohort_is_its_recall_when_its_stage_was_published(data: DataDir) -> None:
    ended(data, begun(data, 1, ["a", "b"], stage=0), "published", gates=measured(0, {0: (9, 10)}))
    ended(data, begun(data, 2, ["c", "d"], stage=1), "rejected", gates=measured(1, {0: (9, 10), 1: (1, 10)}))
    ended(data, begun(data, 3, ["c", "d"], stage=1), "published", gates=measured(1, {0: (7, 10), 1: (8, 10)}))
    assert Learning(data).references() == {0: 0.9, 1: 0.8}


# ---------------------------------------------------------------------------------------------------- generations


def test_the_generations_are_listed_newest_first_with_their_states_and_gates(data: DataDir, base: str) -> None:
    learned = model_of(data, 1, base, ["a", "b"], gates=measured(0, {0: (6, 10)}))
    set_live(data, generation(data, learned.id).number)
    fell = model_of(data, 2, learned.id, ["a", "b"], ["c"], gates=measured(1, {0: (9, 10)}))
    rejected = generation(data, fell.id)
    write_verdict(data, rejected.number, measured(1, {0: (0, 10), 1: (8, 10)}, before=9))
    waits = model_of(data, 3, learned.id, ["a", "b"], ["c"], gates=measured(1, {0: (9, 10), 1: (7, 8)}))
    generation(data, waits.id)
    found = listed(data, references_of(data), hold=False)
    assert [(each.number, each.state) for each in found] == [
        (4, CANDIDATE),
        (3, REJECTED),
        (2, LIVE),
        (1, PREVIOUS),
    ]
    candidate, refused, live, first = found
    assert (candidate.model.id, candidate.model.stages) == (waits.id, 2)
    assert [(each.cohort, each.probes) for each in candidate.recall] == [(0, 10), (1, 8)]
    assert [each.recall_at_1 for each in candidate.recall] == pytest.approx([0.9, 0.875])
    assert [gate.name for gate in refused.gates if not gate.passed] == ["old cohort 0", "new cohort 1"]
    assert all(gate.reason for gate in refused.gates)
    # What the server measured counts, not what the trainer had.
    assert [each.recall_at_1 for each in refused.recall] == pytest.approx([0.0, 0.8])
    assert [gate.name for gate in live.gates] == ["new cohort 0", "floor of cohort 0"]
    assert not first.gates


def test_a_candidate_is_ready_when_the_server_holds(data: DataDir, base: str) -> None:
    generation(data, model_of(data, 1, base, ["a", "b"]).id)
    assert [each.state for each in listed(data, references_of(data), hold=True)] == [READY, LIVE]


def test_a_model_that_was_rejected_before_it_had_a_generation_is_listed_with_its_reasons(
    data: DataDir, base: str
) -> None:
    spoiled = model_of(data, 1, base, ["a", "b"], gates=measured(0, {0: (0, 10)}))
    model_of(data, 2, base, ["a", "b"], gates=measured(0, {0: (6, 10)}))  # its generation is still to come
    first, live = listed(data, references_of(data), hold=False)
    assert (first.number, first.state, first.model.id) == (0, REJECTED, spoiled.id)
    assert "did not rise" in first.gates[0].reason
    assert (live.number, live.state) == (1, LIVE)


def test_a_published_model_that_cannot_be_read_is_listed_as_rejected_with_what_is_wrong(
    data: DataDir, base: str
) -> None:
    damaged = model_of(data, 1, base, ["a", "b"])
    (data.model(damaged.id) / "lineage.json").write_text("{")
    found = next(each for each in listed(data, references_of(data), hold=False) if each.state == REJECTED)
    assert found.number == 0
    assert damaged.id.startswith(found.model.id)
    assert [(gate.name, gate.passed) for gate in found.gates] == [("loading", False)]
    assert "lineage.json" in found.gates[0].reason


def test_what_is_damaged_hides_no_other_generation(data: DataDir, base: str) -> None:
    broken = generation(data, model_of(data, 1, base, ["a", "b"]).id)
    (data.generation(broken.number) / "generation.json").write_text("{")
    other = model_of(data, 2, base, ["a", "b"])
    generation(data, other.id)
    (data.model(other.id) / "gates.json").write_text("{")
    assert [each.number for each in listed(data, references_of(data), hold=False)] == [1]


# ---------------------------------------------------------------------------------------------------- progress


def progress_of(data: DataDir, *, hold: bool = False, **children: Child) -> tuple[Progress, Swapper]:
    supervisor = Supervisor({name: [] for name in children}, lambda name: None)
    supervisor.children.update(children)
    engine: Any = None
    swapper = Swapper(engine, RecallLimits(), Metrics(CollectorRegistry()).swaps, hold=hold)
    return Progress(data, Learning(data), swapper, supervisor), swapper


def say(data: DataDir, name: str, activity: Activity, *, ago_s: float = 0.0) -> None:
    Reporter(data, name, clock=lambda: time.time() - ago_s).say(activity)


def own_pid(data: DataDir, name: str) -> int:
    """The process id that the last news came from, which is that of this test."""
    say(data, name, Activity("waiting"))
    activity = read_activity(data, name)
    assert activity is not None
    return activity.pid


def test_nothing_is_learned_at_first(data: DataDir, base: str) -> None:
    assert progress_of(data)[0].training() is None


def test_the_stage_is_followed_from_its_training_to_its_swap(data: DataDir, base: str) -> None:
    progress, swapper = progress_of(data)

    def phase() -> tuple[int, int, str, int, int] | None:
        now = progress.training()
        return None if now is None else (now.stage, now.categories, now.phase, now.done, now.total)

    training = begun(data, 1, ["a", "b", "c"])
    assert phase() == (0, 3, "training", 0, 0)
    say(data, "trainer", Activity("training", "training", 0, 3, 40, 200, 12.5, loss=0.25))
    assert phase() == (0, 3, "training", 40, 200)
    now = progress.training()
    assert now is not None
    assert (now.remaining_s, now.loss) == (12.5, 0.25)
    say(data, "trainer", Activity("exporting", "exporting", 0, 3, 1, 2))
    assert phase() == (0, 3, "exporting", 1, 2)

    model = model_of(data, 1, base, ["a", "b", "c"])
    ended(data, training, "published")
    say(data, "trainer", Activity("waiting for categories"))
    assert phase() == (0, 3, "backfill", 0, 0)
    say(data, "indexer", Activity("embedding", "backfill", 0, 3, 700, 1000, 60.0))
    assert phase() == (0, 3, "backfill", 700, 1000)
    say(data, "indexer", Activity("building", "index", 0, 3, 1, 3))
    assert phase() == (0, 3, "index", 1, 3)

    candidate = generation(data, model.id)
    say(data, "indexer", Activity("waiting for models"))
    assert phase() == (0, 3, "swap", 0, 0)
    swapper.current = Swap(candidate.number, "catching up", 30, 100)
    assert phase() == (0, 3, "swap", 30, 100)
    swapper.current = None
    set_live(data, candidate.number)
    assert phase() is None


def test_what_a_program_says_of_another_stage_is_not_this_stages_progress(data: DataDir, base: str) -> None:
    progress, _ = progress_of(data)
    begun(data, 1, ["a", "b"], stage=3)
    say(data, "trainer", Activity("training", "training", 2, 9, 40, 200))
    now = progress.training()
    assert now is not None
    assert (now.stage, now.done, now.total) == (3, 0, 0)


def test_a_candidate_that_is_held_is_not_being_learned_any_more(data: DataDir, base: str) -> None:
    generation(data, model_of(data, 1, base, ["a", "b"]).id)
    assert progress_of(data, hold=True)[0].training() is None


def test_a_rollback_to_a_model_that_learned_nothing_is_no_stage(data: DataDir, base: str) -> None:
    progress, swapper = progress_of(data)
    swapper.current = Swap(1)
    assert progress.training() is None
    assert progress.programs()[0].activity == "serving; making generation 1 live: loading"


def test_the_server_says_what_it_does_beside_serving(data: DataDir) -> None:
    progress, swapper = progress_of(data)
    server = progress.programs()[0]
    assert (server.name, server.activity, server.pid > 0) == ("server", "serving", True)
    swapper.current = Swap(7, "catching up", 30, 100)
    assert progress.programs()[0].activity == "serving; making generation 7 live: catching up, 30 of 100"
    swapper.current, swapper.failure = None, Failure(7, 1, 0.0, "the disk is full")
    words = "serving; generation 7 is not live yet, again in 0 s: the disk is full"
    assert progress.programs()[0].activity == words


def test_a_program_that_the_server_runs_is_known_by_its_process(data: DataDir) -> None:
    pid = own_pid(data, "trainer")
    child = Child(pid=pid, restarts=2)
    progress, _ = progress_of(data, trainer=child)
    assert progress.programs()[1] == pb.Program(name="trainer", pid=pid, activity="waiting", restarts=2)
    child.pid = pid + 1  # started again, and silent so far: the news is of the one before
    assert progress.programs()[1].activity == "starting"
    assert progress.runs("trainer")
    child.pid, child.last, child.again_at = 0, "was killed by SIGKILL", time.monotonic() + 3.9
    assert progress.programs()[1].activity.startswith("was killed by SIGKILL; is started again in 4 s")
    assert not progress.runs("trainer")


def test_a_program_that_runs_elsewhere_is_known_by_its_recent_news(data: DataDir) -> None:
    progress, _ = progress_of(data)
    assert progress.programs()[1] == pb.Program(name="trainer", activity="is not run by this server")
    say(data, "trainer", Activity("waiting"))
    assert progress.runs("trainer")
    assert progress.programs()[1].activity == "waiting"
    assert progress.programs()[1].pid > 0
    say(data, "trainer", Activity("waiting"), ago_s=60.0)
    assert not progress.runs("trainer")
    assert progress.programs()[1].pid == 0


@pytest.mark.parametrize(
    ("said_s_ago", "alive_s_ago", "runs"),
    [(600.0, 10.0, True), (600.0, 60.0, False), (10.0, None, True), (60.0, None, False)],
    ids=["busy with one thing", "dead", "an older version", "an older version that is dead"],
)
def test_a_program_that_runs_elsewhere_may_be_silent_while_it_gives_signs_of_life(
    data: DataDir, said_s_ago: float, alive_s_ago: float | None, runs: bool
) -> None:
    progress, _ = progress_of(data)
    say(data, "trainer", Activity("exports"), ago_s=said_s_ago)
    path = data.programs / "trainer.json"
    raw = json.loads(path.read_text())
    del raw["alive_at"]
    path.write_text(json.dumps(raw if alive_s_ago is None else {**raw, "alive_at": time.time() - alive_s_ago}))
    assert progress.runs("trainer") is runs
    assert progress.programs()[1].activity == ("exports" if runs else "is not run by this server")
