"""Row sets against Python's sets; columns while they grow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.index.rows import Column, RowSet


@given(st.lists(st.booleans(), max_size=40), st.lists(st.integers(0, 39), max_size=10), st.integers(0, 20))
def test_a_row_set_is_a_set_of_rows(mask: list[bool], gone: list[int], more: int) -> None:
    rows = RowSet.of(np.array(mask, bool))
    expected = {row for row, inside in enumerate(mask) if inside}
    gone = [row for row in gone if row < len(mask)]
    less = rows.without(gone)
    grown = less.extended(more)
    for got, want, size in (
        (rows, expected, len(mask)),
        (less, expected - set(gone), len(mask)),
        (grown, (expected - set(gone)) | set(range(len(mask), len(mask) + more)), len(mask) + more),
    ):
        assert (got.size, got.count) == (size, len(want))
        assert set(got.rows().tolist()) == want
        assert [bool(inside) for inside in got.mask()] == [row in want for row in range(size)]
        assert got.has(np.arange(size)).tolist() == got.mask().tolist()


def test_taking_rows_out_leaves_the_set_that_was_there() -> None:
    before = RowSet.full(100)
    before.without([3, 50]).extended(30)
    assert before.count == 100
    assert before.mask().all()


@pytest.mark.parametrize("width", [None, 3], ids=["scalars", "vectors"])
def test_what_was_read_of_a_column_stays_while_it_grows(width: int | None) -> None:
    column: Column[np.float32] = Column(np.float32, width)
    seen = []
    for value in range(100):
        column.append(value)
        seen.append(column.upto(value + 1))
    for n, values in enumerate(seen, 1):
        flat = values if width is None else values[:, 0]
        assert flat.tolist() == list(range(n))


def test_readers_cannot_write_into_a_column() -> None:
    column: Column[np.int32] = Column.of(np.arange(5, dtype=np.int32))
    with pytest.raises(ValueError, match="read-only"):
        column.upto(5)[0] = 7
    column.append(5)
    assert column.upto(6).tolist() == list(range(6))


@given(st.lists(st.booleans(), max_size=60), st.integers(0, 7), st.integers(0, 60))
def test_a_part_of_a_row_set_counts_from_its_first_row(mask: list[bool], eighth: int, more: int) -> None:
    start = min(8 * eighth, len(mask) // 8 * 8)
    stop = min(start + more, len(mask))
    part = RowSet.of(np.array(mask, bool)).part(start, stop)
    assert part.rows().tolist() == [row for row, inside in enumerate(mask[start:stop]) if inside]
    assert (part.size, part.count) == (stop - start, sum(mask[start:stop]))
