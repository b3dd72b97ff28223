"""Trainings, generations and gates, as the records on the disk have them."""

from __future__ import annotations

import contextlib
import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, get_args

from prometheus_client.core import Metric

from indexer import stages
from indexer.datadir import DataDir
from indexer.errors import Damaged
from indexer.gates import Gate
from indexer.generation import GenerationInfo, State, load_info, numbers, state_of, verdict_of
from server.learning import Learning
from server.remembered import Remembered
from server.watching.operator import counters, gauges

GATES: Final = (
    "export parity",
    "int8 recall",
    "old cohort",
    "new cohort",
    "cohort in the gallery",
    "floor",
    "index recall",
    "index items",
    "model",
    "loading",
)
"""The kinds of gates: their names without the number of a cohort."""
OTHER: Final = "other"


def kind_of(gate: str) -> str:
    """The kind of a gate, by its name."""
    kind = re.sub(r" \d+", "", gate)
    kind = "floor" if kind.startswith("floor") else kind
    return kind if kind in GATES else OTHER


@dataclass(frozen=True)
class Standing:
    """A generation that is on the disk."""

    info: GenerationInfo
    state: State
    verdict: tuple[Gate, ...]
    judged_at: float
    """Unix seconds of the verdict; 0 before it."""


class Records:
    """The reading. Of gates it counts each measurement once, of trainings and generations that came after `since`
    (Unix seconds): generations are removed in time, and a count must not go back."""

    def __init__(self, data: DataDir, learning: Learning, since: float) -> None:
        self._data = data
        self._learning = learning
        self._since = since
        self._standing = Remembered(self._read_generations, (data.generations, data.verdicts, data.live))
        self._lock = threading.Lock()
        self._counted: set[tuple[str, int]] = set()
        self._gates: Counter[tuple[str, ...]] = Counter(
            {(kind, result): 0 for kind in (*GATES, OTHER) for result in ("passed", "failed")}
        )

    def __call__(self) -> Iterator[Metric]:
        trainings = Counter(dict.fromkeys(get_args(stages.State), 0))
        standing = self._standing()
        with self._lock:
            for record in self._learning.records():
                if record.outcome is not None:
                    trainings[record.outcome.state] += 1
                    number, at = record.training.number, record.outcome.finished_at
                    self._count(("training", number), at, record.outcome.gates)
            for each in standing:
                self._count(("generation", each.info.number), each.info.created_at, each.info.gates)
                self._count(("verdict", each.info.number), each.judged_at, each.verdict)
            gates = dict(self._gates)
        text = "Gates measured of candidates, by kind."
        yield counters("everlook_gates", text, ("gate", "result"), gates)
        text = "Trainings that have ended, by what came of them; all that are on the disk."
        yield counters("everlook_trainings", text, ("outcome",), {(state,): n for state, n in trainings.items()})
        states = Counter({state.value: 0 for state in State})
        states.update(each.state.value for each in standing)
        yield gauges("everlook_generations", "Generations on the disk.", "state", states)

    def _count(self, key: tuple[str, int], at: float, gates: Iterable[Gate]) -> None:
        if at >= self._since and key not in self._counted:
            self._counted.add(key)
            self._gates.update((kind_of(gate.name), "passed" if gate.passed else "failed") for gate in gates)

    def _read_generations(self) -> list[Standing]:
        """Those that can be read."""
        found = []
        for number in numbers(self._data):
            with contextlib.suppress(Damaged, FileNotFoundError):
                info, path = load_info(self._data, number), self._data.verdict(number)
                judged_at = path.stat().st_mtime if path.exists() else 0.0
                verdict = verdict_of(self._data, number)
                found.append(Standing(info, state_of(self._data, info), verdict, judged_at))
        return found
