"""Work that gives way: the processor goes to it only when nobody else wants it."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Final

_LEAST: Final = 19  # of niceness's scale
_PAUSE_S: Final = 0.05
_TRIES: Final = 20


def give_way() -> None:
    """Puts this process behind all others of the machine: the threads that it has, such as those that a library started
    when it was imported, and those that it starts from now on; and its session, as `session_gives_way`.

    Where the system has no idle class, or does not allow it, the process is merely nicer.
    """
    session_gives_way()
    if hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            for thread in os.listdir("/proc/self/task"):
                with contextlib.suppress(ProcessLookupError):  # it has ended
                    os.sched_setscheduler(int(thread), os.SCHED_IDLE, os.sched_param(0))
            return
    with contextlib.suppress(OSError):
        os.nice(_LEAST)


def session_gives_way() -> None:
    """Has the session that this process leads take the least share of the processor, beside other sessions.

    Linux shares it out between sessions first, each with the same weight, and only then between the threads of one, so
    that one of the idle class still gets half of a processor where another session is busy (sched(7), "The autogroup
    feature"). Does nothing where this process leads none, such as in a terminal, whose other programs it would slow
    down, and where the system has no such groups; control groups, where they are used, stand above them.
    """
    set_session_niceness(os.getpid(), _LEAST)


def set_session_niceness(pid: int, niceness: int) -> None:
    """Sets that of the session that a process leads, -20 to 19; nothing for any other process, and where the system
    does not allow it. May block for a second: Linux takes one such change in a tenth of a second, whoever makes it."""
    group = Path(f"/proc/{pid}/autogroup")
    with contextlib.suppress(OSError):
        if os.getsid(pid) != pid:
            return
        for _ in range(_TRIES):
            try:
                group.write_text(str(niceness), encoding="ascii")
            except BlockingIOError:
                time.sleep(_PAUSE_S)
            else:
                return
