"""What was read from files, and is read again only when they have changed: for what is asked at every scrape."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_SETTLED_S: Final = 2.0  # a file system's clock is coarse: a second change may leave a file's time as the first did

Stamp = tuple[int, int, int] | None


class Remembered(Generic[T]):
    """`remembered()` is what `read` returns, which is called again when one of `paths` has changed.

    Of a folder that is: when an entry came or went, as they do when files are written aside and renamed. What lies
    deeper is not looked at. Costs one stat for each path. Thread-safe; what `read` raises is raised, and not kept.
    """

    def __init__(self, read: Callable[[], T], paths: Sequence[Path], clock: Callable[[], float] = time.time) -> None:
        self._read = read
        self._paths = paths
        self._clock = clock
        self._lock = threading.Lock()
        self._known: tuple[tuple[Stamp, ...], T] | None = None

    def __call__(self) -> T:
        with self._lock:
            stamps = tuple(_stamp(path) for path in self._paths)
            if self._known is not None and self._known[0] == stamps:
                return self._known[1]
            found = self._read()
            newest_s = max((stamp[0] for stamp in stamps if stamp is not None), default=0) / 1e9
            settled = self._clock() - newest_s > _SETTLED_S
            self._known = (stamps, found) if settled else None
            return found


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
