"""Work that gives way: the processor goes to it only when nobody else wants it."""

from __future__ import annotations

import contextlib
import os


def give_way() -> None:
    """Puts this process, and the threads that it starts from now on, behind all others of the machine.

    Where the system has no idle class, or does not allow it, the process is merely nicer.
    """
    if hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            return
    with contextlib.suppress(OSError):
        os.nice(19)
