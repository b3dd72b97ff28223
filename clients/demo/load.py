"""Searches that go on in the background while the model is replaced, and what became of them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from clients.client import Client
from clients.errors import EverlookClientError
from clients.retry import RetryPolicy


class Load:
    """`with Load(target, photos):` searches by photo, one call after the other, and never tries a call again."""

    def __init__(self, target: str, photos: Sequence[Path], pause_s: float = 0.02) -> None:
        self._target, self._photos, self._pause_s = target, photos, pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._search, name="load", daemon=True)
        self.answered: Counter[int] = Counter()
        """Calls by the generation that answered."""
        self.waits_s: list[float] = []
        self.failed: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _search(self) -> None:
        with Client(self._target, retries=RetryPolicy(attempts=1)) as client:
            for number in range(1 << 62):
                if self._stop.wait(self._pause_s):
                    return
                began = time.monotonic()
                try:
                    result = client.search(image=self._photos[number % len(self._photos)], k=5)
                except EverlookClientError as error:
                    self.failed.append(f"{type(error).__name__}: {error}")
                    continue
                self.waits_s.append(time.monotonic() - began)
                self.answered[result.generation.number] += 1
