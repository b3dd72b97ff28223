"""What a benchmark's figures were measured on, and where they are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.bench import machine

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("torch", "onnxruntime", "faiss-cpu", "grpcio", "numpy", "pillow", "sqlalchemy")


def describe() -> dict[str, Any]:
    """Processor, cores, system and package versions."""
    return machine.describe(_PACKAGES)


def store(name: str, figures: Mapping[str, Any]) -> Path:
    """Writes results/<name>.json with the machine's description beside the figures."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": describe(), **figures}, indent=2) + "\n", encoding="utf-8")
    return path
