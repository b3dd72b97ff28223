"""Faults of the machine, such as memory that is short: how often a training has met one without getting on.

    stages/<n>/attempts.json  the count, and the checkpoint that was there

| crash at this step        | found so at restart                                                            |
|---------------------------|--------------------------------------------------------------------------------|
| before attempts.json      | the count before: that attempt is not counted                                  |
| while it is written       | the same, and a `.staging-*` file, which is removed before the next step       |
| after it                  | the new count                                                                  |
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import torch

from indexer import stages
from indexer.files import write_json

MOST: Final = 3

_FILE: Final = "attempts.json"
_KINDS: Final = (MemoryError, torch.OutOfMemoryError, torch.AcceleratorError)
_WORDS: Final = ("CUDA", "cuDNN", "CUBLAS", "can't allocate memory", "Failed to allocate", "can't start new thread")


def of_the_machine(error: BaseException) -> bool:
    """Whether another process, or another hour, may do better: memory, threads, a GPU. Many share their type."""
    return isinstance(error, _KINDS) or (type(error) is RuntimeError and any(word in str(error) for word in _WORDS))


def count(folder: Path) -> int:
    """Counts one more attempt of the training in this folder, and returns how many there were in a row with the same
    checkpoint, this one included. Errors: OSError.
    """
    path, checkpoint = folder / _FILE, folder / stages.CHECKPOINT
    reached = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    before = 0
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        before = int(raw["count"]) if raw["checkpoint_ns"] == reached else 0
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    write_json(path, {"checkpoint_ns": reached, "count": before + 1})
    return before + 1
