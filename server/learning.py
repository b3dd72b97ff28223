"""What the data directory says of learning: which trainings there have been, and what a model has learned.

Asked for every Status and every page of categories: what does not change any more is read once.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace

from indexer import stages
from indexer.datadir import DataDir
from indexer.errors import EverlookError
from indexer.gates import cohort_recall
from indexer.lineage import Lineage, load_lineage
from indexer.stages import Outcome, Training
from server.remembered import Remembered


@dataclass(frozen=True)
class Record:
    """A training, without its photos, and what came of it; None while it is under way."""

    training: Training
    outcome: Outcome | None


class Learning:
    """Reads and remembers. Thread-safe; its methods block on the disk."""

    def __init__(self, data: DataDir) -> None:
        self._data = data
        self._numbers = Remembered(lambda: stages.numbers(data), (data.stages,))
        self._lock = threading.Lock()
        self._records: dict[int, Record] = {}
        self._lineages: dict[str, tuple[Lineage, dict[str, int]]] = {}

    def lineage(self, model: str) -> Lineage:
        """What a published model has learned. Errors: ModelDamaged."""
        return self._lineage(model)[0]

    def cohort_of(self, model: str) -> Mapping[str, int]:
        """The stage that taught a published model each category that it has learned. Errors: ModelDamaged."""
        return self._lineage(model)[1]

    def _lineage(self, model: str) -> tuple[Lineage, dict[str, int]]:
        with self._lock:
            if model not in self._lineages:
                lineage = load_lineage(self._data.model(model))
                self._lineages[model] = lineage, lineage.cohort_of()
            return self._lineages[model]

    def records(self) -> list[Record]:
        """The trainings, ascending. What cannot be read is left out."""
        with self._lock:
            for number in self._numbers():
                known = self._records.get(number)
                if known is None or (known.outcome is None and stages.has_ended(self._data, number)):
                    with contextlib.suppress(EverlookError):
                        training, outcome = stages.load(self._data, number)
                        self._records[number] = Record(replace(training, photos=()), outcome)
            return [self._records[number] for number in sorted(self._records)]

    def running(self) -> Training | None:
        """The training that is under way."""
        under_way = [record.training for record in self.records() if record.outcome is None]
        return under_way[-1] if under_way else None

    def references(self) -> dict[int, float]:
        """Recall of each cohort when the last model that learned it as its newest was published, by the trainer."""
        found = {}
        for record in self.records():
            if record.outcome is not None and record.outcome.state == "published":
                measured = cohort_recall(record.outcome.gates).get(record.training.stage)
                if measured is not None:
                    found[record.training.stage] = measured.recall
        return found
