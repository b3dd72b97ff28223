"""What a watch is told: each event in its words, once, and nothing where nothing has happened."""

from __future__ import annotations

from typing import Any

import pytest

from everlook.v1 import everlook_pb2 as pb
from indexer.gates import Gate
from indexer.stages import Outcome, State, Training
from server.events import Look, happened, went_on
from server.learning import Record
from tests.server.learned import measured


def status(number: int = 1, model: str = "m", **fields: Any) -> pb.StatusResponse:
    return pb.StatusResponse(generation=pb.Generation(number=number, model=pb.Model(id=model)), **fields)


def program(pid: int, restarts: int = 0, activity: str = "waiting") -> pb.Program:
    return pb.Program(name="trainer", pid=pid, restarts=restarts, activity=activity)


def record(state: State | None = None, reason: str = "", gates: tuple[Gate, ...] = ()) -> Record:
    training = Training(4, 2, "base", ("a", "b", "c"), (), 0, "ripe")
    return Record(training, None if state is None else Outcome(state, reason, gates=gates))


def generation(state: pb.GenerationState.ValueType, *gates: pb.Gate) -> pb.Generation:
    return pb.Generation(number=7, state=state, gates=gates)


def training(phase: str, done: int = 0, stage: int = 2) -> pb.TrainingStatus:
    return pb.TrainingStatus(stage=stage, phase=phase, done=done)


FELL = next(gate for gate in measured(1, {0: (0, 9), 1: (9, 9)}, before=8) if not gate.passed)
NOTHING = Look(status())

CASES: dict[str, tuple[Look, Look, list[str]]] = {
    "nothing": (NOTHING, NOTHING, []),
    "items come": (NOTHING, Look(status(catalogue=pb.CatalogueStatus(items=9))), []),
    "another model": (NOTHING, Look(status(7, "n")), ["generation 7 is live"]),
    "a merge": (NOTHING, Look(status(2, "m")), ["generation 2 is live, with the index merged"]),
    "a program dies": (
        Look(status(programs=[program(5)])),
        Look(status(programs=[program(0, activity="was killed by SIGKILL; is started again in 1 s")])),
        ["trainer was killed by SIGKILL; is started again in 1 s"],
    ),
    "it is back": (
        Look(status(programs=[program(0)])),
        Look(status(programs=[program(6, 1)])),
        ["trainer restarted"],
    ),
    "both in one": (
        Look(status(programs=[program(5)])),
        Look(status(programs=[program(6, 1)])),
        ["trainer restarted"],
    ),
    "a training begins": (
        NOTHING,
        Look(status(training=training("training")), records={4: record()}),
        ["stage 2: training began, 3 categories"],
    ),
    "it goes on": (
        Look(status(training=training("training")), records={4: record()}),
        Look(status(training=training("training", 9)), records={4: record()}),
        [],
    ),
    "another phase": (
        Look(status(training=training("training")), records={4: record()}),
        Look(status(training=training("exporting")), records={4: record()}),
        ["stage 2: exporting began"],
    ),
    "the backfill of the next stage": (
        Look(status(training=training("backfill"))),
        Look(status(training=training("backfill", stage=3))),
        ["stage 3: backfill began"],
    ),
    "a model is published": (
        Look(status(), records={4: record()}),
        Look(status(), records={4: record("published", "it passed")}),
        ["stage 2: training ended, published: it passed"],
    ),
    "a model is rejected": (
        Look(status(), records={4: record()}),
        Look(status(), records={4: record("rejected", "1 gate failed", (FELL,))}),
        [f"stage 2: gate old cohort 0 failed: {FELL.reason}", "stage 2: training ended, rejected: 1 gate failed"],
    ),
    "a whole training between two looks": (
        NOTHING,
        Look(status(), records={4: record("cancelled", "an operator asked")}),
        ["stage 2: training began, 3 categories", "stage 2: training ended, cancelled: an operator asked"],
    ),
    "a candidate": (
        NOTHING,
        Look(status(), {7: generation(pb.GENERATION_STATE_CANDIDATE)}),
        ["generation 7 is a candidate"],
    ),
    "a candidate that is held": (
        NOTHING,
        Look(status(), {7: generation(pb.GENERATION_STATE_READY)}),
        ["generation 7 is ready, and waits to be promoted"],
    ),
    "a candidate fails": (
        Look(status(), {7: generation(pb.GENERATION_STATE_CANDIDATE)}),
        Look(
            status(),
            {
                7: generation(
                    pb.GENERATION_STATE_REJECTED,
                    pb.Gate(name="parity", passed=True),
                    pb.Gate(name="old cohort 0", reason="it fell"),
                )
            },
        ),
        ["generation 7: gate old cohort 0 failed: it fell"],
    ),
    "a candidate goes live": (
        Look(status(), {7: generation(pb.GENERATION_STATE_CANDIDATE)}),
        Look(status(7, "n"), {7: generation(pb.GENERATION_STATE_LIVE)}),
        ["generation 7 is live"],
    ),
    "a swap fails": (
        NOTHING,
        Look(status(), swap_failure="the disk is full"),
        ["a candidate could not be made live, and is tried again: the disk is full"],
    ),
    "a rollback": (
        Look(status(7, "n"), {7: generation(pb.GENERATION_STATE_LIVE)}),
        Look(status(1, "m"), {7: generation(pb.GENERATION_STATE_PREVIOUS)}),
        ["generation 1 is live"],
    ),
}


@pytest.mark.parametrize(("before", "after", "events"), CASES.values(), ids=CASES)
def test_an_event_is_told_in_words(before: Look, after: Look, events: list[str]) -> None:
    assert happened(before, after) == events
    assert happened(after, after) == []


def test_only_what_is_being_learned_goes_on() -> None:
    began = status(training=training("training"))
    assert went_on(began, status(training=training("training", 9)))
    assert went_on(began, status())
    assert not went_on(began, status(7, training=training("training")))
