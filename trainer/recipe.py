"""How a training is done: everything that shapes its result, in the file that it keeps to from its first step on.

Without torch, so that a trainer that waits need not load it.
"""

from __future__ import annotations

import importlib.util
import json
import math
import pkgutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

from indexer.errors import EverlookError, InvalidField
from indexer.files import write_json
from indexer.gates import RecallLimits

SCHEDULE: Final = "schedule.json"  # its name in a training's folder

Precision = Literal["auto", "fp32", "int8"]

_FORMAT: Final = 1


@dataclass(frozen=True)
class Recipe:
    """What follows from it, the photos, the model that is taught and the number of the training: the same model."""

    first_method: str = "initial"  # of the first stage, when nothing is there to be kept
    method: str = "mutual"  # of the later ones
    steps: int | None = None  # None: as many as `budget_s` allows
    first_steps: int | None = None  # of the first stage; None: as of the others
    budget_s: float = 3600.0  # seconds of training
    learning_rate: float | None = None  # None: `rate_for` the number of steps
    weight_decay: float = 5e-4
    p: int = 16  # categories in a batch
    k: int = 5  # photos of each
    precision: Precision = "auto"
    seed: int = 0
    limits: RecallLimits = field(default_factory=RecallLimits)

    def __post_init__(self) -> None:
        for name in ("first_method", "method"):
            _check_method(name, getattr(self, name))
        for name, least in (("steps", 1), ("first_steps", 1), ("p", 2), ("k", 2), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise _refused(name, value, f"at least {least}")
        for name, value in (("budget_s", self.budget_s), ("learning_rate", self.learning_rate)):
            if value is not None and (not 0 < value < math.inf or (name == "learning_rate" and value >= 1)):
                raise _refused(name, value, "above 0" if name == "budget_s" else "between 0 and 1")
        if not 0 <= self.weight_decay < 1:
            raise _refused("weight_decay", self.weight_decay, "from 0 to less than 1")
        if self.precision not in get_args(Precision):
            raise _refused("precision", self.precision, " or ".join(get_args(Precision)))
        for name, share in asdict(self.limits).items():
            if not 0 <= share <= 1:
                raise _refused(name, share, "from 0 to 1")


def rate_for(steps: int) -> float:
    """The learning rate of Adam for so many steps: the papers' 1e-5 for their 5,000, for fewer as much more as leaves
    steps times rate the same, and at most 1e-4, with which the bench's short stages were learned (docs/learning.md).
    """
    return max(1e-5, min(1e-4, 1e-5 * 5000 / steps))


def keep(recipe: Recipe, folder: Path) -> None:
    """Writes it into a training's folder. Errors: OSError."""
    write_json(folder / SCHEDULE, {"format": _FORMAT, **asdict(recipe)})


def kept(folder: Path) -> Recipe | None:
    """The recipe that a training keeps to; None before its first step. Errors: EverlookError when it is unreadable."""
    path = folder / SCHEDULE
    if not path.exists():
        return None
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if raw.pop("format") != _FORMAT:
            raise ValueError("its format is unknown")
        return Recipe(**{**raw, "limits": RecallLimits(**raw["limits"])})
    except (ValueError, KeyError, TypeError) as error:
        raise EverlookError(f"{path} cannot be read: {error}", got=error) from error


def _check_method(field: str, spec: str) -> None:
    """Its name; what settings it has is known where it is imported."""
    package = importlib.util.find_spec("trainer.methods")  # without importing it
    folders = package.submodule_search_locations if package else None
    known = sorted(module.name for module in pkgutil.iter_modules(folders) if not module.name.startswith("_"))
    if spec.partition(":")[0] not in known:
        raise _refused(field, spec, f"one of {', '.join(known)}")


def _refused(field: str, got: object, expected: str) -> InvalidField:
    return InvalidField(f"{field} cannot be {got}: {expected}", field=field, got=got, expected=expected)
