"""Work beside queries: a little at a time, with pauses.

Pauses, not a low priority: a thread of the idle class that holds Python's lock would have every query wait until the
processor comes back to it. What counts is the thread's own processor time: on a machine that stood still for a minute
nothing was worked. Not counted is what a GPU's owner thread (`indexer.index.gpu`) does while this one waits for it: one
search of at most sixteen probes (`server.watching.probes`) between two pauses, which is all that a batch of live
queries can wait for there on a watch's account.
"""

from __future__ import annotations

import threading
import time

SHARE = 0.03  # of one core; there are two such threads


class Stopped(Exception):
    """The watch is asked to end."""


class Pace:
    """Lets a thread work for at most `share` of the time, and ends its work when it is to stop."""

    def __init__(self, share: float = SHARE) -> None:
        self._share = share
        self._stop = threading.Event()
        self._since = 0.0

    def begin(self) -> None:
        """Work begins here. For the thread that works, as is `rest`."""
        self._since = time.thread_time()

    def rest(self) -> None:
        """Pauses for as long as what was done since the last pause demands. Errors: Stopped."""
        worked = time.thread_time() - self._since
        if self._stop.wait(worked * (1 - self._share) / self._share):
            raise Stopped
        self._since = time.thread_time()

    def stop(self) -> None:
        """Ends the pause that is under way, and every later one. From any thread."""
        self._stop.set()
