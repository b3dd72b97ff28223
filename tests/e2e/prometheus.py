"""A real Prometheus as a process of its own, with the configuration and the rules of deploy/, reading a given page."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

DEPLOY = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
_LISTENING = re.compile(r'msg="Listening on".* address=(\S+)')

T = TypeVar("T")

Sample = tuple[dict[str, str], float]
"""The labels of a series, without its name, and its value."""


def installed() -> bool:
    """Whether there is one on this machine."""
    return shutil.which("prometheus") is not None


def configure(folder: Path, target: str, every_s: float) -> Path:
    """A copy of deploy/'s configuration below `folder` that reads `target` (host:port) so often; returns its path."""
    copy = shutil.copytree(DEPLOY, folder / "prometheus")
    path = copy / "prometheus.yml"
    text = path.read_text(encoding="utf-8")
    text = text.replace("- everlook:9464", f"- {target}").replace("_interval: 15s", f"_interval: {every_s:g}s")
    path.write_text(text, encoding="utf-8")
    return path


class Prometheus:
    """`with Prometheus(folder, "127.0.0.1:9464") as prometheus:` runs it on a free port; it has ended after the block.

    Its data and its log are below `folder`, which must exist. It listens on this machine only.
    """

    def __init__(self, folder: Path, target: str, every_s: float = 1.0, ready_s: float = 60.0) -> None:
        self._folder, self._target, self._every_s, self._ready_s = folder, target, every_s, ready_s
        self._process: subprocess.Popen[bytes]
        self.url = ""

    def __enter__(self) -> Self:
        """Errors: AssertionError with its log when it does not start."""
        config = configure(self._folder, self._target, self._every_s)
        command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={self._folder / 'tsdb'}"]
        command += ["--web.listen-address=127.0.0.1:0", "--storage.tsdb.retention.time=1d"]
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | {"GOMAXPROCS": "1"}
            )
        try:
            self._await_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _await_ready(self) -> None:
        def ready() -> bool:
            if self._process.poll() is not None:
                raise AssertionError(f"Prometheus ended with {self._process.returncode}:\n{self.log_path.read_text()}")
            listening = _LISTENING.search(self.log_path.read_text())
            if listening is None:
                return False
            self.url = f"http://{listening[1]}"
            try:
                with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as page:  # noqa: S310  # our own
                    return bool(page.status == 200)
            except OSError:
                return False

        wait_for(ready, self._ready_s, "Prometheus does not get ready")

    def _stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()

    @property
    def log_path(self) -> Path:
        """Where it logs."""
        return self._folder / "prometheus.log"

    def ask(self, path: str, **parameters: object) -> Any:
        """The data of an answer of its HTTP API: `ask("query", query="up")`. Errors: HTTPError when it refuses."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=30) as page:  # noqa: S310
            answer = json.load(page)
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expr: str) -> list[Sample]:
        """An instant vector as it is at this moment."""
        return [_sample(each["metric"], each["value"]) for each in self.ask("query", query=expr)["result"]]

    def query_range(
        self, expr: str, start: float, end: float, step_s: float
    ) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
        """Each series with its (Unix seconds, value) at every step from `start` to `end`."""
        found = self.ask("query_range", query=expr, start=start, end=end, step=step_s)["result"]
        return [(_labels(each["metric"]), [(at, float(value)) for at, value in each["values"]]) for each in found]


def _sample(metric: dict[str, str], value: tuple[float, str]) -> Sample:
    return _labels(metric), float(value[1])


def _labels(metric: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in metric.items() if name not in ("__name__", "instance", "job")}


def wait_for(probe: Callable[[], T], timeout_s: float, what: str) -> T:
    """The first answer that is true. Errors: AssertionError with `what` when none came in time."""
    deadline = time.monotonic() + timeout_s
    while not (found := probe()):
        assert time.monotonic() < deadline, f"{what} within {timeout_s:.0f} s"
        time.sleep(0.05)
    return found
