"""What a model has learned, and from which model it was taught: a file in its folder, covered by its manifest."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from indexer.errors import ModelDamaged

LINEAGE: Final = "lineage.json"

_FORMAT: Final = 1


@dataclass(frozen=True)
class Lineage:
    """Model 0 has no such file, and the lineage `Lineage()`."""

    base: str = ""  # id of the model that was served when its training began
    training: int = 0  # number of the training that it came of
    cohorts: tuple[tuple[str, ...], ...] = ()  # the categories of each stage that it has learned, in their order

    def cohort_of(self) -> dict[str, int]:
        """The stage that taught each category."""
        return {category: stage for stage, categories in enumerate(self.cohorts) for category in categories}

    def to_json(self) -> str:
        """The content of its file."""
        content = {"format": _FORMAT, "base": self.base, "training": self.training, "cohorts": self.cohorts}
        return json.dumps(content, ensure_ascii=False) + "\n"


def load_lineage(model: Path) -> Lineage:
    """The lineage of the model published in a folder. Errors: ModelDamaged when its file is none."""
    path = model / LINEAGE
    if not path.exists():
        return Lineage()
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if raw["format"] != _FORMAT:
            raise ValueError(f"its format is {raw['format']}, not {_FORMAT}")
        if not all(isinstance(stage, list) for stage in raw["cohorts"]):
            raise ValueError("a cohort is a list of categories")
        cohorts = tuple(tuple(str(category) for category in stage) for stage in raw["cohorts"])
        return Lineage(str(raw["base"]), int(raw["training"]), cohorts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelDamaged(f"{path} cannot be read: {error}", got=error, expected="a model's lineage") from error
