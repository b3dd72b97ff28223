"""The gallery's one writer: it applies changes in the order of their seq, and publishes a view after each step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from indexer.errors import GenerationDamaged, InvalidVector
from indexer.index.attributes import Attributes, Entry
from indexer.index.filters import MetadataValue
from indexer.index.rows import Column, RowSet
from indexer.index.segment import Segment
from indexer.index.view import View

_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Upsert:
    """An item was added or replaced; `vector` (D,) is its embedding, of unit length."""

    seq: int
    id: str
    category: str
    metadata: Mapping[str, MetadataValue]
    vector: NDArray[np.float32]


@dataclass(frozen=True)
class Removal:
    """An item was deleted."""

    seq: int
    id: str


Change: TypeAlias = Upsert | Removal


class Gallery:
    """All live items. One thread applies changes; any thread may take `view` and search it."""

    def __init__(self, view: View, delta: Column[np.float32]) -> None:
        """`delta` is the column that `view.delta` shows. Made by `open` or `rebase`."""
        self._delta = delta
        self._view = view

    @property
    def view(self) -> View:
        """The gallery as of the last change applied."""
        return self._view

    @classmethod
    def open(
        cls,
        segment: Segment,
        entries: Iterable[tuple[Entry, NDArray[np.float32] | None]],
        *,
        seq: int = 0,
    ) -> Gallery:
        """The gallery of all live `entries`, ordered by seq, as of change `seq` or the last entry.

        Entries whose seq the segment holds need no vector; the others make the delta. What the segment holds and
        `entries` do not is dead. Errors: GenerationDamaged when an entry has a vector neither there nor here.
        """
        attributes = Attributes()
        mask = np.zeros(len(segment), np.bool_)
        later: list[tuple[Entry, NDArray[np.float32] | None]] = []
        for entry, vector in entries:
            row = int(np.searchsorted(segment.seqs, np.uint64(entry.seq)))
            if row == len(segment) or segment.seqs[row] != entry.seq:
                later.append((entry, vector))
                continue
            for gone in range(len(attributes), row):
                attributes.append_dead(int(segment.seqs[gone]))
            attributes.append(entry)
            mask[row] = True
            seq = max(seq, entry.seq)
        for gone in range(len(attributes), len(segment)):
            attributes.append_dead(int(segment.seqs[gone]))
        delta: Column[np.float32] = Column(np.float32, segment.dimension)
        for entry, vector in later:
            if vector is None:
                raise GenerationDamaged(f"entry {entry.seq} has no vector", field="seq", got=entry.seq)
            attributes.append(entry)
            delta.append(_checked(vector, segment.dimension))
            seq = max(seq, entry.seq)
        alive_delta = RowSet.full(len(delta))
        return cls(View(seq, segment, attributes, delta.upto(len(delta)), RowSet.of(mask), alive_delta), delta)

    @classmethod
    def rebase(
        cls,
        view: View,
        segment: Segment,
        vectors_of: Callable[[NDArray[np.uint64]], NDArray[np.float32]] | None = None,
    ) -> Gallery:
        """The gallery of `view` over a new `segment`, for any thread to prepare.

        Items that the segment does not hold go to the delta; what it holds and the view does not is dead. The changes
        after `view.seq` are then to be applied to it, in the writer's thread, before it takes the old gallery's place.

        vectors_of  the vectors (m, D) of the entries with these seqs (m,), where the segment is another model's; None:
                    they are the view's
        """
        live = view.live_rows()
        seqs = view.attributes.seqs(view.rows)[live]
        at = np.searchsorted(segment.seqs, seqs)
        held = np.zeros(len(live), np.bool_)
        inside = at < len(segment)
        held[inside] = segment.seqs[at[inside]] == seqs[inside]
        main = np.full(len(segment), -1, np.int64)
        main[at[held]] = live[held]
        beside = view.vectors(live[~held]) if vectors_of is None else vectors_of(seqs[~held])
        delta: Column[np.float32] = Column.of(beside)
        attributes = view.attributes.take(
            view.rows, np.concatenate([main, live[~held]]), np.concatenate([segment.seqs, seqs[~held]])
        )
        alive_delta = RowSet.full(len(delta))
        return cls(
            View(view.seq, segment, attributes, delta.upto(len(delta)), RowSet.of(main >= 0), alive_delta), delta
        )

    def apply(self, changes: Sequence[Change]) -> View:
        """Applies `changes`, whose seqs ascend from the view's, in one step: readers see all of them or none.

        Removing an unknown id changes nothing. Errors, with nothing changed: InvalidVector; ValueError when a seq is
        not above the one before.
        """
        view = self._view
        vectors = self._checked_vectors(changes)
        dead: list[int] = []
        for change in changes:
            if isinstance(change, Upsert):
                self._delta.append(vectors[change.seq])
                before = view.attributes.append(change)
            else:
                before = view.attributes.latest(change.id, len(view.attributes))
            if before is not None:
                dead.append(before)
        main, count = len(view.segment), len(self._delta)
        self._view = View(
            seq=changes[-1].seq if changes else view.seq,
            segment=view.segment,
            attributes=view.attributes,
            delta=self._delta.upto(count),
            alive_main=view.alive_main.without([row for row in dead if row < main]),
            alive_delta=view.alive_delta.extended(count - view.alive_delta.size).without(
                [row - main for row in dead if row >= main]
            ),
        )
        return self._view

    def _checked_vectors(self, changes: Sequence[Change]) -> dict[int, NDArray[np.float32]]:
        last = self._view.seq
        vectors = {}
        for change in changes:
            if change.seq <= last:
                raise ValueError(f"change {change.seq} comes after change {last}")
            last = change.seq
            if isinstance(change, Upsert):
                vectors[change.seq] = _checked(change.vector, self._view.segment.dimension)
        return vectors


def _checked(vector: NDArray[np.float32], dimension: int) -> NDArray[np.float32]:
    vector = np.asarray(vector, np.float32)
    if vector.shape != (dimension,):
        raise InvalidVector("the vector has the wrong length", field="vector", got=vector.shape, expected=dimension)
    length = float(np.linalg.norm(vector))
    if not abs(length - 1.0) <= _UNIT_TOLERANCE:  # also when it is not a number
        raise InvalidVector("the vector is not of unit length", field="vector", got=length, expected=1.0)
    return vector
