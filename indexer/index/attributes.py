"""What is known of each row besides its vector: id, seq, category and metadata, in columns that filters scan.

Append-only, for one writer and lock-free readers (rows.py has the argument). Dictionaries are only looked up by key,
never iterated, by readers, and an entry is complete before it is put in; what must be walked is a list, whose end may
grow meanwhile without harm. Strings are stored once. Memory of entries that are gone comes back with `take`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from indexer.index.filters import AnyOf, Filter, MetadataValue, Range, kind_of
from indexer.index.rows import Column

_NO_KEYS: tuple[str, ...] = ()
_NO_VALUES: tuple[MetadataValue, ...] = ()


class Entry(Protocol):
    """One live item, as the catalogue lists it."""

    @property
    def seq(self) -> int: ...
    @property
    def id(self) -> str: ...
    @property
    def category(self) -> str: ...
    @property
    def metadata(self) -> Mapping[str, MetadataValue]: ...


class Vocabulary:
    """Numbers strings in the order of their first use."""

    def __init__(self, words: Iterable[str] = ()) -> None:
        self.words = list(words)
        self._codes = {word: code for code, word in enumerate(self.words)}

    def add(self, word: str) -> int:
        code = self._codes.get(word)
        if code is None:
            code = len(self.words)
            self.words.append(word)
            self._codes[word] = code
        return code

    def codes(self, words: Iterable[str]) -> list[int]:
        """The numbers of those `words` that have one."""
        return [code for word in words if (code := self._codes.get(word)) is not None]

    def reduced(self, codes: NDArray[np.int32]) -> tuple[Vocabulary, NDArray[np.int32]]:
        """A vocabulary of only the words that `codes` use (negative: none), and `codes` in its numbers."""
        used = np.unique(codes[codes >= 0])
        renumbered = np.where(codes >= 0, np.searchsorted(used, codes), -1).astype(np.int32)
        return Vocabulary(self.words[code] for code in used), renumbered


class _Field:
    """The values of one type that one metadata key has: which rows have one, ascending, and which it is."""

    def __init__(self, rows: Column[np.int32], values: Column[Any], vocabulary: Vocabulary | None) -> None:
        self.rows = rows
        self.values = values
        self.vocabulary = vocabulary  # of text; numbers and truth values are held as they are

    @classmethod
    def empty(cls, kind: type) -> _Field:
        if kind is str:
            return cls(Column(np.int32), Column(np.int32), Vocabulary())
        return cls(Column(np.int32), Column(np.bool_ if kind is bool else np.float64), None)

    def append(self, row: int, value: MetadataValue) -> MetadataValue:
        """Adds a value; returns the equal one to keep, which for text is the vocabulary's own copy."""
        if self.vocabulary is not None and isinstance(value, str):
            code = self.vocabulary.add(value)
            self.values.append(code)
            value = self.vocabulary.words[code]
        else:
            self.values.append(value)
        self.rows.append(row)
        return value

    def upto(self, n: int) -> tuple[NDArray[np.int32], NDArray[Any]]:
        """Rows below `n` that have a value, and their values."""
        rows = self.rows.upto(len(self.rows))
        rows = rows[: np.searchsorted(rows, n)]
        return rows, self.values.upto(len(rows))

    def any_of(self, n: int, values: list[Any]) -> NDArray[np.int32]:
        """Rows below `n` whose value is one of `values`."""
        rows, held = self.upto(n)
        wanted = values if self.vocabulary is None else self.vocabulary.codes(values)
        return rows[np.isin(held, wanted)]

    def between(self, n: int, low: float | None, high: float | None) -> NDArray[np.int32]:
        """Rows below `n` whose value lies within the bounds."""
        rows, held = self.upto(n)
        return rows[(held >= (-np.inf if low is None else low)) & (held <= (np.inf if high is None else high))]

    def take(self, n: int, new_rows: NDArray[np.int64]) -> _Field:
        """The same values at `new_rows[row]`; negative drops them."""
        rows, values = self.upto(n)
        moved = new_rows[rows]
        order = np.argsort(moved, kind="stable")
        order = order[moved[order] >= 0]
        values, vocabulary = values[order], self.vocabulary
        if vocabulary is not None:
            vocabulary, values = vocabulary.reduced(values)
        return _Field(Column.of(moved[order].astype(np.int32)), Column.of(values), vocabulary)


class Attributes:
    """Rows in the order they were appended. `n` in the readers' methods is the row count of their view."""

    def __init__(self) -> None:
        self._ids: list[str | None] = []
        self._keys: list[tuple[str, ...]] = []
        self._values: list[tuple[MetadataValue, ...]] = []
        self._seqs: Column[np.uint64] = Column(np.uint64)
        self._categories: Column[np.int32] = Column(np.int32)
        self._category_names = Vocabulary()
        self._fields: list[tuple[tuple[str, type], _Field]] = []
        self._field_of: dict[tuple[str, type], _Field] = {}
        self._latest: dict[str, int] = {}  # id -> its newest row, dead or alive
        self._previous: Column[np.int32] = Column(np.int32)  # the row that the same id had before, or -1
        self._shapes: dict[tuple[str, ...], tuple[str, ...]] = {}  # rows with the same keys share one tuple of them

    def __len__(self) -> int:
        return len(self._seqs)

    # For the writer

    def append(self, entry: Entry) -> int | None:
        """Adds a row; returns the newest row that its id had before, dead or alive."""
        row, before = len(self), self._latest.get(entry.id)
        self._ids.append(entry.id)
        keys = tuple(entry.metadata)
        self._keys.append(self._shapes.setdefault(keys, keys) if keys else _NO_KEYS)
        self._values.append(tuple(self._add_value(row, *pair) for pair in entry.metadata.items()) or _NO_VALUES)
        self._categories.append(self._category_names.add(entry.category))
        self._previous.append(-1 if before is None else before)
        self._seqs.append(entry.seq)
        self._latest[entry.id] = row
        return before

    def append_dead(self, seq: int) -> None:
        """Adds a row that no id has: an entry of the main segment that is gone."""
        self._ids.append(None)
        self._keys.append(_NO_KEYS)
        self._values.append(_NO_VALUES)
        self._categories.append(-1)
        self._previous.append(-1)
        self._seqs.append(seq)

    def _add_value(self, row: int, key: str, value: MetadataValue) -> MetadataValue:
        kind = kind_of(value)
        field = self._field_of.get((key, kind))
        if field is None:
            field = _Field.empty(kind)
            self._fields.append(((key, kind), field))
            self._field_of[key, kind] = field
        return field.append(row, value)

    # For readers

    def latest(self, item_id: str, n: int) -> int | None:
        """The newest row below `n` that the id had, dead or alive. All older ones are dead."""
        row = self._latest.get(item_id, -1)
        while row >= n:
            row = int(self._previous.upto(row + 1)[row])
        return row if row >= 0 else None

    def id(self, row: int) -> str:
        """The id of a row that is alive in the reader's view."""
        return cast("str", self._ids[row])

    def category(self, row: int) -> str:
        return self._category_names.words[int(self._categories.upto(row + 1)[row])]

    def category_codes(self, n: int) -> tuple[NDArray[np.int32], list[str]]:
        """Each row's category (n,) as a number, negative for a row that is dead from the start; and their names."""
        codes = self._categories.upto(n)  # before the names: whatever has a number by then has its name there
        return codes, self._category_names.words

    def metadata(self, row: int) -> dict[str, MetadataValue]:
        return dict(zip(self._keys[row], self._values[row], strict=True))

    def seqs(self, n: int) -> NDArray[np.uint64]:
        """Each row's seq, (n,)."""
        return self._seqs.upto(n)

    def match(self, wanted: Filter, n: int) -> NDArray[np.bool_]:
        """Which of the rows 0 to `n` - 1 match, dead or alive, (n,)."""
        matches = np.ones(n, np.bool_)
        codes = self._categories.upto(n)
        if wanted.categories:
            matches &= np.isin(codes, self._category_names.codes(wanted.categories))
        if wanted.exclude_categories:
            matches &= np.isin(codes, self._category_names.codes(wanted.exclude_categories), invert=True)
        for condition in wanted.conditions:
            holds = np.zeros(n, np.bool_)
            for rows in self._rows_where(condition, n):
                holds[rows] = True
            matches &= holds
        return matches

    def _rows_where(self, condition: AnyOf | Range, n: int) -> Iterable[NDArray[np.int32]]:
        if isinstance(condition, Range):
            field = self._field_of.get((condition.key, float))
            return [] if field is None else [field.between(n, condition.min, condition.max)]
        by_kind: dict[type, list[MetadataValue]] = {}
        for value in condition.values:
            by_kind.setdefault(kind_of(value), []).append(value)
        fields = ((self._field_of.get((condition.key, kind)), values) for kind, values in by_kind.items())
        return [field.any_of(n, values) for field, values in fields if field is not None]

    def take(self, n: int, rows: NDArray[np.int64], seqs: NDArray[np.uint64]) -> Attributes:
        """New attributes, whose row i is row `rows[i]` (below `n`) of these; negative makes it dead, with `seqs[i]`."""
        taken = Attributes()
        alive = rows >= 0
        taken._ids = [self._ids[row] if row >= 0 else None for row in rows.tolist()]
        taken._keys = [self._keys[row] if row >= 0 else _NO_KEYS for row in rows.tolist()]
        taken._values = [self._values[row] if row >= 0 else _NO_VALUES for row in rows.tolist()]
        taken._seqs = Column.of(seqs.copy())
        codes = self._categories.upto(n)
        old = np.where(alive, codes[rows], -1) if n else np.full(len(rows), -1, np.int32)
        taken._category_names, codes = self._category_names.reduced(old)
        taken._categories = Column.of(codes)
        new_rows = np.full(n, -1, np.int64)
        new_rows[rows[alive]] = np.flatnonzero(alive)
        fields = ((name, field.take(n, new_rows)) for name, field in self._fields)
        taken._fields = [(name, field) for name, field in fields if len(field.rows)]
        taken._field_of = dict(taken._fields)
        taken._latest = {item_id: row for row, item_id in enumerate(taken._ids) if item_id is not None}
        taken._previous = Column.of(np.full(len(rows), -1, np.int32))
        taken._shapes = {keys: keys for keys in taken._keys}
        return taken
