"""What each of the three programs is doing, in a file that it keeps up to date for the others to show.

It is news, not a record: written aside and renamed, so that it is whole, but not fsynced; lost without harm.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from indexer.datadir import DataDir

_AT_MOST_EVERY_S = 0.5


@dataclass(frozen=True)
class Activity:
    """What a program is doing."""

    words: str  # in a few words, for people
    phase: str = ""  # "training", "exporting", "gates", "backfill" or "index"; empty when it waits
    stage: int = 0  # the stage that it works on, while there is a phase
    categories: int = 0  # in that stage
    done: int = 0  # of the phase: steps, or photos
    total: int = 0
    remaining_s: float = 0.0  # until the phase ends, estimated
    loss: float | None = None  # of the last step of training
    losses: dict[str, float] = field(default_factory=dict)  # the weighted terms that it is the sum of, by name
    ripe: int = 0  # categories that could be taught now, of the trainer while it teaches nothing
    ripe_since: float = 0.0  # Unix seconds, while there are some
    pid: int = 0
    at: float = 0.0  # Unix seconds when it was written
    started_at: float = 0.0  # Unix seconds when the process began to say what it does


class Reporter:
    """`say` keeps <data>/programs/<name>.json up to date; a full disk does not stop the work that is reported. There is
    one in a process, from its start."""

    def __init__(self, data: DataDir, name: str, clock: Callable[[], float] = time.time) -> None:
        self._path = data.programs / f"{name}.json"
        self._clock = clock
        self._started_at = clock()
        self._last: Activity | None = None

    def say(self, activity: Activity) -> None:
        """Writes at once when words or phase have changed or the phase is done, otherwise twice a second at most."""
        now, last = self._clock(), self._last
        same = last is not None and (last.words, last.phase, last.stage) == (
            activity.words,
            activity.phase,
            activity.stage,
        )
        recent = last is not None and abs(now - last.at) < _AT_MOST_EVERY_S  # a clock that is set back hides nothing
        if same and recent and activity.done < activity.total:
            return
        self._last = replace(activity, pid=os.getpid(), at=now, started_at=self._started_at)
        aside = self._path.with_name(f".{self._path.name}")  # one name: what kills leave is written over
        with contextlib.suppress(OSError):
            aside.write_text(json.dumps(asdict(self._last)), encoding="utf-8")
            aside.replace(self._path)


def read_activity(data: DataDir, name: str) -> Activity | None:
    """The last that a program said; None when it never did."""
    path: Path = data.programs / f"{name}.json"
    try:
        return Activity(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
