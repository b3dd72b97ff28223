"""What a server was asked to write and what it acknowledged: all that may be found in it after a crash."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Version:
    """An item as it was sent: its category, and the SHA-256 of its photo."""

    category: str
    photo: str


class Ledger:
    """For several threads, each with ids of its own; one change of an id at a time.

    A change is proposed before it is sent and confirmed once it is acknowledged. `None` stands for an item that is not
    there: never written, or deleted.
    """

    def __init__(self) -> None:
        self._held: dict[str, Version] = {}
        self._proposed: dict[str, Version | None] = {}
        self._lock = threading.Lock()
        self.acknowledged = 0
        """Changes confirmed so far."""

    @property
    def held(self) -> dict[str, Version]:
        """What was acknowledged, or found by `settle`: a copy."""
        with self._lock:
            return dict(self._held)

    @property
    def ids(self) -> list[str]:
        """Every id that may be there."""
        with self._lock:
            return sorted(self._held.keys() | self._proposed.keys())

    def propose(self, id: str, version: Version | None) -> None:
        """A change is about to be sent."""
        with self._lock:
            self._proposed[id] = version

    def confirm(self, id: str) -> None:
        """The change of this id was acknowledged."""
        with self._lock:
            version = self._proposed.pop(id)
            self.acknowledged += 1
            if version is None:
                self._held.pop(id, None)
            else:
                self._held[id] = version

    def settle(self, found: Mapping[str, Version]) -> None:
        """What is there now must be what was acknowledged; a change in flight may have happened or not. Takes over
        which of the two it was."""
        with self._lock:
            for id in self._held.keys() | self._proposed.keys() | found.keys():
                allowed = {self._held.get(id), self._proposed.get(id, self._held.get(id))}
                assert found.get(id) in allowed, f"{id}: found {found.get(id)}, written was {allowed}"
            self._held = dict(found)
            self._proposed.clear()
