"""What has happened, in words, from what is seen of the server at two moments: for WatchStatus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from indexer.gates import Gate
from server.learning import Record
from server.wire import pb


@dataclass(frozen=True)
class Look:
    """What is seen at one moment."""

    status: pb.StatusResponse
    generations: Mapping[int, pb.Generation] = field(default_factory=dict)
    """By number, without those of models that have none."""
    records: Mapping[int, Record] = field(default_factory=dict)
    """The trainings by number."""
    swap_failure: str = ""
    """Why a candidate could not be made live, when that is to be tried again."""


def happened(before: Look, after: Look) -> list[str]:
    """The events between two looks, in the order in which they follow from one another."""
    return [
        *_programs(before.status, after.status),
        *_trainings(before.records, after.records),
        *_phase(before.status, after.status),
        *_candidates(before.generations, after.generations),
        *_swap(before, after),
    ]


def went_on(before: pb.StatusResponse, after: pb.StatusResponse) -> bool:
    """Whether what is being learned has got further."""
    return before.training != after.training


def _programs(before: pb.StatusResponse, after: pb.StatusResponse) -> Iterator[str]:
    known = {program.name: program for program in before.programs}
    for program in after.programs:
        last = known.get(program.name)
        if last is None:
            continue
        if program.restarts > last.restarts:
            yield f"{program.name} restarted"
        elif last.pid and not program.pid:
            yield f"{program.name} {program.activity}"


def _trainings(before: Mapping[int, Record], after: Mapping[int, Record]) -> Iterator[str]:
    for number, record in after.items():
        stage, last = record.training.stage, before.get(number)
        if last is None:
            yield f"stage {stage}: training began, {len(record.training.categories)} categories"
        if record.outcome is not None and (last is None or last.outcome is None):
            for gate in record.outcome.gates:
                if not gate.passed:
                    yield f"stage {stage}: {_failed(gate)}"
            yield f"stage {stage}: training ended, {record.outcome.state}: {record.outcome.reason}"


def _phase(before: pb.StatusResponse, after: pb.StatusResponse) -> Iterator[str]:
    last, now = before.training, after.training
    if now.phase and now.phase != "training" and (now.stage, now.phase) != (last.stage, last.phase):
        yield f"stage {now.stage}: {now.phase} began"


def _candidates(before: Mapping[int, pb.Generation], after: Mapping[int, pb.Generation]) -> Iterator[str]:
    for number, generation in after.items():
        last = before.get(number)
        if last is not None and last.state == generation.state:
            continue
        if generation.state == pb.GENERATION_STATE_CANDIDATE:
            yield f"generation {number} is a candidate"
        elif generation.state == pb.GENERATION_STATE_READY:
            yield f"generation {number} is ready, and waits to be promoted"
        elif generation.state == pb.GENERATION_STATE_REJECTED:
            for gate in generation.gates:
                if not gate.passed:
                    yield f"generation {number}: {_failed(gate)}"


def _swap(before: Look, after: Look) -> Iterator[str]:
    if after.swap_failure and after.swap_failure != before.swap_failure:
        yield f"a candidate could not be made live, and is tried again: {after.swap_failure}"
    last, now = before.status.generation, after.status.generation
    if now.number != last.number:
        merged = ", with the index merged" if now.model.id == last.model.id else ""
        yield f"generation {now.number} is live{merged}"


def _failed(gate: Gate | pb.Gate) -> str:
    return f"gate {gate.name} failed: {gate.reason}"
