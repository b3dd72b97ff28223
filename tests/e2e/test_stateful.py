"""The whole engine against a dict: writes, searches, merges, other models, restarts and crashes in any order."""

from __future__ import annotations

import functools
import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from numpy.typing import NDArray

from indexer.catalogue import Applied, Delete, MetadataValue, Outcome, Photo, Put
from indexer.datadir import DataDir
from indexer.engine import Engine, Options, Serving
from indexer.errors import ItemNotFound
from indexer.generation import candidate_generation, previous_generation
from indexer.images import preprocess
from indexer.index import AnyOf, Filter, Range, SearchParams
from indexer.index.exact import cosine
from tests.e2e.folders import check_whole, publish_candidate, tiny_data
from tests.e2e.photos import photo

OPTIONS = Options(merge_min_entries=3, merge_ratio=0.1, keep_generations=2)
SEEDS = range(6)
IDS = st.sampled_from(["a", "b", "c", "d", "e", "ä", "a'; --"])
CATEGORIES = ["x", "y", "z"]
METADATA = st.dictionaries(st.sampled_from(["k", "l"]), st.sampled_from([1.0, 2.5, True, "1", "red"]), max_size=2)
FILTERS = st.sampled_from(
    [
        Filter(),
        Filter(categories=frozenset({"x"})),
        Filter(exclude_categories=frozenset({"y", "z"})),
        Filter(conditions=(AnyOf("k", (1.0, "red")),)),
        Filter(categories=frozenset({"x", "y"}), conditions=(Range("l", 1.0, 2.0),)),
        Filter(categories=frozenset({"nothing"})),
    ]
)


@dataclass(frozen=True)
class Expected:
    """One item, as it has to be."""

    seq: int
    category: str
    metadata: Mapping[str, MetadataValue]
    seed: int


class Observed(Engine):
    """The engine, with two ways to see it in the middle of its work."""

    def finish_merging(self) -> None:
        """Returns once no merge is under way and none is due."""
        while self._committer.run(lambda: self._gallery.rebuilding).result():
            time.sleep(0.001)

    def in_writer(self, function: Callable[[], object]) -> None:
        """Runs it between two changes."""
        self._committer.run(function).result()

    def copy_as_a_crash_would_leave_it(self, to: Path) -> None:
        """The data folder as the disk has it between two transactions, without anything having been closed."""
        self.finish_merging()
        self._committer.run(lambda: shutil.copytree(self.data.root, to)).result()


class EngineMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.data = tiny_data(self.folder)
        self.items: dict[str, Expected] = {}
        self.seq = 0
        self.generation = 0
        self.crashes = 0
        self.kept: list[tuple[Serving, list[tuple[str, float, int]]]] = []
        self.made: dict[str, NDArray[np.float32]] = {}
        self.models = 0
        self._open()

    def _open(self) -> None:
        self.engine = Observed(DataDir(self.data), OPTIONS).__enter__()
        self._embed()

    @property
    def vectors(self) -> NDArray[np.float32]:
        """(seeds, D), by the live model."""
        return self.made[self.engine.live.current.generation.model.id]

    def _close(self) -> None:
        self.kept.clear()
        self.engine.__exit__(None, None, None)

    def _embed(self) -> None:
        generation = self.engine.live.current.generation
        pixels = [preprocess(photo(seed), generation.model.preprocessing)[0] for seed in SEEDS]
        self.made[generation.model.id] = generation.encoder.encode(np.stack(pixels))

    # ------------------------------------------------------------------------------------------------ writes

    @rule(
        written=st.lists(st.tuples(IDS, st.sampled_from(CATEGORIES), METADATA, st.sampled_from(SEEDS)), min_size=1),
        by=st.integers(0, 3),
    )
    def put(self, written: list[tuple[str, str, dict[str, MetadataValue], int]], by: int) -> None:
        """Several at a time, which may share a transaction, and may be of one item; encoded by any of the models, as
        when another one goes live on their way."""
        model = list(self.made)[by % len(self.made)]
        puts = [
            Put(id, category, metadata, _photo(seed), {model: self.made[model][seed]})
            for id, category, metadata, seed in written
        ]
        answers = [self.engine.submit(put) for put in puts]
        for put, answer, (*_, seed) in zip(puts, answers, written, strict=True):
            self._expect(put, seed, answer.result())

    @rule(id=IDS, category=st.sampled_from(CATEGORIES), metadata=METADATA)
    def change_category_and_metadata(self, id: str, category: str, metadata: dict[str, MetadataValue]) -> None:
        put = Put(id, category, metadata, None)
        if id in self.items:
            self._expect(put, self.items[id].seed, self.engine.submit(put).result())
        else:
            with pytest.raises(ItemNotFound):
                self.engine.submit(put).result()

    def _expect(self, put: Put, seed: int, applied: Applied) -> None:
        before = self.items.get(put.id)
        after = Expected(self.seq + 1, put.category, put.metadata, seed)
        if before is not None and _content(before) == _content(after):
            assert (applied.outcome, applied.seq) == (Outcome.UNCHANGED, before.seq)
            return
        assert applied.outcome is (Outcome.CREATED if before is None else Outcome.UPDATED)
        assert applied.seq == after.seq
        self.seq += 1
        self.items[put.id] = after

    @rule(id=IDS)
    def delete(self, id: str) -> None:
        deleting = self.engine.submit(Delete(id))
        if self.items.pop(id, None) is None:
            with pytest.raises(ItemNotFound):
                deleting.result()
        else:
            self.seq += 1
            assert deleting.result().seq == self.seq

    # ------------------------------------------------------------------------------------------------ searches

    @rule(seed=st.sampled_from(SEEDS), k=st.integers(1, 10), exact=st.booleans(), wanted=FILTERS)
    def search(self, seed: int, k: int, exact: bool, wanted: Filter) -> None:
        params = SearchParams(k=k, exact=exact, filter=wanted)
        assert self._found(self.engine.live.current, seed, params) == self._nearest(seed, wanted)[:k]

    @rule(id=IDS, k=st.integers(1, 10))
    def search_by_item(self, id: str, k: int) -> None:
        view = self.engine.live.current.view
        row = view.row_of(id)
        assert (row is not None) == (id in self.items)
        if row is not None:
            np.testing.assert_array_equal(view.vectors(np.array(row)), self.vectors[self.items[id].seed])
            others = [hit for hit in self._nearest(self.items[id].seed, Filter()) if hit[0] != id]
            found = self._found(
                self.engine.live.current, self.items[id].seed, SearchParams(k=k, exclude_id=id, min_score=-1.0)
            )
            assert found == others[:k]

    @rule()
    def keep_an_answer_under_way(self) -> None:
        """A query that began now is answered from what there is now, whatever comes until it is done."""
        self.kept.append((self.engine.live.current, self._nearest(0, Filter())))

    def _found(self, serving: Serving, seed: int, params: SearchParams) -> list[tuple[str, float, int]]:
        (hits,) = serving.view.search(self.made[serving.generation.model.id][seed : seed + 1], params)
        return list(zip(hits.ids, hits.scores.tolist(), hits.seqs.tolist(), strict=True))

    def _nearest(self, seed: int, wanted: Filter) -> list[tuple[str, float, int]]:
        scored = [
            (id, float(cosine(self.vectors[item.seed], self.vectors[seed])), item.seq)
            for id, item in self.items.items()
            if _matches(item, wanted)
        ]
        return sorted(scored, key=lambda hit: (-hit[1], hit[2]))

    # ------------------------------------------------------------------------------------------------ life and death

    @rule()
    def merge(self) -> None:
        self.engine.finish_merging()
        view = self.engine.live.current.view
        due = max(OPTIONS.merge_min_entries, OPTIONS.merge_ratio * len(view.segment))
        assert max(len(view.delta), view.tombstones) < due

    @rule()
    def backfill(self) -> None:
        """A model that was taught from the live one, and its generation."""
        if candidate_generation(DataDir(self.data)) is None:
            self.models += 1
            self.engine.in_writer(lambda: publish_candidate(DataDir(self.data), self.engine.catalogue, self.models))

    @rule()
    def promote(self) -> None:
        info = candidate_generation(DataDir(self.data))
        if info is not None:
            self.engine.promote(info.number)
            self._embed()
            self.generation = info.number
            live = self.engine.live.current.generation
            assert live.model.id == info.model
            assert live.number >= info.number  # a merge may have followed

    @rule()
    def roll_back(self) -> None:
        info = previous_generation(DataDir(self.data))
        if info is not None:
            self.engine.promote(info.number)
            self.generation = info.number

    @rule()
    def restart(self) -> None:
        self._close()
        self._open()

    @rule()
    def crash(self) -> None:
        self.crashes += 1
        left = self.folder / f"crash-{self.crashes}"
        self.engine.copy_as_a_crash_would_leave_it(left)
        self._close()
        shutil.rmtree(self.data)
        self.data = left
        self._open()

    # ------------------------------------------------------------------------------------------------ always

    @invariant()
    def every_item_is_found_once(self) -> None:
        serving = self.engine.live.current
        assert self._found(serving, 0, SearchParams(k=100, exact=True)) == self._nearest(0, Filter())
        assert len(serving.view) == len(self.items) == self.engine.catalogue.totals().items
        assert self.engine.catalogue.last_seq == self.seq
        assert serving.generation.number >= self.generation
        self.generation = serving.generation.number

    @invariant()
    def an_answer_under_way_stays_what_it_was(self) -> None:
        for serving, expected in self.kept:
            assert self._found(serving, 0, SearchParams(k=100)) == expected

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self._close()
            check_whole(self.data, generations=4)
            shutil.rmtree(self.folder)


@functools.cache
def _photo(seed: int) -> Photo:
    data = photo(seed)
    return Photo(data, hashlib.sha256(data).hexdigest(), 96, 96, "JPEG")


def _content(item: Expected) -> object:
    """What makes two versions of an item the same; to Python, 1.0 and True would be."""
    return item.category, item.seed, {key: (type(value), value) for key, value in item.metadata.items()}


def _matches(item: Expected, wanted: Filter) -> bool:
    if wanted.categories and item.category not in wanted.categories:
        return False
    return item.category not in wanted.exclude_categories and all(
        _holds(item.metadata.get(condition.key), condition) for condition in wanted.conditions
    )


def _holds(value: MetadataValue | None, condition: AnyOf | Range) -> bool:
    if isinstance(condition, AnyOf):
        return any(type(value) is type(each) and value == each for each in condition.values)
    low = -np.inf if condition.min is None else condition.min
    high = np.inf if condition.max is None else condition.max
    return isinstance(value, float) and low <= value <= high


def test_the_engine_answers_as_a_dict_would() -> None:
    run_state_machine_as_test(
        EngineMachine,
        settings=settings(
            max_examples=40,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
