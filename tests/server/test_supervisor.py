"""The programs beside the server: started, started again, stopped in their order, and gone when the server is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from indexer.priority import set_session_niceness
from server.supervisor import Patience, Supervisor, commands, environment, hurry
from tests.conftest import ROOT
from tests.server.running import settings_of, until

AUTOGROUP = Path("/proc/self/autogroup")
HASTY = Patience(first_s=0.01, most_s=0.02, grace_s=0.2)
PATIENT = Patience(grace_s=20.0)


def shell(text: str) -> list[str]:
    return ["/bin/sh", "-c", text]


def waiting(name: str, log: Path) -> list[str]:
    """A program that says when it is stopped."""
    file = shlex.quote(str(log))
    return shell(f"trap 'echo {name} >> {file}; exit 0' TERM; echo up >> {file}; while :; do sleep 0.02; done")


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_a_program_that_dies_is_started_again_and_counted(tmp_path: Path) -> None:
    restarted: list[str] = []

    async def run() -> None:
        command = shell(f"echo up >> {shlex.quote(str(tmp_path / 'log'))}; exit 3")
        async with Supervisor({"trainer": command}, restarted.append, HASTY) as programs:
            await until(lambda: len(restarted) >= 2)
            await until(lambda: programs.children["trainer"].pid == 0)
            assert programs.children["trainer"].restarts >= 2
            assert programs.children["trainer"].last == "has ended with status 3"

    asyncio.run(run())
    assert set(restarted) == {"trainer"}
    assert len(lines(tmp_path / "log")) >= 2


def test_a_program_that_was_killed_is_started_again_with_another_process() -> None:
    async def run() -> None:
        async with Supervisor({"indexer": ["sleep", "60"]}, lambda name: None, HASTY) as programs:
            child = programs.children["indexer"]
            await until(lambda: child.pid != 0)
            first = child.pid
            os.kill(first, signal.SIGKILL)
            await until(lambda: child.pid not in (0, first))
            assert child.last == "was killed by SIGKILL"
            second = child.pid
        assert gone(second)

    asyncio.run(run())


def test_who_dies_soon_waits_twice_as_long_each_time_up_to_a_minute() -> None:
    assert [Patience().pause_s(deaths) for deaths in (1, 2, 3, 6, 7, 8, 5000)] == [1, 2, 4, 32, 60, 60, 60]


def test_who_has_run_well_waits_no_longer_than_after_the_first_death(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[int] = []

    def noted(self: Patience, deaths: int) -> float:
        pauses.append(deaths)
        return 0.001

    monkeypatch.setattr(Patience, "pause_s", noted)

    async def run(well_s: float) -> None:
        async with Supervisor({"indexer": ["true"]}, lambda name: None, Patience(well_s=well_s)):
            await until(lambda: len(pauses) >= 3)

    asyncio.run(run(well_s=60.0))
    assert pauses[:3] == [1, 2, 3]
    pauses.clear()
    asyncio.run(run(well_s=0.0))
    assert set(pauses) == {1}


def test_a_program_that_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    async def run() -> None:
        async with Supervisor({"indexer": [str(tmp_path / "missing")]}, lambda name: None, HASTY) as programs:
            child = programs.children["indexer"]
            await until(lambda: child.restarts >= 2)
            assert child.last.startswith("cannot be started: ")
            assert child.pid == 0

    asyncio.run(run())


@pytest.mark.parametrize("missing", ["os.pipe", "threading.Thread.start"])
def test_where_no_file_or_thread_is_to_be_had_it_is_tried_again(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with Supervisor({"trainer": waiting("trainer", tmp_path / "log")}, lambda name: None, HASTY) as programs:
            child = programs.children["trainer"]
            await until(lambda: child.pid > 0)
            with monkeypatch.context() as patched:

                def refuse(*_: object) -> None:
                    raise {"os.pipe": OSError, "threading.Thread.start": RuntimeError}[missing]("there are too many")

                patched.setattr(f"server.supervisor.{missing}", refuse)
                os.kill(child.pid, signal.SIGKILL)
                await until(lambda: "too many" in child.last)
            await until(lambda: child.pid > 0)

    asyncio.run(run())


def test_the_programs_are_stopped_one_after_the_other_in_their_order(tmp_path: Path) -> None:
    log = tmp_path / "log"

    async def run() -> None:
        programs = {name: waiting(name, log) for name in ("trainer", "indexer")}
        async with Supervisor(programs, lambda name: None, PATIENT):
            await until(lambda: lines(log) == ["up", "up"])

    asyncio.run(run())
    assert lines(log) == ["up", "up", "trainer", "indexer"]


def test_a_program_that_does_not_stop_is_killed_with_all_that_it_has_started(tmp_path: Path) -> None:
    pid = tmp_path / "pid"

    async def run() -> None:
        command = shell(f"trap '' TERM; sleep 60 & echo $! > {shlex.quote(str(pid))}; wait; wait")
        async with Supervisor({"trainer": command}, lambda name: None, HASTY) as programs:
            await until(lambda: bool(lines(pid)))
            started = programs.children["trainer"].pid
        assert gone(started)

    asyncio.run(run())
    assert gone(int(lines(pid)[0]))


def test_a_program_that_is_to_stop_does_not_have_to_give_way() -> None:
    with subprocess.Popen(["sleep", "60"]) as program:
        try:
            try:
                os.sched_setscheduler(program.pid, os.SCHED_IDLE, os.sched_param(0))
                os.sched_setscheduler(program.pid, os.SCHED_OTHER, os.sched_param(0))
            except PermissionError:
                pytest.skip("this user may not give it the processor back")
            os.sched_setscheduler(program.pid, os.SCHED_IDLE, os.sched_param(0))
            hurry(program.pid)
            assert os.sched_getscheduler(program.pid) == os.SCHED_OTHER
        finally:
            program.kill()
    hurry(program.pid)  # which is gone


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="this system shares the processor out without asking for sessions")
def test_nor_does_its_session() -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as program:
        try:
            set_session_niceness(program.pid, 19)
            hurry(program.pid)
            assert Path(f"/proc/{program.pid}/autogroup").read_text().endswith(" nice 0\n")
        finally:
            program.kill()


def test_control_c_of_the_servers_terminal_does_not_reach_the_programs() -> None:
    async def run() -> None:
        async with Supervisor({"indexer": ["sleep", "60"]}, lambda name: None, HASTY) as programs:
            await until(lambda: programs.children["indexer"].pid != 0)
            pid = programs.children["indexer"].pid
            assert os.getsid(pid) == os.getpgid(pid) == pid

    asyncio.run(run())


_SERVER = """
import asyncio
from server.supervisor import Supervisor

async def run():
    async with Supervisor({"indexer": ["cat"], "trainer": ["cat"]}, print) as programs:
        while not all(child.pid for child in programs.children.values()):
            await asyncio.sleep(0.01)
        print(*(child.pid for child in programs.children.values()), flush=True)
        await asyncio.sleep(60)

asyncio.run(run())
"""


def test_the_programs_learn_that_their_server_was_killed() -> None:
    command = [sys.executable, "-c", _SERVER]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        pids = [int(word) for word in server.stdout.readline().split()]
        assert len(pids) == 2
        assert all(alive(pid) for pid in pids)
        server.kill()
    assert all(gone(pid) for pid in pids)


# ---------------------------------------------------------------------------------------------------- commands


def test_each_program_gets_the_data_and_its_own_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    settings = settings_of(
        tmp_path,
        supervise=True,
        trainer_args="--min-categories 5 --name 'a b'",
        indexer_args="--share 0.5",
    )
    shared = ["--data", str(tmp_path)]
    found = commands(settings)
    trainer = [sys.executable, "-m", "trainer", "run", *shared, "--min-categories", "5", "--name", "a b"]
    assert found == {"trainer": trainer, "indexer": [sys.executable, "-m", "indexer", *shared, "--share", "0.5"]}
    assert list(found) == ["trainer", "indexer"]  # the order in which they are stopped


def test_the_databases_password_is_on_no_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    url = "postgresql+psycopg://everlook:secret@db/everlook"
    settings = settings_of(tmp_path, supervise=True, database_url=url)
    assert commands(settings).keys() == {"trainer", "indexer"}
    assert "secret" not in str(commands(settings))
    assert environment(settings) == {"EVERLOOK_DATABASE_URL": url, "EVERLOOK_LOG_FORMAT": "pretty"}
    assert environment(settings_of(tmp_path, log_format="json")) == {"EVERLOOK_LOG_FORMAT": "json"}


def test_both_programs_take_the_database_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    from indexer.__main__ import parser as indexer
    from trainer.__main__ import parser as trainer

    monkeypatch.setenv("EVERLOOK_DATABASE_URL", "sqlite:///of-the-environment")
    assert indexer().parse_args(["--data", "d"]).database_url == "sqlite:///of-the-environment"
    assert trainer().parse_args(["run", "--data", "d"]).database_url == "sqlite:///of-the-environment"


def test_the_programs_get_the_environment_that_they_are_to_have(tmp_path: Path) -> None:
    file = tmp_path / "env"

    async def run() -> None:
        program = shell(f'echo "$URL $EVERLOOK_SUPERVISED" > {shlex.quote(str(file))}; sleep 60')
        async with Supervisor({"indexer": program}, lambda name: None, HASTY, {"URL": "secret"}):
            await until(lambda: lines(file) == ["secret", "1"])

    asyncio.run(run())


def test_what_a_program_writes_is_in_the_servers_log_line_by_line(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        program = shell("printf 'half '; sleep 0.05; printf 'a line\\n' >&2; echo second; printf 'the last'; exit 1")
        async with Supervisor({"trainer": program}, lambda name: None, HASTY) as programs:
            await until(lambda: programs.children["trainer"].restarts >= 1)

    asyncio.run(run())
    written = [each.getMessage() for each in caplog.records if each.name == "trainer"]
    assert written[:3] == ["half a line", "second", "the last"]


def test_what_a_program_leaves_behind_does_not_hold_up_its_next_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.supervisor._LAST_LINES_S", 0.05)

    async def run() -> None:
        async with Supervisor({"indexer": shell("sleep 60 & exit 3")}, lambda name: None, HASTY) as programs:
            await until(lambda: programs.children["indexer"].restarts >= 2)

    asyncio.run(run())


def test_no_trainer_is_run_where_torch_is_not_installed_and_nothing_where_it_is_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "torch" else object())
    shared = ["--data", str(tmp_path)]
    found = commands(settings_of(tmp_path, supervise=True))
    assert found == {"indexer": [sys.executable, "-m", "indexer", *shared]}
    assert commands(settings_of(tmp_path, supervise=False)) == {}
