"""The gallery against a dictionary and the oracle, through puts, updates, deletes, merges and restarts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from indexer.index import Change, Filter, Gallery, MetadataValue, Removal, SearchParams, Segment, Upsert, View, exact
from tests.indexer.strategies import filters, metadata
from tests.indexer.test_index_filters import matches
from tests.indexer.vectors import unit

D = 8
DISTINCT = unit(np.random.default_rng(0).standard_normal((12, D)))  # few, so that duplicates are common
IDS = st.sampled_from([f"id{i}" for i in range(9)])
SEARCHES = st.builds(
    SearchParams,
    k=st.sampled_from([1, 3, 100]),
    filter=st.one_of(st.just(Filter()), filters()),
    exact=st.booleans(),
    min_score=st.none() | st.sampled_from([0.0, 0.5, 1.0]),
    exclude_id=st.none() | IDS,
)
ITEMS = st.tuples(IDS, st.sampled_from("abc"), metadata(), st.integers(0, len(DISTINCT) - 1))


@dataclass(frozen=True)
class Model:
    """What the gallery must hold at one moment."""

    view: View
    items: dict[str, Upsert]

    def check(self, params: SearchParams) -> None:
        """Two queries in one batch, against the oracle over what is in the dictionary."""
        ordered = sorted(self.items.values(), key=lambda item: item.seq)
        vectors = np.array([item.vector for item in ordered], np.float32).reshape(-1, D)
        mask = np.array(
            [matches(params.filter, each.category, each.metadata) and each.id != params.exclude_id for each in ordered],
            bool,
        )
        queries = DISTINCT[[0, 5]]
        expected = exact.search(vectors, queries, params.k, mask, params.min_score)
        for hits, (rows, scores) in zip(self.view.search(queries, params), expected, strict=True):
            want = [ordered[row] for row in rows]
            assert hits.ids == [item.id for item in want]
            assert hits.seqs.tolist() == [item.seq for item in want]
            assert hits.categories == [item.category for item in want]
            assert hits.metadata == [item.metadata for item in want]
            assert hits.scores.tolist() == scores.tolist()


class GalleryMachine(RuleBasedStateMachine):
    """Small galleries are exact, so every answer must equal the oracle's."""

    @initialize()
    def begin(self) -> None:
        self.seq = 0
        self.items: dict[str, Upsert] = {}
        self.gallery = Gallery.open(Segment.build(np.empty((0, D), np.float32), np.empty(0, np.uint64)), [])
        self.kept: list[Model] = []
        self.merging: tuple[View, list[list[Change]]] | None = None

    def _apply(self, changes: list[Change]) -> None:
        self.gallery.apply(changes)
        if self.merging is not None:
            self.merging[1].append(changes)

    def _put(self, item: tuple[str, str, dict[str, MetadataValue], int]) -> Upsert:
        item_id, category, values, vector = item
        self.seq += 1
        put = Upsert(self.seq, item_id, category, values, DISTINCT[vector])
        self.items[item_id] = put
        return put

    @rule(items=st.lists(ITEMS, min_size=1, max_size=6))
    def put(self, items: list[tuple[str, str, dict[str, MetadataValue], int]]) -> None:
        self._apply([self._put(item) for item in items])

    @rule(item_id=IDS, items=st.lists(ITEMS, max_size=2))
    def delete(self, item_id: str, items: list[tuple[str, str, dict[str, MetadataValue], int]]) -> None:
        changes: list[Change] = [self._put(item) for item in items]
        self.seq += 1
        self.items.pop(item_id, None)
        self._apply([*changes, Removal(self.seq, item_id)])

    @rule()
    def keep_a_view(self) -> None:
        self.kept = [*self.kept[-3:], Model(self.gallery.view, dict(self.items))]

    @precondition(lambda self: self.merging is None)
    @rule()
    def begin_merge(self) -> None:
        self.merging = (self.gallery.view, [])

    @precondition(lambda self: self.merging is not None)
    @rule()
    def end_merge(self) -> None:
        assert self.merging is not None
        view, since = self.merging
        merged = Gallery.rebase(view, Segment.build(*view.live_vectors()))
        for changes in since:
            merged.apply(changes)
        self.gallery, self.merging = merged, None

    @rule()
    def restart(self) -> None:
        """The segment from its files, the rest from what the catalogue would list."""
        with _saved(self.gallery.view.segment) as segment:
            held = set(segment.seqs.tolist())
            entries = sorted(self.items.values(), key=lambda item: item.seq)
            self.gallery = Gallery.open(
                segment, ((item, None if item.seq in held else item.vector) for item in entries), seq=self.seq
            )
        self.merging = None

    @rule(params=SEARCHES)
    def search(self, params: SearchParams) -> None:
        Model(self.gallery.view, self.items).check(params)

    @rule(params=SEARCHES)
    def search_old_views(self, params: SearchParams) -> None:
        for model in self.kept:
            model.check(params)

    @invariant()
    def every_item_has_its_row(self) -> None:
        for model in [Model(self.gallery.view, self.items), *self.kept]:
            assert len(model.view) == len(model.items)
            for item_id in (f"id{i}" for i in range(9)):
                row = model.view.row_of(item_id)
                assert (row is not None) == (item_id in model.items)
                if row is not None:
                    assert np.array_equal(model.view.vectors(np.array([row]))[0], model.items[item_id].vector)


@contextmanager
def _saved(segment: Segment) -> Iterator[Segment]:
    with tempfile.TemporaryDirectory() as folder:
        segment.save(Path(folder))
        yield Segment.load(Path(folder))


TestGallery = GalleryMachine.TestCase
TestGallery.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
