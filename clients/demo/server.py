"""The demo's own server process, and the model that it begins with."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_READY = re.compile(r"serving on (\S+), metrics on (\S+)")


def export_model(data: Path, image_size: int) -> None:
    """Has the trainer publish model 0. Errors: RuntimeError with what it said."""
    command = [sys.executable, "-m", "trainer", "export", "--data", str(data), "--image-size", str(image_size)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise RuntimeError(f"the first model could not be made: {done.stderr.strip()[-2000:]}")


class DemoServer:
    """`with DemoServer(data, options)` runs a real server on a free port, and the programs beside it.

    `options` are more of `everlook serve`; `metrics_port` 0 is a free one too. What they log goes to server.log beside
    the data.
    """

    def __init__(self, data: Path, options: Sequence[str] = (), metrics_port: int = 0) -> None:
        self._data = data
        self._options = options
        self._metrics_port = metrics_port
        self._process: subprocess.Popen[str] | None = None
        self.target = ""
        self.metrics_url = ""
        self.started_in_s = 0.0

    def __enter__(self) -> Self:
        """Errors: RuntimeError with the end of the log when the server does not start."""
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._close()

    def kill_and_restart(self) -> None:
        """SIGKILL, then a new process on the same data; `started_in_s` is how long that one took."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._close()
        self._start()

    def _start(self) -> None:
        began = time.monotonic()
        log = self._data.parent / "server.log"
        command = [sys.executable, "-m", "server", "--data", str(self._data), "--port", "0"]
        command += ["--metrics-port", str(self._metrics_port), *self._options]
        with log.open("a") as errors:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)  # noqa: S603
        line = self._process.stdout.readline() if self._process.stdout else ""
        ready = _READY.search(line)
        if ready is None:
            self._process.kill()
            self._process.wait()
            self._close()
            raise RuntimeError(f"the server did not start: {log.read_text()[-2000:]}")
        self.target, self.metrics_url = ready.groups()
        self.started_in_s = time.monotonic() - began

    def _close(self) -> None:
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()
        self._process = None
