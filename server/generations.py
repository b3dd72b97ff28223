"""The generations on disk, with their gates: for Status and ListGenerations. Reads only; blocks on the disk."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from indexer.datadir import DataDir
from indexer.errors import Damaged
from indexer.gates import Gate, cohort_recall, load_gates, passed
from indexer.generation import GenerationInfo, State, gates_of, load_info, numbers, state_of
from indexer.lineage import load_lineage
from indexer.model import load_manifest
from server import wire
from server.wire import pb

References = Callable[[str], Mapping[int, float]]
"""Of a model's id, the recall of each cohort when its stage went live. Errors: Damaged."""

_STATES = {
    State.CANDIDATE: pb.GENERATION_STATE_CANDIDATE,
    State.LIVE: pb.GENERATION_STATE_LIVE,
    State.PREVIOUS: pb.GENERATION_STATE_PREVIOUS,
    State.REJECTED: pb.GENERATION_STATE_REJECTED,
}


def listed(data: DataDir, references: References, *, hold: bool) -> list[pb.Generation]:
    """All that can be read, and the models that were rejected before they had one, newest first.

    With `hold` a candidate is READY: it waits for `Promote`.
    """
    infos = list(_infos(data))
    found = [*_of_infos(data, infos, references, hold=hold), *_rejected_models(data, infos, references)]
    return sorted(found, key=lambda each: (each.created_at.ToNanoseconds(), each.number), reverse=True)


def add_gates(message: pb.Generation, gates: Sequence[Gate], references: Mapping[int, float]) -> None:
    """Adds gates, and the recall that they measured, to a generation's message."""
    message.gates.extend(wire.gate(gate) for gate in gates)
    for cohort, measured in cohort_recall(gates).items():
        message.recall.add(
            cohort=cohort,
            recall_at_1=measured.recall,
            probes=measured.probes,
            reference=references.get(cohort, measured.recall),
        )


def _infos(data: DataDir) -> Iterator[GenerationInfo]:
    for number in numbers(data):
        with contextlib.suppress(Damaged):
            yield load_info(data, number)


def _of_infos(
    data: DataDir, infos: Sequence[GenerationInfo], references: References, *, hold: bool
) -> Iterator[pb.Generation]:
    for info in infos:
        with contextlib.suppress(Damaged):
            state = state_of(data, info)
            message = pb.Generation(
                number=info.number,
                model=wire.model(load_manifest(data.model(info.model), verify=False)),
                state=pb.GENERATION_STATE_READY if hold and state is State.CANDIDATE else _STATES[state],
                created_at=wire.timestamp(info.created_at),
                seq=info.seq,
            )
            add_gates(message, gates_of(data, info), references(info.model))
            yield message


def _rejected_models(data: DataDir, infos: Sequence[GenerationInfo], references: References) -> Iterator[pb.Generation]:
    """Models without a generation that never get one: they failed a gate, or cannot be read."""
    made = {data.model(info.model).name for info in infos}
    for folder in data.model_folders():
        if folder.name in made:
            continue
        try:
            manifest, gates = load_manifest(folder, verify=False), load_gates(folder)
            load_lineage(folder)
        except Damaged as error:
            with contextlib.suppress(FileNotFoundError):  # housekeeping has removed it meanwhile
                yield _unreadable(folder, error)
            continue
        if not passed(gates):
            message = pb.Generation(
                model=wire.model(manifest),
                state=pb.GENERATION_STATE_REJECTED,
                created_at=wire.timestamp(manifest.created_at),
            )
            with contextlib.suppress(Damaged):
                add_gates(message, gates, references(manifest.id))
            yield message


def _unreadable(folder: Path, error: Damaged) -> pb.Generation:
    """A published model that is damaged: nobody ever makes a generation of it, and this says why."""
    return pb.Generation(
        model=pb.Model(id=folder.name),  # its first digits: the rest is in what cannot be read
        state=pb.GENERATION_STATE_REJECTED,
        created_at=wire.timestamp(folder.stat().st_mtime),
        gates=[wire.gate(Gate("loading", False, 0.0, 1.0, error.message))],
    )
