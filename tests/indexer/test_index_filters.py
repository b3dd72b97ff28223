"""Filters over columns against a literal reading of what a filter means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.index import AnyOf, Filter, MetadataValue, Range
from indexer.index.attributes import Attributes
from tests.indexer.strategies import filters, metadata


@dataclass(frozen=True)
class Row:
    seq: int
    id: str
    category: str
    metadata: Mapping[str, MetadataValue]


def matches(wanted: Filter, category: str, values: Mapping[str, MetadataValue]) -> bool:
    """What a filter means, in plain words of Python."""
    if wanted.categories and category not in wanted.categories:
        return False
    return category not in wanted.exclude_categories and all(_holds(each, values) for each in wanted.conditions)


def _holds(condition: AnyOf | Range, values: Mapping[str, MetadataValue]) -> bool:
    if condition.key not in values:
        return False
    value = values[condition.key]
    if isinstance(condition, AnyOf):
        return any(type(value) is type(each) and value == each for each in condition.values)
    if not isinstance(value, float):
        return False
    return (condition.min is None or value >= condition.min) and (condition.max is None or value <= condition.max)


def _filled(rows: list[Row]) -> Attributes:
    attributes = Attributes()
    for row in rows:
        attributes.append(row)
    return attributes


ROWS = st.lists(st.tuples(st.sampled_from("abc"), metadata()), max_size=12).map(
    lambda items: [Row(seq, f"id{seq % 5}", category, values) for seq, (category, values) in enumerate(items, 1)]
)


@given(ROWS, filters(), st.integers(0, 12))
def test_columns_match_what_the_filter_says(rows: list[Row], wanted: Filter, n: int) -> None:
    n = min(n, len(rows))
    attributes = _filled(rows)
    expected = [matches(wanted, row.category, row.metadata) for row in rows[:n]]
    assert attributes.match(wanted, n).tolist() == expected


@given(ROWS, filters(), st.randoms(use_true_random=False))
def test_rows_that_are_taken_over_keep_what_is_known_of_them(rows: list[Row], wanted: Filter, random: object) -> None:
    attributes = _filled(rows)
    n = max(0, len(rows) - 2)  # what came after the view is not taken
    order = np.random.default_rng(len(rows)).permutation(n)
    chosen = np.where(order % 4 == 0, -1, order).astype(np.int64)
    seqs = np.arange(1, n + 1, dtype=np.uint64)
    taken = attributes.take(n, chosen, seqs)
    extra = Row(99, "extra", "c", {"size": 2.0, "colour": "red"})
    taken.append(extra)
    assert taken.seqs(n).tolist() == seqs.tolist()
    got = taken.match(wanted, n + 1).tolist()
    for new, old in [*enumerate(chosen.tolist()), (n, None)]:
        row = extra if old is None else rows[old]
        if old == -1:
            continue
        assert (taken.id(new), taken.category(new), taken.metadata(new)) == (row.id, row.category, row.metadata)
        assert got[new] == matches(wanted, row.category, row.metadata)


@pytest.mark.parametrize(
    ("value", "other"), [(1.0, True), (0.0, False), ("1", 1.0), ("True", True)], ids=["1", "0", "text", "truth"]
)
def test_the_type_of_a_metadata_value_counts(value: MetadataValue, other: MetadataValue) -> None:
    attributes = _filled([Row(1, "a", "c", {"key": value}), Row(2, "b", "c", {"key": other})])
    assert attributes.match(Filter(conditions=(AnyOf("key", (value,)),)), 2).tolist() == [True, False]
    assert attributes.match(Filter(conditions=(AnyOf("key", (other,)),)), 2).tolist() == [False, True]
    assert attributes.match(Filter(conditions=(AnyOf("key", (value, other)),)), 2).all()
    assert AnyOf("key", (value,)) != AnyOf("key", (other,))
    assert len({Filter(conditions=(AnyOf("key", (each,)),)) for each in (value, other)}) == 2


def test_both_ends_of_a_range_are_included_and_an_absent_end_is_open() -> None:
    attributes = _filled([Row(seq, str(seq), "c", {"price": float(seq)}) for seq in range(1, 6)])

    def found(condition: Range) -> list[bool]:
        return [bool(each) for each in attributes.match(Filter(conditions=(condition,)), 5)]

    assert found(Range("price", 2.0, 4.0)) == [False, True, True, True, False]
    assert found(Range("price", min=4.0)) == [False, False, False, True, True]
    assert found(Range("price")) == [True] * 5
    assert found(Range("price", 4.0, 2.0)) == [False] * 5


def test_an_unknown_category_or_key_matches_nothing() -> None:
    attributes = _filled([Row(1, "a", "c", {"key": "value"})])
    assert not attributes.match(Filter(categories=frozenset({"unheard of"})), 1).any()
    assert attributes.match(Filter(exclude_categories=frozenset({"unheard of"})), 1).all()
    assert not attributes.match(Filter(conditions=(AnyOf("other", ("value",)),)), 1).any()
    assert not attributes.match(Filter(conditions=(Range("key"),)), 1).any()
    assert not attributes.match(Filter(conditions=(AnyOf("key", ()),)), 1).any()
