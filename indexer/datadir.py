"""The data directory, where the three programs meet.

<data>/lock              held by the one server that writes here; trainer.lock and indexer.lock by theirs
<data>/catalogue.db      items, photos and vectors (SQLite; absent when a database URL is set)
<data>/stages/<n>/       what each training was given, and what came of it, by number
<data>/models/<id>/      published models, by the first 16 digits of their id
<data>/generations/<n>/  published generations, by number
<data>/generations/last.json the last number that was given to one
<data>/verdicts/<n>.json what the server measured of a generation before it was to go live
<data>/live.json         which generation is live, and which have been
<data>/requests/         what an operator asks of the trainer
<data>/programs/         what each program is doing
<data>/watching/         the live queries that came first after each model went live, which later ones are compared with
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from indexer.errors import NotServing


@dataclass(frozen=True)
class DataDir:
    """Paths below one data directory."""

    root: Path

    @property
    def catalogue_url(self) -> str:
        return f"sqlite:///{self.root / 'catalogue.db'}"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def generations(self) -> Path:
        return self.root / "generations"

    @property
    def last_generation(self) -> Path:
        return self.generations / "last.json"

    @property
    def live(self) -> Path:
        return self.root / "live.json"

    @property
    def stages(self) -> Path:
        return self.root / "stages"

    @property
    def verdicts(self) -> Path:
        return self.root / "verdicts"

    @property
    def requests(self) -> Path:
        return self.root / "requests"

    @property
    def programs(self) -> Path:
        return self.root / "programs"

    @property
    def watching(self) -> Path:
        return self.root / "watching"

    def model_folders(self) -> list[Path]:
        """Those of published models, by name; not what is still being written, or removed."""
        found = self.models.iterdir() if self.models.is_dir() else ()
        return sorted(path for path in found if not path.name.startswith("."))

    def model(self, model_id: str) -> Path:
        return self.models / model_id[:16]

    def generation(self, number: int) -> Path:
        return self.generations / f"{number:08d}"

    def stage(self, number: int) -> Path:
        return self.stages / f"{number:08d}"

    def verdict(self, number: int) -> Path:
        return self.verdicts / f"{number:08d}.json"

    def create(self) -> None:
        """Makes the folders that are missing."""
        for folder in (
            self.models,
            self.generations,
            self.stages,
            self.verdicts,
            self.requests,
            self.programs,
            self.watching,
        ):
            folder.mkdir(parents=True, exist_ok=True)


@dataclass
class Lock:
    """`with Lock(data):` holds the directory for one process of its kind. The kernel releases it when that dies."""

    data: DataDir
    name: str = "lock"
    _fd: int = field(default=-1, init=False)

    def __enter__(self) -> Self:
        """Errors: NotServing when another process holds it."""
        self.data.root.mkdir(parents=True, exist_ok=True)
        fd = os.open(self.data.root / self.name, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip()
            os.close(fd)
            raise NotServing(
                f"{self.data.root} is in use by process {holder or 'unknown'} ({self.name}); stop it first, or choose"
                " another folder"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)
        self._fd = -1
