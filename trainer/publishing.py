"""The right to publish models in a folder: one process at a time, so that what killed ones left can be swept."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from indexer.files import sweep


@contextlib.contextmanager
def publishing(models: Path) -> Iterator[None]:
    """Holds it, until the block or the process ends. What others left unfinished is gone then. Errors: OSError."""
    models.mkdir(parents=True, exist_ok=True)
    fd = os.open(models, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        sweep(models)
        yield
    finally:
        os.close(fd)
