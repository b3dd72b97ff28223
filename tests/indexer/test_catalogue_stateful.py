"""The catalogue against a dict: batches of puts, updates and deletes, vectors stored and dropped, reopened at will."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from indexer.catalogue import Applied, Catalogue, CategoryCount, Change, Delete, Outcome, Put, Totals
from indexer.catalogue.values import encode_metadata
from tests.indexer.catalogues import DATABASES, fresh_url, photo, vector

IDS = ["a", "b", "c", "ä", "a'; --"]
SHOWN = ["p", "q", "r"]
MODELS = ["one", "two"]
METADATA = st.dictionaries(
    st.sampled_from(["k", "l", "schlüssel"]),
    st.sampled_from([1.0, True, "1", "", 0.0, -0.0, 1e300, 0.1]) | st.text(max_size=3).filter(str.isprintable),
    max_size=3,
)
VALUES = {
    "id": st.sampled_from(IDS),
    "category": st.sampled_from(["x", "y", "z"]),
    "metadata": METADATA,
    "shows": st.sampled_from(SHOWN) | st.none(),
    "model": st.sampled_from(MODELS),
    "embedded": st.booleans(),
}


def _change(
    id: str, category: str, metadata: dict[str, str | float | bool], shows: str | None, model: str, embedded: bool
) -> Put:
    made = {model: vector(shows, model)} if shows and embedded else {}
    return Put(id, category, metadata, photo(shows) if shows else None, made)


CHANGES = st.lists(st.builds(_change, **VALUES) | st.builds(Delete, VALUES["id"]), min_size=1, max_size=6)


@dataclass
class Expected:
    """What the catalogue has to hold, the slow and obvious way."""

    seq: int = 0
    items: dict[str, tuple[int, str, str, str]] = field(default_factory=dict)  # seq, category, metadata, photo
    vectors: set[tuple[str, str]] = field(default_factory=set)  # model, photo

    def apply(self, changes: list[Change]) -> list[tuple[int, Outcome] | None]:
        answers = [self._delete(each) if isinstance(each, Delete) else self._put(each) for each in changes]
        shown = {item[3] for item in self.items.values()}
        self.vectors = {(model, sha256) for model, sha256 in self.vectors if sha256 in shown}
        return answers

    def _delete(self, change: Delete) -> tuple[int, Outcome] | None:
        if self.items.pop(change.id, None) is None:
            return None
        self.seq += 1
        return self.seq, Outcome.DELETED

    def _put(self, change: Put) -> tuple[int, Outcome] | None:
        old = self.items.get(change.id)
        if change.photo is None and old is None:
            return None
        sha256 = change.photo.sha256 if change.photo else old[3] if old else ""
        self.vectors.update((model, sha256) for model in change.vectors)
        new = (change.category, encode_metadata(change.metadata), sha256)
        if old and old[1:] == new:
            return old[0], Outcome.UNCHANGED
        self.seq += 1
        self.items[change.id] = (self.seq, *new)
        return self.seq, Outcome.UPDATED if old else Outcome.CREATED


class CatalogueMachine(RuleBasedStateMachine):
    database = "sqlite"

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.url = fresh_url(self.database, self.folder)
        self.catalogue = Catalogue.open(self.url)
        self.expected = Expected()

    @rule(changes=CHANGES)
    def apply(self, changes: list[Change]) -> None:
        answers = self.catalogue.apply(changes)
        found = [(each.seq, each.outcome) if isinstance(each, Applied) else None for each in answers]
        assert found == self.expected.apply(changes)

    @rule(shows=st.sets(st.sampled_from(SHOWN)), model=VALUES["model"])
    def store_vectors(self, shows: set[str], model: str) -> None:
        present = {item[3] for item in self.expected.items.values()}
        new = {(model, photo(each).sha256) for each in shows if photo(each).sha256 in present} - self.expected.vectors
        stored = self.catalogue.store_vectors(model, {photo(each).sha256: vector(each, model) for each in shows})
        assert stored == len(new)
        self.expected.vectors |= new

    @rule(model=VALUES["model"])
    def drop_vectors(self, model: str) -> None:
        while self.catalogue.drop_vectors(model, limit=2):
            pass
        self.expected.vectors = {key for key in self.expected.vectors if key[0] != model}

    @rule()
    def reopen(self) -> None:
        self.catalogue.close()
        self.catalogue = Catalogue.open(self.url)

    @invariant()
    def holds_what_is_expected(self) -> None:
        items = self.expected.items
        photos = {item[3] for item in items.values()}
        names = sorted({item[1] for item in items.values()})
        assert self.catalogue.totals() == Totals(len(items), len(names), len(photos), len(photos), self.expected.seq)
        assert self.catalogue.categories(100) == [
            CategoryCount(name, sum(item[1] == name for item in items.values())) for name in names
        ]
        stored = self.catalogue.get_many(IDS)
        assert items == {
            id: (item.seq, item.category, encode_metadata(item.metadata), item.image_sha256)
            for id, item in stored.items()
        }
        entries = [
            (each.id, each.seq, each.category, encode_metadata(each.metadata), each.image_sha256)
            for each in self.catalogue.entries()
        ]
        assert entries == sorted(((id, *item) for id, item in items.items()), key=lambda each: each[1])
        for name in SHOWN:
            if photo(name).sha256 in photos:
                assert self.catalogue.photo(photo(name).sha256) == photo(name)
        for model in MODELS:
            self._holds_vectors(model, photos)

    def _holds_vectors(self, model: str, photos: set[str]) -> None:
        have = {sha256 for of_model, sha256 in self.expected.vectors if of_model == model}
        assert set(self.catalogue.missing_vectors(model)) == photos - have
        made = {photo(name).sha256: vector(name, model) for name in SHOWN}
        for chunk in self.catalogue.entries_with_vectors(model):
            for entry, row in chunk:
                assert (row is not None) == (entry.image_sha256 in have)
                if row is not None:
                    np.testing.assert_array_equal(row, made[entry.image_sha256])

    def teardown(self) -> None:
        self.catalogue.verify()
        self.catalogue.close()
        shutil.rmtree(self.folder)


@pytest.mark.parametrize("database", DATABASES)
def test_the_catalogue_holds_what_a_dict_would(database: str) -> None:
    machine = type("Machine", (CatalogueMachine,), {"database": database})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
