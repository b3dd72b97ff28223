"""Since when categories wait, when they last got a photo, and since when they are ripe, as the trainer saw it.

The catalogue knows only when an item was last changed, and a shop may bring the metadata of all items up to date each
night: by that alone a category would never have waited for a day. What was seen is kept beside the program's news, so
that no restart begins it anew. A time that lies ahead is of a clock that was ahead, and counts as now from when that is
seen: nothing has to wait until such a time has come.

    programs/waiting.json  of each category that waits, and of no other: since when, its last photo's time, its photos,
                           since when it is ripe

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
from collections.abc import Collection, Iterable
from dataclasses import astuple, dataclass, replace

from indexer.datadir import DataDir
from indexer.stages import Waiting


@dataclass(frozen=True)
class _Sighting:
    since: float  # Unix seconds
    latest: float
    photos: str  # which they are
    ripe: float = 0.0  # Unix seconds since when it could be taught; 0 while it could not


class Sightings:
    """`dated` puts right what the catalogue says of times; `ripe_since` remembers what is ripe."""

    def __init__(self, data: DataDir) -> None:
        self._path = data.programs / "waiting.json"
        self._of: dict[str, _Sighting] = {}
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            raw = json.loads(self._path.read_text(encoding="utf-8"))
            self._of = {
                str(name): _Sighting(float(since), float(latest), str(photos), *map(float, ripe))
                for name, (since, latest, photos, *ripe) in raw.items()  # an older version knew no `ripe`
            }

    def dated(self, waiting: Iterable[Waiting], now: float) -> list[Waiting]:
        """All that wait, with `since` from when each was first seen, and `latest` from when its photos last changed,
        neither after `now` in Unix seconds."""
        given = list(waiting)
        seen = {each.name: _not_after(now, self._sighting(each)) for each in given}
        if seen != self._of:
            self._of = seen
            self._write()
        return [replace(each, since=seen[each.name].since, latest=seen[each.name].latest) for each in given]

    def ripe_since(self, ripe: Collection[str], now: float) -> float:
        """Since when that of the categories `ripe` which has been so for longest has been; 0.0 when there is none. All
        others are ripe no more. They are of those that were `dated` last; `now` and the answer are in Unix seconds."""
        names = set(ripe)
        changed = {
            name: replace(each, ripe=now if name in names else 0.0)
            for name, each in self._of.items()
            if (name in names) != bool(each.ripe) or each.ripe > now
        }
        if changed:
            self._of |= changed
            self._write()
        return min((self._of[name].ripe for name in names), default=0.0)

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


def _not_after(now: float, each: _Sighting) -> _Sighting:
    return replace(each, since=min(each.since, now), latest=min(each.latest, now))
