"""Metadata and filters for hypothesis, from few keys and values, so that they meet often."""

from __future__ import annotations

from hypothesis import strategies as st

from indexer.index import AnyOf, Filter, MetadataValue, Range

_KEYS = st.sampled_from(["size", "colour", "stock"])
_NUMBERS = st.sampled_from([0.0, 1.0, 2.0, 2.5])
_VALUES: st.SearchStrategy[MetadataValue] = st.one_of(
    _NUMBERS, st.booleans(), st.sampled_from(["red", "1", "True", ""])
)


def metadata() -> st.SearchStrategy[dict[str, MetadataValue]]:
    return st.dictionaries(_KEYS, _VALUES, max_size=3)


def filters() -> st.SearchStrategy[Filter]:
    categories = st.frozensets(st.sampled_from(["a", "b", "c", "unknown"]), max_size=2)
    any_of = st.builds(AnyOf, _KEYS, st.lists(_VALUES, max_size=3).map(tuple))
    numbers = st.builds(Range, _KEYS, st.none() | _NUMBERS, st.none() | _NUMBERS)
    conditions = st.lists(st.one_of(any_of, numbers), max_size=2).map(tuple)
    return st.builds(Filter, categories, st.just(frozenset()) | categories, conditions)
