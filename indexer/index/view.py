"""The gallery at one moment, and how it is searched. A view never changes; queries keep the one they began with.

Rows 0 to M-1 are the main segment's, the delta's follow. An item's entry is one row; replacing or deleting the item
makes that row dead, by leaving it out of the next view's row sets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indexer.errors import InvalidField, InvalidVector
from indexer.index.attributes import Attributes
from indexer.index.exact import cosine
from indexer.index.filters import EVERYTHING, Filter, MetadataValue
from indexer.index.rows import RowSet
from indexer.index.scan import faiss_threads, scan
from indexer.index.segment import Segment

EXACT_BELOW = 10_000  # matching rows below which exact search is used (tests/bench/results/index_types.json)
_SCORED_AT_ONCE = 1 << 21  # elements of the vectors that are scored again together
_SCANNED_AT_ONCE = 1 << 22  # elements of the vectors that are scanned together where others are given way to: 1 to 2 ms


@dataclass(frozen=True)
class SearchParams:
    """What is asked of one search."""

    k: int = 10
    filter: Filter = EVERYTHING
    exact: bool = False
    min_score: float | None = None
    exclude_id: str | None = None  # left out of the hits: the item that the query is


@dataclass(frozen=True, eq=False)
class Hits:
    """What one query found, best first; equal scores: the older entry first. The rest is looked up when asked for."""

    view: View
    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    exact: bool = False
    """Whether the segment's approximate way was left aside: exact search was asked for, or few rows matched. Not set
    because a segment has no such way."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def seqs(self) -> NDArray[np.uint64]:
        return self.view.attributes.seqs(self.view.rows)[self.rows]

    @property
    def ids(self) -> list[str]:
        return [self.view.attributes.id(row) for row in self.rows.tolist()]

    @property
    def categories(self) -> list[str]:
        return [self.view.attributes.category(row) for row in self.rows.tolist()]

    @property
    def metadata(self) -> list[dict[str, MetadataValue]]:
        return [self.view.attributes.metadata(row) for row in self.rows.tolist()]


@dataclass(frozen=True, eq=False)
class View:
    """A frozen gallery: `seq` is the last change that it includes, `delta` the vectors (m, D) beside the segment."""

    seq: int
    segment: Segment
    attributes: Attributes
    delta: NDArray[np.float32]
    alive_main: RowSet
    alive_delta: RowSet

    def __len__(self) -> int:
        """How many items it holds."""
        return self.alive_main.count + self.alive_delta.count

    @property
    def rows(self) -> int:
        """How many rows it holds, dead ones included."""
        return self.alive_main.size + self.alive_delta.size

    @property
    def tombstones(self) -> int:
        """How many of its rows are dead."""
        return self.rows - len(self)

    def row_of(self, item_id: str) -> int | None:
        """The row of an item, or None when this view has no such item."""
        row = self.attributes.latest(item_id, self.rows)
        if row is None:
            return None
        main = self.alive_main.size
        alive, at = (self.alive_main, row) if row < main else (self.alive_delta, row - main)
        return row if alive.has(np.array(at)) else None

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """A copy of the vectors of `rows` (any shape): (..., D)."""
        main = self.alive_main.size
        vectors = np.empty((*rows.shape, self.segment.dimension), np.float32)
        in_main = rows < main
        vectors[in_main] = self.segment.vectors[rows[in_main]]
        vectors[~in_main] = self.delta[rows[~in_main] - main]
        return vectors

    def live_rows(self) -> NDArray[np.int64]:
        """The rows of all items, ordered by seq."""
        rows = np.concatenate([self.alive_main.rows(), self.alive_main.size + self.alive_delta.rows()])
        return rows[np.argsort(self.attributes.seqs(self.rows)[rows], kind="stable")]

    def live_vectors(self) -> tuple[NDArray[np.float32], NDArray[np.uint64]]:
        """Copies of the vectors (N, D) and seqs (N,) of all items by seq: what the next segment is built of."""
        rows = self.live_rows()
        return self.vectors(rows), self.attributes.seqs(self.rows)[rows]

    def search(self, queries: NDArray[np.float32], params: SearchParams) -> list[Hits]:
        """The hits of each of `queries` (Q, D), unit vectors, for any number of threads at once.

        Errors: InvalidVector when the shape is wrong or a number is not finite; InvalidField when `k` is below 1.
        """
        queries = self._checked(queries)
        excluded, fetch = self._fetched(params)
        main, delta = self._considered(params.filter)
        few = main.count <= fetch or (main.count <= EXACT_BELOW and bool(params.filter))
        exact = params.exact or (few and self.segment.tuning is not None)
        _, in_main = self.segment.search(queries, fetch, keep=_unless_full(main), exact=exact)
        with faiss_threads(1):
            _, in_delta = scan(self.delta, queries, fetch, _unless_full(delta))
        rows = np.concatenate([in_main, np.where(in_delta >= 0, in_delta + self.alive_main.size, -1)], axis=1)
        return self._hits(*self._ranked(queries, rows), params, excluded, exact=exact)

    def search_in_parts(self, query: NDArray[np.float32], params: SearchParams, between: Callable[[], None]) -> Hits:
        """The hits of an exact search for one `query` (D,), to the bit, and only one thread's work.

        `between` is called whenever another millisecond or two of it is done, for a caller that gives way to others;
        what it raises ends the search. Errors: as `search`.
        """
        queries = self._checked(query[None])
        excluded, fetch = self._fetched(params)
        best = np.empty((1, 0), np.int64)
        for at, (vectors, keep, offset) in enumerate(self._parts(*self._considered(params.filter))):
            if at:
                between()
            with faiss_threads(1):
                _, found = scan(vectors, queries, fetch, keep)
            rows = np.concatenate([best, np.where(found >= 0, found + offset, -1)], axis=1)
            best = self._ranked(queries, rows)[0][:, :fetch]
        (hits,) = self._hits(*self._ranked(queries, best), params, excluded, exact=True)
        return hits

    def _parts(self, main: RowSet, delta: RowSet) -> Iterator[tuple[NDArray[np.float32], RowSet | None, int]]:
        """Vectors, those of them that are considered, and the row of the first."""
        step = max(8, _SCANNED_AT_ONCE // self.segment.dimension // 8 * 8)
        for vectors, keep, first in ((self.segment.vectors, main, 0), (self.delta, delta, main.size)):
            for start in range(0, len(vectors), step):
                stop = min(start + step, len(vectors))
                yield vectors[start:stop], _unless_full(keep.part(start, stop)), first + start

    def _fetched(self, params: SearchParams) -> tuple[int | None, int]:
        """The row that is left out of the hits, and how many rows are to be found, with it. Errors: InvalidField."""
        if params.k < 1:
            raise InvalidField("k must be at least 1", field="k", got=params.k, expected="1 or more")
        excluded = None if params.exclude_id is None else self.row_of(params.exclude_id)
        return excluded, min(params.k + (excluded is not None), max(1, len(self)))

    def _hits(
        self,
        rows: NDArray[np.int64],
        scores: NDArray[np.float32],
        params: SearchParams,
        excluded: int | None,
        *,
        exact: bool,
    ) -> list[Hits]:
        """What is asked for of ranked rows and their scores (Q, C), for each query."""
        counts = rows >= 0
        if excluded is not None:
            counts &= rows != excluded
        if params.min_score is not None:
            counts &= scores >= params.min_score
        return [
            Hits(self, rows[q, counts[q]][: params.k], scores[q, counts[q]][: params.k], exact)
            for q in range(len(rows))
        ]

    def _checked(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        queries = np.ascontiguousarray(queries, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.segment.dimension:
            expected = f"(any, {self.segment.dimension})"
            raise InvalidVector("the vector has the wrong length", field="vector", got=queries.shape, expected=expected)
        if not np.isfinite(queries).all():
            raise InvalidVector("the vector has a number that is not finite", field="vector", expected="finite numbers")
        return queries

    def _considered(self, wanted: Filter) -> tuple[RowSet, RowSet]:
        """The rows that are alive and match: of the main segment, and of the delta."""
        if not wanted:
            return self.alive_main, self.alive_delta
        matches = self.attributes.match(wanted, self.rows)
        main = self.alive_main.size
        return (
            RowSet.of(matches[:main] & self.alive_main.mask()),
            RowSet.of(matches[main:] & self.alive_delta.mask()),
        )

    def _ranked(
        self, queries: NDArray[np.float32], rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The candidates `rows` (Q, C) in the order of their noiseless scores, then of their seqs; -1 comes last."""
        scores = np.full(rows.shape, -np.inf, np.float32)
        if rows.size == 0:
            return rows, scores
        step = max(1, _SCORED_AT_ONCE // (rows.shape[1] * self.segment.dimension))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            scores[part] = cosine(self.vectors(np.maximum(rows[part], 0)), queries[part, None])
        scores[rows < 0] = -np.inf
        order = np.lexsort((self.attributes.seqs(self.rows)[rows], -scores), axis=-1)
        return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _unless_full(rows: RowSet) -> RowSet | None:
    """None when all rows are in: a search without a selector is faster."""
    return None if rows.count == rows.size else rows
