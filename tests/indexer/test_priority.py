"""Work that gives way, in processes of its own: each thread, and the session."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from indexer.priority import set_session_niceness
from tests.conftest import ROOT

_THREADED = """
import contextlib, os, threading
from indexer.priority import give_way
if hasattr(os, "SCHED_OTHER"):
    with contextlib.suppress(PermissionError):  # tests may be run in the idle class themselves
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
threading.Thread(target=threading.Event().wait, daemon=True).start()
give_way()
threading.Thread(target=threading.Event().wait, daemon=True).start()
print("ready", flush=True)
input()
"""
_CHILD = """
import subprocess, sys
subprocess.run([sys.executable, "-c", "from indexer.priority import give_way; give_way()"], check=True)
print("ready", flush=True)
input()
"""

needs_sessions = pytest.mark.skipif(
    not Path("/proc/self/autogroup").exists(), reason="this system shares the processor out without asking for sessions"
)


def start(code: str) -> subprocess.Popen[str]:
    """A process that leads a session of its own, once it is ready; it ends with its input."""
    program = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        start_new_session=True,
        text=True,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    return program


def niceness_of_session(pid: int) -> int:
    return int(Path(f"/proc/{pid}/autogroup").read_text().split(" nice ")[1])


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="this system has no idle class")
def test_all_threads_give_way_those_from_before_and_those_that_come() -> None:
    with start(_THREADED) as program:
        threads = os.listdir(f"/proc/{program.pid}/task")
        assert len(threads) == 3
        assert {os.sched_getscheduler(int(thread)) for thread in threads} == {os.SCHED_IDLE}
        program.kill()


@needs_sessions
def test_the_session_that_a_process_leads_gives_way_beside_other_sessions() -> None:
    with start(_THREADED) as program:
        assert niceness_of_session(program.pid) == 19
        program.kill()


@needs_sessions
def test_the_session_of_others_such_as_a_terminals_does_not() -> None:
    with start(_CHILD) as program:
        assert niceness_of_session(program.pid) == 0
        program.kill()


@needs_sessions
def test_the_same_niceness_can_be_set_from_outside_and_of_what_is_gone_is_nothing_to_set() -> None:
    with start(_THREADED) as program:
        set_session_niceness(program.pid, 7)
        assert niceness_of_session(program.pid) == 7
        program.kill()
    set_session_niceness(program.pid, 0)
