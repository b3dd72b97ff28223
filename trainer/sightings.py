"""Since when categories wait, and when they last got a photo, as the trainer saw it.

The catalogue knows only when an item was last changed, and a shop may bring the metadata of all items up to date each
night: by that alone a category would never have waited for a day. What was seen is kept beside the program's news:

    programs/waiting.json  of each category that waits, and of no other: since when, its last photo's time, its photos

| crash at this step         | found so at restart                                                          |
|----------------------------|------------------------------------------------------------------------------|
| while it is written        | the file before, whole, and `.waiting.json`, which is written over           |
| after a loss of power      | perhaps no file, or one that cannot be read: the catalogue's times, as for a |
|                            | category that is seen for the first time                                     |
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable
from dataclasses import astuple, dataclass, replace

from indexer.datadir import DataDir
from indexer.stages import Waiting


@dataclass(frozen=True)
class _Sighting:
    since: float  # Unix seconds
    latest: float
    photos: str  # which they are


class Sightings:
    """`dated` puts right what the catalogue says of times."""

    def __init__(self, data: DataDir) -> None:
        self._path = data.programs / "waiting.json"
        self._of: dict[str, _Sighting] = {}
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            raw = json.loads(self._path.read_text(encoding="utf-8"))
            self._of = {
                str(name): _Sighting(float(since), float(latest), str(photos))
                for name, (since, latest, photos) in raw.items()
            }

    def dated(self, waiting: Iterable[Waiting]) -> list[Waiting]:
        """All that wait, with `since` from when each was first seen, and `latest` from when its photos last changed."""
        given = list(waiting)
        seen = {each.name: self._sighting(each) for each in given}
        if seen != self._of:
            self._of = seen
            self._write()
        return [replace(each, since=seen[each.name].since, latest=seen[each.name].latest) for each in given]

    def _sighting(self, each: Waiting) -> _Sighting:
        photos = hashlib.sha256(" ".join([str(each.probes), *sorted(each.photos)]).encode()).hexdigest()[:16]
        before = self._of.get(each.name)
        if before is None:
            return _Sighting(each.since, each.latest, photos)
        return before if before.photos == photos else replace(before, latest=each.latest, photos=photos)

    def _write(self) -> None:
        """A full disk stops no training; then the next start knows less."""
        aside = self._path.with_name(f".{self._path.name}")
        with contextlib.suppress(OSError):
            aside.write_text(json.dumps({name: astuple(each) for name, each in self._of.items()}), encoding="utf-8")
            aside.replace(self._path)
