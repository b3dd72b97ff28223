"""A program that a server has started ends with it; one that was started by hand does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from indexer.parent import SUPERVISED
from tests.conftest import ROOT

_WAIT_S = 20.0

_PROGRAM = """
import os, signal, sys, time
from indexer.parent import end_with_parent
if sys.argv[1] == "polite":
    grace_s = 60.0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
else:
    grace_s = 0.05
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
end_with_parent(os.environ, grace_s=grace_s)
print("ready", flush=True)
time.sleep(60)
"""


def start(manner: str, stdin: int, **environment: str) -> subprocess.Popen[str]:
    program = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, manner],
        stdin=stdin,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment},
        text=True,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    return program


@pytest.mark.parametrize(("manner", "status"), [("polite", 7), ("deaf", 1)])
def test_a_program_stops_when_its_server_is_gone_and_ends_when_it_does_not_stop(manner: str, status: int) -> None:
    with start(manner, subprocess.PIPE, **{SUPERVISED: "1"}) as program:
        assert program.poll() is None
        assert program.stdin is not None
        program.stdin.close()
        assert program.wait(_WAIT_S) == status


def test_a_program_that_was_started_by_hand_outlives_its_input(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with (tmp_path / "empty").open() as empty, start("polite", empty.fileno()) as program:
        with pytest.raises(subprocess.TimeoutExpired):
            program.wait(0.3)
        program.kill()
