"""Trainings, models and generations on the disk, as the trainer and the indexer leave them there."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence

import numpy as np

from indexer.datadir import DataDir
from indexer.gates import Gate, RecallLimits, recall_gates
from indexer.lineage import Lineage
from indexer.model import Manifest
from indexer.stages import Outcome, State, Training, end
from tests.indexer.tiny_model import write_tiny_model


def measured(new: int, recalls: Mapping[int, tuple[int, int]], before: int = 0) -> list[Gate]:
    """The gates of cohorts of which so many of so many probes are found, where the served model finds `before`."""

    def found(count: int, probes: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        return np.arange(probes) < count

    return recall_gates(
        {cohort: found(before, probes) for cohort, (_, probes) in recalls.items()},
        {cohort: found(count, probes) for cohort, (count, probes) in recalls.items()},
        new,
        RecallLimits(),
    )


def begun(
    data: DataDir, number: int, categories: Sequence[str], *, stage: int = 0, request: str = "", base: str = "base"
) -> Training:
    """A training that is under way."""
    training = Training(number, stage, base, tuple(categories), (("5ha", 0),), 9, "ripe", request, time.time())
    folder = data.stage(number)
    folder.mkdir(parents=True)
    (folder / "stage.json").write_text(json.dumps({"format": 1, **vars(training)}), encoding="utf-8")
    return training


def ended(
    data: DataDir, training: Training, state: State, reason: str = "so it is", gates: Sequence[Gate] = ()
) -> None:
    """What came of it."""
    end(data, training, Outcome(state, reason, gates=tuple(gates)))


def model_of(data: DataDir, seed: int, base: str, *cohorts: Sequence[str], gates: Sequence[Gate] = ()) -> Manifest:
    """A model that was taught from another one."""
    lineage = Lineage(base, 1, tuple(tuple(cohort) for cohort in cohorts))
    return write_tiny_model(data.models, seed=seed, lineage=lineage, gates=gates)
