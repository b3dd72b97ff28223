"""Gates: measured conditions that a candidate must meet before it is served (promise 7).

Recall is compared probe by probe, since both models answer the same probes. Of n probes let b be those that only the
served model finds and c those that only the candidate finds. The candidate's recall is (c - b) / n above the served
one's, with the standard error sqrt(b + c - (b - c)^2 / n) / n (McNemar's paired comparison, Psychometrika 12, 1947).

A gate fails when what it forbids is beyond sampling error (one-sided, 95 %): few probes can condemn nobody. Only that
the new cohort rises is asked of the measured change itself: without a gain there is no reason to serve another model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from indexer.errors import ModelDamaged
from indexer.recall import wilson

GATES: Final = "gates.json"

Z: Final = 1.645  # one-sided 95 %
_FORMAT: Final = 1


@dataclass(frozen=True)
class Gate:
    """One condition, and what was measured of it."""

    name: str
    passed: bool
    measured: float
    required: float
    reason: str  # in words, with the sizes of samples
    cohort: int | None = None  # of probe recall: whose
    probes: int = 0  # and by how many


@dataclass(frozen=True)
class CohortRecall:
    """Recall@1 of a cohort's probes."""

    recall: float
    probes: int


@dataclass(frozen=True)
class RecallLimits:
    """What is asked of a candidate's Recall@1 on probes; all are shares, 0 to 1."""

    most_drop: float = 0.02  # by so much an old cohort may fall below the served model
    least_rise: float = 0.0  # by more than this the new cohort must rise above it
    floor: float = 0.1  # below which no cohort may be


def recall_gates(
    served: Mapping[int, NDArray[np.bool_]],
    candidate: Mapping[int, NDArray[np.bool_]],
    new: int | None,
    limits: RecallLimits,
) -> list[Gate]:
    """The gates of probe recall, cohort by cohort.

    served, candidate  by cohort, which of its probes (n,) find their own category first; the same probes in the same
                       order. A cohort without probes has no gate, since nothing can be said of it
    new                the cohort that the candidate has just learned, which must rise; None when that was measured
                       before, and what is asked is whether the gallery as it will be served keeps all of them
    """
    gates = []
    for cohort in sorted(candidate):
        before, after = served[cohort], candidate[cohort]
        if len(after):
            if cohort == new:
                gates.append(_rise(cohort, before, after, limits))
            else:
                name = f"cohort {cohort} in the gallery" if new is None else f"old cohort {cohort}"
                gates.append(_kept(name, cohort, before, after, limits))
            gates.append(_above_floor(cohort, after, limits))
    return gates


def passed(gates: Iterable[Gate]) -> bool:
    """Whether all of them were met."""
    return all(gate.passed for gate in gates)


def failures(gates: Iterable[Gate]) -> str:
    """Those that were not met, in words."""
    return "; ".join(f"{gate.name}: {gate.reason}" for gate in gates if not gate.passed)


def cohort_recall(gates: Iterable[Gate]) -> dict[int, CohortRecall]:
    """Recall by cohort as gates have measured it, ascending; of two measurements the later."""
    found = {
        gate.cohort: CohortRecall(gate.measured, gate.probes)
        for gate in gates
        if gate.cohort is not None and gate.name == _floor(gate.cohort)
    }
    return dict(sorted(found.items()))


def to_json(gates: Sequence[Gate]) -> dict[str, Any]:
    """The content of a file of gates."""
    return {"format": _FORMAT, "gates": [asdict(gate) for gate in gates]}


def from_json(raw: Any) -> tuple[Gate, ...]:
    """Reads what `to_json` made. Errors: ValueError, KeyError, TypeError."""
    if raw["format"] != _FORMAT:
        raise ValueError(f"its format is {raw['format']}, not {_FORMAT}")
    return tuple(
        Gate(
            str(g["name"]),
            bool(g["passed"]),
            float(g["measured"]),
            float(g["required"]),
            str(g["reason"]),
            None if g["cohort"] is None else int(g["cohort"]),
            int(g["probes"]),
        )
        for g in raw["gates"]
    )


def load_gates(model: Path) -> tuple[Gate, ...]:
    """The trainer's gates of the model published in a folder; none for model 0. Errors: ModelDamaged."""
    path = model / GATES
    if not path.exists():
        return ()
    try:
        return from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelDamaged(f"{path} cannot be read: {error}", got=error, expected="a model's gates") from error


def _kept(name: str, cohort: int, before: NDArray[np.bool_], after: NDArray[np.bool_], limits: RecallLimits) -> Gate:
    change, error = paired_change(before, after)
    beyond = change + Z * error < -limits.most_drop
    sentence = _sentence(cohort, before, after, error, "fell by more than is allowed" if beyond else "is kept")
    return Gate(name, not beyond, change, -limits.most_drop, sentence, cohort, len(after))


def _rise(cohort: int, before: NDArray[np.bool_], after: NDArray[np.bool_], limits: RecallLimits) -> Gate:
    change, error = paired_change(before, after)
    rises = change > limits.least_rise or (bool(after.all()) and change >= 0)  # above all there is no more
    sentence = _sentence(cohort, before, after, error, "rose" if rises else "did not rise")
    return Gate(f"new cohort {cohort}", rises, change, limits.least_rise, sentence, cohort, len(after))


def _above_floor(cohort: int, after: NDArray[np.bool_], limits: RecallLimits) -> Gate:
    recall = float(after.mean())
    _, high = wilson(int(after.sum()), len(after), Z)
    words = "is below" if high < limits.floor else "is not below"
    reason = f"Recall@1 of cohort {cohort} {words} the floor: {recall:.3f} of {len(after)} probes, at most {high:.3f}"
    return Gate(_floor(cohort), high >= limits.floor, recall, limits.floor, reason, cohort, len(after))


def _floor(cohort: int) -> str:
    return f"floor of cohort {cohort}"


def paired_change(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> tuple[float, float]:
    """The change of recall from one model to another, (n,) each, and its standard error; n is not 0."""
    n = len(after)
    lost, won = int(np.sum(before & ~after)), int(np.sum(after & ~before))
    return (won - lost) / n, math.sqrt(max(0.0, lost + won - (won - lost) ** 2 / n)) / n


def _sentence(cohort: int, before: NDArray[np.bool_], after: NDArray[np.bool_], error: float, words: str) -> str:
    return (
        f"Recall@1 of cohort {cohort} {words}: {before.mean():.3f} to {after.mean():.3f}, {len(after)} probes,"
        f" standard error of the change {error:.3f}"
    )
