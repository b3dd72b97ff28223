"""Publishing files whole: written aside, fsynced, renamed, the folder fsynced; never edited afterwards (promise 9).

| crash at this step             | found so at restart                                                          |
|--------------------------------|------------------------------------------------------------------------------|
| while writing the staging folder | `.staging-*`, which nobody reads; `sweep` removes it                        |
| after fsync, before the rename | the same                                                                     |
| after the rename, before the parent's fsync | either the whole folder or, after power loss, only the staging one |
| while `write_bytes` writes     | the old file, whole, and a `.staging-*` file                                 |
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

STAGING = ".staging-"  # how the names of what is unfinished begin


def fsync_path(path: Path) -> None:
    """Flushes a file or a folder to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def publish_folder(final: Path, check: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """Yields an empty staging folder beside `final`, and makes it `final` in one step when the block ends well.

    `check` is called when all is on the disk, just before that step.

    Errors: FileExistsError when `final` exists (what is published is never replaced). When the block or
    `check` raises, the staging folder is removed and `final` does not appear.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        raise FileExistsError(final)
    staging = Path(tempfile.mkdtemp(prefix=f"{STAGING}{final.name}-", dir=final.parent))
    try:
        yield staging
        for folder, _, names in os.walk(staging):
            for name in names:
                fsync_path(Path(folder, name))
            fsync_path(Path(folder))
        staging.chmod(0o755)
        check()
        os.rename(staging, final)  # fails when `final` has appeared meanwhile and is not empty
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    fsync_path(final.parent)


def write_json(path: Path, value: Any) -> None:
    """Replaces the JSON file at `path` in one step."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces the file at `path` in one step."""
    fd, staging = tempfile.mkstemp(prefix=f"{STAGING}{path.name}-", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), 0o644)  # mkstemp's is for secrets; the programs may run as different users
            os.fsync(file.fileno())
        os.replace(staging, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(staging)
        raise
    fsync_path(path.parent)


def sweep(folder: Path) -> list[Path]:
    """Removes what a killed process left unfinished in `folder`, while no other process publishes there."""
    left = sorted(folder.glob(f"{STAGING}*")) if folder.is_dir() else []
    for path in left:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return left


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
