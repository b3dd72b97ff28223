"""How rows are held so that readers need no lock: immutable sets of rows, and columns that only grow.

One writer appends; any number of readers look at the rows below the count `n` of the view that they hold. That is safe
because of an order: the writer finishes a row in every column before it publishes, by one reference assignment, the
view that counts the row in. A reader takes its view first, so what it reads below `n` was complete before it looked,
and nothing below `n` is written again. A column that is full moves to a larger buffer; a reader that still holds the
old one finds the same values in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

T = TypeVar("T", bound=np.generic)

_FIRST_CAPACITY = 8


class Column(Generic[T]):
    """An append-only array of scalars, or of rows of one `width`. One writer; readers use `upto` alone."""

    def __init__(self, dtype: DTypeLike, width: int | None = None) -> None:
        self._buffer: NDArray[Any] = np.empty((0,) if width is None else (0, width), dtype)
        self._length = 0

    @classmethod
    def of(cls, values: NDArray[T]) -> Self:
        """A column that holds `values`, which nobody else writes from now on."""
        column = cls(values.dtype, values.shape[1] if values.ndim == 2 else None)
        column._buffer, column._length = np.ascontiguousarray(values), len(values)
        return column

    def __len__(self) -> int:
        return self._length

    def append(self, value: Any) -> None:
        end = self._length
        if end == len(self._buffer):
            grown = np.empty((max(_FIRST_CAPACITY, 2 * end), *self._buffer.shape[1:]), self._buffer.dtype)
            grown[:end] = self._buffer
            self._buffer = grown
        self._buffer[end] = value
        self._length = end + 1  # last: whoever reads the length finds that many values, in this buffer or a later one

    def upto(self, n: int) -> NDArray[T]:
        """The first `n` values, read-only, without a copy; `n` at most the length that the caller knows of."""
        values = self._buffer[:n]
        values.flags.writeable = False
        return values


@dataclass(frozen=True, eq=False)
class RowSet:
    """Which of the rows 0 to `size` - 1 are in. Immutable; `bits` is packed, lowest bit first, as faiss reads it."""

    bits: NDArray[np.uint8]
    size: int
    count: int

    @classmethod
    def of(cls, mask: NDArray[np.bool_]) -> RowSet:
        return cls(np.packbits(mask, bitorder="little"), len(mask), int(np.count_nonzero(mask)))

    @classmethod
    def full(cls, size: int) -> RowSet:
        return cls.of(np.ones(size, np.bool_))

    def has(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each of `rows` (any shape, 0 to size - 1) is in."""
        found: NDArray[np.bool_] = (self.bits[rows >> 3] >> (rows & 7).astype(np.uint8)) & 1 != 0
        return found

    def mask(self) -> NDArray[np.bool_]:
        """Truth values (size,)."""
        return np.unpackbits(self.bits, count=self.size, bitorder="little").view(np.bool_)

    def rows(self) -> NDArray[np.int64]:
        """The rows that are in, ascending."""
        return np.flatnonzero(self.mask())

    def part(self, start: int, stop: int) -> RowSet:
        """The rows from `start`, a multiple of 8, to before `stop`, counted from `start` on."""
        return RowSet.of(
            np.unpackbits(self.bits[start // 8 : -(-stop // 8)], count=stop - start, bitorder="little") != 0
        )

    def without(self, rows: list[int]) -> RowSet:
        """The same set less `rows`."""
        if not rows:
            return self
        gone = np.unique(np.asarray(rows, np.int64))
        bits = self.bits.copy()
        np.bitwise_and.at(bits, gone >> 3, ~(np.uint8(1) << (gone & 7).astype(np.uint8)))
        return RowSet(bits, self.size, self.count - int(np.count_nonzero(self.has(gone))))

    def extended(self, more: int) -> RowSet:
        """The same set with `more` rows after the last, all of them in."""
        if not more:
            return self
        size = self.size + more
        bits = np.zeros((size + 7) // 8, np.uint8)
        bits[: len(self.bits)] = self.bits
        added = np.arange(self.size, size)
        np.bitwise_or.at(bits, added >> 3, np.uint8(1) << (added & 7).astype(np.uint8))
        return RowSet(bits, size, self.count + more)
