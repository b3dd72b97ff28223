"""The real server, as a process of its own, the way operators start it: on free ports, over a data folder."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from clients import Client, RetryPolicy

ROOT = Path(__file__).resolve().parents[2]
ONCE = RetryPolicy(attempts=1)
"""For clients of tests: what the server answered is what the test sees."""

_READY = re.compile(r"^everlook: serving on (\S+), metrics on (\S+)$", re.MULTILINE)


def environment() -> dict[str, str]:
    """What the server's process sees: this checkout, and none of the caller's own settings of Everlook."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EVERLOOK_")}
    paths = os.pathsep.join([str(ROOT), str(ROOT / "proto")])
    return kept | {"PYTHONPATH": paths, "EVERLOOK_PORT": "0", "EVERLOOK_METRICS_PORT": "0"}


def command(data: Path, *flags: str) -> list[str]:
    """The command that serves `data`, without the trainer and the indexer unless `flags` have "--supervise"."""
    return [sys.executable, "-m", "server", "--data", str(data), "--no-supervise", *flags]


def run_to_end(
    data: Path, *flags: str, python_path: Path | None = None, timeout_s: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Runs a server that is expected to end by itself, with its output as text. `python_path` goes before all else."""
    variables = environment()
    if python_path is not None:
        variables["PYTHONPATH"] = os.pathsep.join([str(python_path), variables["PYTHONPATH"]])
    return subprocess.run(
        command(data, *flags),
        env=variables,
        cwd=data.parent,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def start_and_kill(data: Path, *flags: str, after_s: float) -> None:
    """Starts a server and kills it after so many seconds, wherever in its start that is."""
    process = subprocess.Popen(
        command(data, *flags), env=environment(), cwd=data.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        time.sleep(after_s)
    finally:
        process.kill()
        process.wait()


class ServerProcess:
    """`with ServerProcess(data, "--max-batch", "4") as server:` starts it and waits until it serves.

    However the block ends, the process has ended after it. What it prints goes to `<data>.log`, after what servers of
    the same folder printed before.
    """

    def __init__(self, data: Path, *flags: str, ready_s: float = 120.0) -> None:
        self._command = command(data, *flags)
        self._log_path = data.with_name(f"{data.name}.log")
        self._log_start = 0
        self._ready_s = ready_s
        self._process: subprocess.Popen[bytes]
        self.target = ""
        self.metrics_url = ""
        self.started_in_s = 0.0
        """Seconds from the start of the process until it served."""

    def __enter__(self) -> Self:
        began = time.monotonic()
        with self._log_path.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                self._command,
                env=environment(),
                cwd=self._log_path.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._await_ready(began + self._ready_s)
        except BaseException:
            self._reap()
            raise
        self.started_in_s = time.monotonic() - began
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reap()

    def _await_ready(self, deadline: float) -> None:
        while not (ready := _READY.search(self.log)):
            if (code := self._process.poll()) is not None:
                raise AssertionError(f"the server ended with {code} before it was ready:\n{self.log}")
            if time.monotonic() > deadline:
                raise AssertionError(f"the server was not ready within {self._ready_s:.0f} s:\n{self.log}")
            time.sleep(0.01)
        self.target, self.metrics_url = ready.groups()

    def _reap(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether it has, by itself or killed."""
        return self._process.poll() is not None

    @property
    def log(self) -> str:
        """What it has printed and logged so far."""
        with self._log_path.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")

    def client(self, timeout_s: float = 30.0) -> Client:
        """A client that does not try again."""
        return Client(self.target, timeout_s=timeout_s, retries=ONCE)

    def metrics(self) -> dict[str, float]:
        """Every sample of its Prometheus page, by name and labels as they stand there."""
        with urllib.request.urlopen(self.metrics_url, timeout=30) as page:  # noqa: S310  # the server's own page
            lines = page.read().decode().splitlines()
        samples = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in samples}

    def metric(self, sample: str) -> float:
        """One of them; 0 when the page does not have it."""
        return self.metrics().get(sample, 0.0)

    def kill(self) -> None:
        """SIGKILL, as a power loss does to a process; returns once it is gone."""
        self._process.kill()
        self._process.wait()

    def ask_to_stop(self) -> None:
        """SIGTERM, without waiting."""
        self._process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float = 60.0) -> int:
        """Its exit status, once it has ended. Errors: subprocess.TimeoutExpired."""
        return self._process.wait(timeout_s)

    def stop(self, timeout_s: float = 60.0) -> int:
        """SIGTERM; returns the exit status."""
        self.ask_to_stop()
        return self.wait(timeout_s)
