"""Ending with the server that started this program, however that has ended.

`everlook serve` gives each program that it starts a pipe as standard input, into which nothing is ever written. Only
the server holds the other end, and the kernel closes that when the server dies, of kill -9 too. A program that was
started by hand has no such pipe, and lives until it is stopped.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from typing import Final

log = logging.getLogger(__name__)

SUPERVISED: Final = "EVERLOOK_SUPERVISED"
"""The environment variable by which the server says that standard input is its pipe."""

_GRACE_S: Final = 10.0


def end_with_parent(environment: Mapping[str, str], *, grace_s: float = _GRACE_S) -> None:
    """Once the server is gone, sends this process SIGTERM, as for every other stop; `grace_s` later it ends at once.

    Does nothing for a program that no server has started. For the start of `main`, with `os.environ`.
    """
    if environment.get(SUPERVISED):
        pipe = sys.stdin.fileno()
        threading.Thread(target=_watch, args=(pipe, grace_s), name="parent", daemon=True).start()


def _watch(pipe: int, grace_s: float) -> None:
    while os.read(pipe, 1):
        pass
    log.warning("the server that started this program is gone; stopping")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace_s)
    os._exit(1)
