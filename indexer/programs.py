"""What each of the three programs is doing, in a file that it keeps up to date for the others to show.

It is news, not a record: written aside and renamed, so that it is whole, but not fsynced; lost without harm.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from indexer.datadir import DataDir

_AT_MOST_EVERY_S: Final = 0.5
_RENEW_S: Final = 10.0  # between two signs of life


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
    alive_at: float = 0.0  # Unix seconds of the last sign of life; 0 of an older version, whose only one is `at`


class Reporter:
    """`say` keeps <data>/programs/<name>.json up to date; a full disk does not stop the work that is reported. There is
    one in a process, from its start.

    Inside `with reporter:` a thread renews `alive_at` of what was said last: a program that is busy for minutes with
    nothing new to say is not dead. Nothing is written after the block, which the program leaves before its lock.
    """

    def __init__(self, data: DataDir, name: str, clock: Callable[[], float] = time.time) -> None:
        self._path = data.programs / f"{name}.json"
        self._clock = clock
        self._started_at = clock()
        self._last: Activity | None = None
        self._lock = threading.Lock()  # of the file and `_last`
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._ended.clear()
        self._thread = threading.Thread(target=self._renew, name="alive", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def say(self, activity: Activity) -> None:
        """Writes at once when words or phase have changed or the phase is done, otherwise twice a second at most."""
        with self._lock:
            self._say(activity, self._clock())

    def _say(self, activity: Activity, now: float) -> None:
        last = self._last
        same = last is not None and (last.words, last.phase, last.stage) == (
            activity.words,
            activity.phase,
            activity.stage,
        )
        recent = last is not None and abs(now - last.at) < _AT_MOST_EVERY_S  # a clock that is set back hides nothing
        if same and recent and activity.done < activity.total:
            return
        self._write(replace(activity, pid=os.getpid(), at=now, started_at=self._started_at, alive_at=now))

    def _renew(self) -> None:
        while not self._ended.wait(_RENEW_S):
            with self._lock:
                if self._last is not None:
                    self._write(replace(self._last, alive_at=self._clock()))

    def _write(self, activity: Activity) -> None:
        self._last = activity
        aside = self._path.with_name(f".{self._path.name}")  # one name: what kills leave is written over
        with contextlib.suppress(OSError):
            aside.write_text(json.dumps(asdict(activity)), encoding="utf-8")
            aside.replace(self._path)


def read_activity(data: DataDir, name: str) -> Activity | None:
    """The last that a program said; None when it never did."""
    path: Path = data.programs / f"{name}.json"
    try:
        return Activity(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
