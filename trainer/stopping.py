"""Ending soon when asked to: SIGTERM and SIGINT, heard where a checkpoint is whole."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Self


class Stopped(BaseException):
    """Someone wants this program to end. `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_code(self) -> int:
        """0 after SIGTERM, which is how a supervisor ends a program; 130 after SIGINT, as shells have it."""
        return 130 if self.number == signal.SIGINT else 0


class Cancelled(BaseException):
    """What is being done is wanted no more; the reason in words. No handler of errors is meant to catch it."""


class Stopping:
    """`with Stopping() as stopping:` has the two signals raise `Stopped`, in the main thread.

    At once, wherever it is, as a kill would end it; but inside `gently()` only when `check` is called, or at the
    second signal.
    """

    def __init__(self) -> None:
        self._asked = 0
        self._gentle = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def gently(self) -> Iterator[None]:
        """Whoever is in here calls `check` every few seconds."""
        self._gentle = True
        try:
            yield
        finally:
            self._gentle = False

    def check(self) -> None:
        """Errors: Stopped when a signal came."""
        if self._asked:
            raise Stopped(self._asked)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        again, self._asked = self._asked, number
        if again or not self._gentle:
            raise Stopped(number)
