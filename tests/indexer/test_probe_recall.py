"""Probes as queries: where each finds its own category, and that this is the recall that everything else counts."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from indexer.index import Gallery, Segment, Upsert, View
from indexer.probe_recall import CohortProbes, all_probes, found_first, places, probes_of
from indexer.probes import is_probe, rank
from indexer.recall import leave_one_out, recall_from
from tests.indexer.vectors import unit

KS = (1, 5, 10)
PROBES = [id for id in (f"probe-{n}" for n in range(400)) if is_probe(id)]
OTHERS = [id for id in (f"item-{n}" for n in range(400)) if not is_probe(id)]


def view_of(vectors: NDArray[np.float32], ids: Sequence[str], categories: Sequence[str], in_main: int = 0) -> View:
    """A gallery of these items: so many of them in the main segment, the rest in the delta."""
    entries = [
        Upsert(seq, id, category, {}, vector)
        for seq, (id, category, vector) in enumerate(zip(ids, categories, vectors, strict=True), 1)
    ]
    segment = Segment.build(vectors[:in_main], np.arange(1, in_main + 1, dtype=np.uint64))
    return Gallery.open(segment, [(entry, entry.vector) for entry in entries]).view


def on_a_circle(*degrees: float) -> NDArray[np.float32]:
    """Unit vectors at these angles."""
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_a_place_is_that_of_the_first_other_item_of_the_probes_category_with_the_nearest_item() -> None:
    view = view_of(on_a_circle(0, 10, 25, 45), ["a", "b", "c", "d"], ["pear", "plum", "plum", "pear"])
    first, second = places(view, ["a", "b"])
    assert (first.id, first.category, first.place, first.nearest, first.nearest_category) == (
        "a",
        "pear",
        3,
        "b",
        "plum",
    )
    assert first.score == pytest.approx(math.cos(math.radians(10)), abs=1e-6)
    assert (second.place, second.nearest, second.nearest_category) == (2, "a", "pear")


def test_beyond_the_last_place_there_is_none() -> None:
    view = view_of(on_a_circle(0, 10, 20, 30), ["a", "b", "c", "d"], ["pear", "plum", "plum", "pear"])
    assert [each.place for each in places(view, ["a"], k=3)] == [3]
    assert [each.place for each in places(view, ["a"], k=2)] == [0]


def test_a_twin_of_the_probe_counts_and_the_probe_itself_never_does() -> None:
    vectors = on_a_circle(0, 0, 0, 90)
    view = view_of(vectors, ["old", "probe", "new", "far"], ["pear", "plum", "pear", "plum"])
    (found,) = places(view, ["probe"])
    assert (found.place, found.nearest) == (3, "old")
    assert found.score == pytest.approx(1.0)
    (alone,) = places(view_of(vectors[:1], ["alone"], ["pear"]), ["alone"])
    assert (alone.place, alone.nearest, math.isnan(alone.score)) == (0, "", True)


def test_an_item_that_the_view_does_not_hold_finds_nothing_and_shifts_no_other() -> None:
    view = view_of(on_a_circle(0, 10), ["a", "b"], ["pear", "pear"])
    gone, held = places(view, ["gone", "a"])
    assert (gone.id, gone.category, gone.place, gone.nearest) == ("gone", "", 0, "")
    assert held.place == 1
    assert found_first(view, ["gone", "a", "b"]).tolist() == [False, True, True]
    assert places(view, []) == []


@given(st.integers(0, 10_000), st.integers(2, 80), st.integers(1, 8), st.booleans())
def test_recall_of_places_is_recall_computed_from_the_vectors_to_the_digit(
    seed: int, count: int, categories: int, merged: bool
) -> None:
    rng = np.random.default_rng(seed)
    vectors = unit(rng.standard_normal((count, 8)))
    names = [f"category {n}" for n in rng.integers(0, categories, count)]
    ids = [f"item {n}" for n in range(count)]
    view = view_of(vectors, ids, names, in_main=count // 2 if merged else 0)
    could_be_found = [id for id, name in zip(ids, names, strict=True) if names.count(name) > 1]
    found = np.array([each.place for each in places(view, could_be_found)], np.int64)
    literal = leave_one_out(vectors, names, KS)
    assert recall_from(found, KS) == literal
    assert int(found_first(view, could_be_found).sum()) == literal[1].found


def test_probes_are_those_that_could_be_found_by_cohort_the_lowest_of_the_hash_first() -> None:
    ids = [*PROBES[:12], *OTHERS[:6]]
    categories = ["a"] * 5 + ["b"] * 4 + ["waits"] * 2 + ["lonely"] + ["a", "b", "waits", "waits", "c", "c"]
    view = view_of(unit(np.random.default_rng(0).standard_normal((18, 4))), ids, categories)
    cohort_of = {"a": 0, "b": 1, "lonely": 1, "c": 2}
    found = all_probes(view, cohort_of)
    assert {cohort: set(probes.ids) for cohort, probes in found.items()} == {
        0: set(PROBES[:5]),
        1: set(PROBES[5:9]),
        None: set(PROBES[9:11]),
    }
    assert list(found) == [0, 1, None]
    assert [probes.in_all for probes in found.values()] == [5, 4, 2]
    assert probes_of(view, cohort_of) == {0: found[0].ids, 1: found[1].ids}
    assert probes_of(view, cohort_of, most=2) == {0: found[0].ids[:2], 1: found[1].ids[:2]}
    assert all_probes(view, cohort_of, most=2) == {
        cohort: CohortProbes(probes.ids[:2], probes.in_all) for cohort, probes in found.items()
    }


def test_an_empty_gallery_has_no_probes() -> None:
    assert all_probes(view_of(np.empty((0, 4), np.float32), [], []), {"a": 0}) == {}


def test_the_search_for_probes_can_be_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexer.probe_recall._ROWS", 4)
    view = view_of(unit(np.random.default_rng(0).standard_normal((20, 4))), OTHERS[:20], ["a"] * 20)
    pauses: list[int] = []

    def pause() -> None:
        pauses.append(1)
        if len(pauses) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        all_probes(view, {}, pause=pause)
    assert len(pauses) == 3


@pytest.mark.parametrize("most", [1, 5, 100])
def test_each_id_is_hashed_once_and_no_more_than_are_wanted_are_put_in_order_between_two_pauses(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.probe_recall._ROWS", 8)
    ids = PROBES[:60]
    view = view_of(unit(np.random.default_rng(0).standard_normal((60, 4))), ids, ["a"] * 60)
    hashed: list[str] = []
    events: list[int] = []

    def counted(id: str) -> float:
        hashed.append(id)
        return rank(id)

    def nsmallest(n: int, of: list[tuple[float, str]]) -> list[tuple[float, str]]:
        events.append(len(of))
        return heapq.nsmallest(n, of)

    with monkeypatch.context() as patch:
        for module in ("indexer.probe_recall", "indexer.probes"):
            patch.setattr(f"{module}.rank", counted)
        patch.setattr("indexer.probe_recall.heapq", SimpleNamespace(nsmallest=nsmallest))
        found = all_probes(view, {"a": 0}, most, lambda: events.append(0))
    assert found == {0: CohortProbes(sorted(ids, key=rank)[:most], len(ids))}
    assert sorted(hashed) == sorted(ids)
    assert max(events) <= most + 8
    assert events[-1] == 0  # nothing is left for after the last pause
