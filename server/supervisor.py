"""The supervisor: runs the trainer and the indexer beside the server, starts them again when they die, and stops them.

Each is a process of its own, at the lowest priority by its own doing (`indexer.priority`), and

- leads a session of its own, so that Ctrl-C in a terminal reaches the server alone, which then stops the programs in
  their order; what a program has started itself dies with it when it has to be killed;
- has a pipe as standard input whose other end only the server holds, so that it ends however the server dies
  (`indexer.parent`). PR_SET_PDEATHSIG would be Linux's own way, but needs code between fork and exec, which is not safe
  in a process with threads, and goes by the thread that started the child, not by the process;
- has a pipe as standard output and error, whose lines the server writes to its own log: whole, and in its format.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import shlex
import signal
import sys
import threading
import time
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from indexer import logs
from indexer.parent import SUPERVISED
from indexer.priority import set_session_niceness
from server.settings import Settings

log = logging.getLogger(__name__)

PROGRAMS = ("trainer", "indexer")
"""Their names, in the order in which they are stopped: the one that makes work before the one that takes it up."""

_LAST_LINES_S = 1.0  # in which what a program wrote last is read; what it has left behind may hold its pipe open


def commands(settings: Settings) -> dict[str, list[str]]:
    """The command of each program that the server runs: the trainer only where torch is installed."""
    if not settings.supervise:
        return {}
    shared = ["--data", str(settings.data)]
    found = {"indexer": [sys.executable, "-m", "indexer", *shared, *shlex.split(settings.indexer_args)]}
    if importlib.util.find_spec("torch") is not None:  # looked for, never imported
        found["trainer"] = [sys.executable, "-m", "trainer", "run", *shared, *shlex.split(settings.trainer_args)]
    return {name: found[name] for name in PROGRAMS if name in found}


def environment(settings: Settings) -> dict[str, str]:
    """What the programs get besides the server's own environment. The database's URL is here, since it may hold a
    password, and everyone on the machine can read a command line."""
    found: dict[str, str] = {logs.STYLE: settings.log_format}
    if settings.database_url is not None:
        found["EVERLOOK_DATABASE_URL"] = settings.database_url
    return found


@dataclass(frozen=True)
class Patience:
    """How long the supervisor waits, in seconds."""

    first_s: float = 1.0
    """Before a program that has died is started again; twice as long each time that it dies soon."""
    most_s: float = 60.0
    """At most before that."""
    well_s: float = 60.0
    """Who has run for so long has run well: its next death is the first again."""
    grace_s: float = 20.0
    """Between SIGTERM and SIGKILL."""

    def pause_s(self, deaths: int) -> float:
        """Before the next start, after so many deaths in a row (1 is the first)."""
        return min(self.most_s, self.first_s * 2.0 ** min(deaths - 1, 32))


@dataclass
class Child:
    """What there is to know of one program. Written on the event loop, read by every thread."""

    pid: int = 0
    """0 while it does not run."""
    restarts: int = 0
    last: str = ""
    """How it ended the last time, in words."""
    again_at: float = 0.0
    """`time.monotonic()` of its next start, while it does not run."""


class Supervisor:
    """`async with Supervisor(commands, on_restart)` runs the programs until the block ends, and then stops them.

    They are stopped in the order of `commands`, one after the other.
    """

    def __init__(
        self,
        commands: Mapping[str, Sequence[str]],
        on_restart: Callable[[str], None],
        patience: Patience | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.children = {name: Child() for name in commands}
        self._commands = commands
        self._environment = environment or {}
        self._on_restart = on_restart
        self._patience = patience or Patience()
        self._tasks: list[asyncio.Task[None]] = []
        self._pipe: tuple[int, int] = (-1, -1)

    async def __aenter__(self) -> Self:
        self._pipe = os.pipe()
        self._tasks = [asyncio.create_task(self._keep(name), name=name) for name in self._commands]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
            await asyncio.wait({task})
        for end in self._pipe:
            os.close(end)

    async def _keep(self, name: str) -> None:
        """Runs one program for as long as nobody cancels this."""
        child, deaths = self.children[name], 0
        while True:
            began = time.monotonic()
            try:
                child.last = await self._run(name)
            except (OSError, RuntimeError) as error:  # no file, thread or process is to be had
                child.last = f"cannot be started: {error}"
            well = time.monotonic() - began >= self._patience.well_s
            deaths = 1 if well else deaths + 1
            pause_s = self._patience.pause_s(deaths)
            child.again_at = time.monotonic() + pause_s
            log.error("the %s %s; it is started again in %.0f s", name, child.last, pause_s)
            await asyncio.sleep(pause_s)
            child.restarts += 1
            self._on_restart(name)

    async def _run(self, name: str) -> str:
        """Runs one program to its end, and says how that was. Errors: OSError, RuntimeError when it cannot start."""
        child, (ours, theirs) = self.children[name], os.pipe()
        relay = threading.Thread(target=_relay, args=(name, ours), name=f"log of {name}", daemon=True)
        try:
            try:
                relay.start()
            except RuntimeError:
                os.close(ours)
                raise
            process = await asyncio.create_subprocess_exec(
                *self._commands[name],
                stdin=self._pipe[0],
                stdout=theirs,
                stderr=theirs,
                env={**os.environ, **self._environment, SUPERVISED: "1"},
                start_new_session=True,
            )
        finally:
            os.close(theirs)  # so that the pipe ends with the program
        child.pid = process.pid
        log.info("the %s runs as process %d", name, process.pid)
        try:
            return _words(await process.wait())
        finally:
            try:
                await self._end(name, process)
                await asyncio.to_thread(relay.join, _LAST_LINES_S)
            finally:
                child.pid = 0

    async def _end(self, name: str, process: Process) -> None:
        """SIGTERM, and SIGKILL for all of its session when that does not help. Nothing for one that has ended."""
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await asyncio.to_thread(hurry, process.pid)
        try:
            async with asyncio.timeout(self._patience.grace_s):
                await process.wait()
        except TimeoutError:
            log.warning("the %s does not end; it is killed", name)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        log.info("the %s has stopped", name)


def hurry(pid: int) -> None:
    """Gives a program that gave way (`indexer.priority`) its share of the processor, where that is allowed: on a busy
    machine it would not even get to its end. May block for a second."""
    set_session_niceness(pid, 0)
    if hasattr(os, "SCHED_OTHER"):
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                os.sched_setscheduler(int(thread), os.SCHED_OTHER, os.sched_param(0))


def _relay(name: str, pipe: int) -> None:
    """Logs what a program writes, until the end of its pipe."""
    with os.fdopen(pipe, "rb") as lines:
        while line := lines.readline(logs.LINE_BYTES):
            logs.relay(name, line)


def _words(code: int) -> str:
    """How a process ended, by its exit status, which is the negative number of the signal that killed it."""
    if code >= 0:
        return f"has ended with status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
