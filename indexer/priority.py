"""Work that gives way: the processor goes to it only when nobody else wants it."""

from __future__ import annotations

import contextlib
import os


def give_way() -> None:
    """Puts this process behind all others of the machine: the threads that it has, such as those that a library started
    when it was imported, and those that it starts from now on.

    Where the system has no idle class, or does not allow it, the process is merely nicer.
    """
    if hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            for thread in os.listdir("/proc/self/task"):
                with contextlib.suppress(ProcessLookupError):  # it has ended
                    os.sched_setscheduler(int(thread), os.SCHED_IDLE, os.sched_param(0))
            return
    with contextlib.suppress(OSError):
        os.nice(19)
