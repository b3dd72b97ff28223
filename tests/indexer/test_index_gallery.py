"""The gallery's views: what a step changes, what it leaves, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from indexer.errors import GenerationDamaged, InvalidField, InvalidVector
from indexer.index import Filter, Gallery, Removal, SearchParams, Segment, Upsert, View, exact
from indexer.index.scan import scan
from tests.indexer.vectors import clustered, unit

D = 8
VECTORS = unit(np.random.default_rng(3).standard_normal((40, D)))


def put(seq: int, item_id: str, vector: int | None = None, category: str = "c") -> Upsert:
    return Upsert(seq, item_id, category, {"seq": float(seq)}, VECTORS[seq if vector is None else vector])


def empty() -> Gallery:
    return Gallery.open(Segment.build(np.empty((0, D), np.float32), np.empty(0, np.uint64)), [])


def over_segment(items: Sequence[Upsert]) -> Gallery:
    """A gallery whose `items` are all in the main segment."""
    vectors = np.array([item.vector for item in items], np.float32).reshape(-1, D)
    segment = Segment.build(vectors, np.array([item.seq for item in items], np.uint64))
    return Gallery.open(segment, [(item, None) for item in items])


def ids(view: View, query: NDArray[np.float32], k: int = 100, **params: object) -> list[str]:
    (hits,) = view.search(query[None], SearchParams(k=k, **params))  # type: ignore[arg-type]
    return hits.ids


@pytest.fixture(params=["delta", "main"])
def three(request: pytest.FixtureRequest) -> Gallery:
    """Items a, b, c with seqs 1, 2, 3: in the delta, or in the main segment."""
    items = [put(1, "a"), put(2, "b"), put(3, "c")]
    if request.param == "main":
        return over_segment(items)
    gallery = empty()
    gallery.apply(items)
    return gallery


def test_an_item_is_found_from_the_step_that_adds_it(three: Gallery) -> None:
    before = three.view
    view = three.apply([put(4, "d")])
    assert view is three.view
    assert ids(view, VECTORS[4])[0] == "d"
    assert "d" not in ids(before, VECTORS[4])
    assert (len(before), len(view), view.seq, view.rows) == (3, 4, 4, 4)


def test_a_replaced_item_is_found_once_as_it_is_now(three: Gallery) -> None:
    view = three.apply([put(4, "a", category="new")])
    (hits,) = view.search(VECTORS[1:2], SearchParams())
    assert sorted(hits.ids) == ["a", "b", "c"]
    at = hits.ids.index("a")
    assert (hits.categories[at], hits.metadata[at], int(hits.seqs[at])) == ("new", {"seq": 4.0}, 4)
    assert hits.scores[at] == exact.cosine(VECTORS[4], VECTORS[1])
    assert view.tombstones == 1


def test_a_removed_item_is_gone(three: Gallery) -> None:
    view = three.apply([Removal(4, "b")])
    assert "b" not in ids(view, VECTORS[2])
    assert view.row_of("b") is None
    assert (len(view), view.seq) == (2, 4)


def test_removing_an_unknown_item_changes_nothing_but_the_seq(three: Gallery) -> None:
    view = three.apply([Removal(4, "unknown"), Removal(5, "unknown")])
    assert (len(view), view.tombstones, view.seq) == (3, 0, 5)
    three.apply([Removal(6, "a")])
    assert len(three.apply([Removal(7, "a")])) == 2


def test_one_step_may_add_replace_and_remove_the_same_item(three: Gallery) -> None:
    view = three.apply([put(4, "d"), put(5, "d", 6), Removal(6, "a"), put(7, "a"), Removal(8, "d"), put(9, "d")])
    assert sorted(ids(view, VECTORS[0])) == ["a", "b", "c", "d"]
    for item_id, vector in (("a", 7), ("d", 9)):
        row = view.row_of(item_id)
        assert row is not None
        assert np.array_equal(view.vectors(np.array([row]))[0], VECTORS[vector])


def test_each_view_knows_the_row_that_an_item_had_then(three: Gallery) -> None:
    views = [three.view, three.apply([put(4, "a")]), three.apply([Removal(5, "a")]), three.apply([put(6, "a")])]
    expected: list[int | None] = [1, 4, None, 6]
    for view, vector in zip(views, expected, strict=True):
        row = view.row_of("a")
        if vector is None:
            assert row is None
        else:
            assert row is not None
            assert np.array_equal(view.vectors(np.array([row]))[0], VECTORS[vector])
        assert view.row_of("unknown") is None


def test_duplicates_come_in_the_order_of_their_seq_wherever_they_are() -> None:
    gallery = over_segment([put(seq, f"main{seq}", vector=0) for seq in range(1, 9)])
    gallery.apply([put(seq, f"delta{seq}", vector=0) for seq in range(9, 17)])
    for batch in (1, 5):
        for hits in gallery.view.search(np.repeat(VECTORS[:1], batch, axis=0), SearchParams(k=11)):
            assert hits.seqs.tolist() == list(range(1, 12))


def test_the_item_that_asks_is_left_out_and_k_others_are_found(three: Gallery) -> None:
    assert ids(three.view, VECTORS[1], k=1) == ["a"]
    assert len(ids(three.view, VECTORS[1], k=2, exclude_id="a")) == 2
    assert "a" not in ids(three.view, VECTORS[1], exclude_id="a")
    assert len(ids(three.view, VECTORS[1], exclude_id="unknown")) == 3


def test_only_hits_with_the_minimum_score_are_returned(three: Gallery) -> None:
    scores = three.view.search(VECTORS[1:2], SearchParams())[0].scores
    assert len(ids(three.view, VECTORS[1], min_score=float(scores[1]))) == 2
    assert ids(three.view, VECTORS[1], min_score=0.999) == ["a"]


def test_an_empty_gallery_finds_nothing() -> None:
    (hits,) = empty().view.search(VECTORS[:1], SearchParams(filter=Filter(frozenset("c"))))
    assert (len(hits), hits.ids, hits.scores.tolist()) == (0, [], [])
    assert empty().view.search(np.empty((0, D), np.float32), SearchParams()) == []


@pytest.mark.parametrize(
    "queries",
    [VECTORS[0], VECTORS[:2, :-1], np.full((1, D), np.nan), np.full((1, D), np.inf)],
    ids=["one axis", "too short", "not a number", "infinite"],
)
def test_a_query_that_is_no_vector_of_the_model_is_refused(three: Gallery, queries: NDArray[np.float32]) -> None:
    with pytest.raises(InvalidVector):
        three.view.search(queries, SearchParams())


def test_k_below_one_is_refused(three: Gallery) -> None:
    with pytest.raises(InvalidField):
        three.view.search(VECTORS[:1], SearchParams(k=0))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (Upsert(5, "e", "c", {}, VECTORS[0][:-1]), InvalidVector),
        (Upsert(5, "e", "c", {}, VECTORS[0] * 2), InvalidVector),
        (Upsert(5, "e", "c", {}, VECTORS[0] * np.nan), InvalidVector),
        (put(4, "e"), ValueError),
        (Removal(3, "a"), ValueError),
    ],
    ids=["wrong length", "not a unit vector", "not a number", "the same seq again", "an old seq"],
)
def test_a_step_with_a_wrong_change_changes_nothing(
    three: Gallery, change: Upsert | Removal, error: type[Exception]
) -> None:
    before = three.view
    with pytest.raises(error):
        three.apply([put(4, "d"), change])
    assert three.view is before
    assert ids(three.apply([put(4, "d")]), VECTORS[4])[0] == "d"


def test_what_the_entries_no_longer_name_is_dead_at_opening() -> None:
    items = [put(seq, f"i{seq}") for seq in range(1, 7)]
    segment = over_segment(items).view.segment
    entries = [(item, None) for item in items if item.seq in (2, 5)] + [(put(9, "later"), VECTORS[9])]
    view = Gallery.open(segment, entries, seq=11).view
    assert sorted(ids(view, VECTORS[0])) == ["i2", "i5", "later"]
    assert (view.rows, view.tombstones, view.seq) == (7, 4, 11)
    assert view.row_of("i1") is None


def test_an_entry_without_a_vector_anywhere_is_refused_at_opening() -> None:
    with pytest.raises(GenerationDamaged, match="entry 7"):
        Gallery.open(over_segment([put(1, "a")]).view.segment, [(put(7, "b"), None)])


def test_what_is_merged_is_what_was_there() -> None:
    gallery = over_segment([put(seq, f"i{seq}") for seq in range(1, 9)])
    gallery.apply([put(9, "i1"), Removal(10, "i2"), put(11, "i9")])
    view = gallery.view
    vectors, seqs = view.live_vectors()
    assert seqs.tolist() == [3, 4, 5, 6, 7, 8, 9, 11]
    assert np.array_equal(vectors, VECTORS[seqs.astype(int)])
    gallery.apply([put(12, "since"), Removal(13, "i3")])
    merged = Gallery.rebase(view, Segment.build(vectors, seqs))
    assert (len(merged.view.delta), merged.view.tombstones, merged.view.seq) == (0, 0, 11)
    assert ids(merged.view, VECTORS[1]) == ids(view, VECTORS[1])
    merged.apply([put(12, "since"), Removal(13, "i3")])
    assert ids(merged.view, VECTORS[1]) == ids(gallery.view, VECTORS[1])


def test_a_view_may_be_rebased_on_a_segment_of_another_moment() -> None:
    gallery = over_segment([put(seq, f"i{seq}") for seq in range(1, 6)])
    vectors, seqs = gallery.view.live_vectors()
    later = gallery.apply([Removal(6, "i2"), put(7, "i3"), put(8, "new")])
    rebased = Gallery.rebase(later, Segment.build(vectors[1:], seqs[1:])).view
    assert ids(rebased, VECTORS[7]) == ids(later, VECTORS[7])
    assert rebased.tombstones == 2  # i2, and what i3 was; i1 is in the delta now
    assert sorted(ids(rebased, VECTORS[7])) == ["i1", "i3", "i4", "i5", "new"]


def test_approximate_hits_are_in_the_order_of_their_exact_scores() -> None:
    vectors = clustered(3000, 32, 60)
    segment = Segment.build(vectors, np.arange(1, 3001, dtype=np.uint64), flat_below=1000)
    assert segment.kind.startswith("IVF")
    entries = ((Upsert(seq, str(seq), "c", {}, vectors[seq - 1]), None) for seq in range(1, 3001))
    gallery = Gallery.open(segment, entries)
    view = gallery.apply([Removal(3000 + seq, str(seq)) for seq in range(1, 200)])
    found = view.search(vectors[:100], SearchParams(k=10))
    wanted = view.search(vectors[:100], SearchParams(k=10, exact=True))
    same = sum(len(set(hits.ids) & set(best.ids)) for hits, best in zip(found, wanted, strict=True))
    assert same >= 970
    for hits in found:
        assert not set(map(int, hits.ids)) & set(range(1, 200))
        order = np.lexsort((hits.seqs, -hits.scores))
        assert order.tolist() == list(range(10))
    for query, best in enumerate(wanted[:5]):
        (alone,) = view.search(vectors[query : query + 1], SearchParams(exact=True))
        assert (alone.ids, alone.scores.tolist()) == (best.ids, best.scores.tolist())


@pytest.mark.parametrize(
    ("params", "exact"),
    [
        (SearchParams(), False),
        (SearchParams(exact=True), True),
        (SearchParams(filter=Filter(categories=frozenset({"c1"}))), True),
        (SearchParams(filter=Filter(categories=frozenset({"c1", "c2"}))), False),
        (SearchParams(filter=Filter(categories=frozenset({"nothing"}))), True),
        (SearchParams(k=3000), True),
    ],
    ids=["plain", "asked", "few match", "many match", "none matches", "all are asked for"],
)
def test_hits_say_whether_exact_search_was_chosen_over_the_approximate_one(
    params: SearchParams, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.index.view.EXACT_BELOW", 1000)
    vectors = clustered(3000, 32, 60)
    for flat_below in (1000, 20_000):
        segment = Segment.build(vectors, np.arange(1, 3001, dtype=np.uint64), flat_below=flat_below)
        entries = ((Upsert(seq, str(seq), f"c{seq % 3}", {}, vectors[seq - 1]), None) for seq in range(1, 3001))
        view = Gallery.open(segment, entries).view
        found = [hits.exact for hits in view.search(vectors[:2], params)]
        assert found == [exact and (params.exact or segment.tuning is not None)] * 2
        assert view.search_in_parts(vectors[0], params, lambda: None).exact


# ---------------------------------------------------------------------------------------------------- in parts


@pytest.fixture
def mixed(monkeypatch: pytest.MonkeyPatch) -> View:
    """Forty items of the main segment and thirty of the delta, many of them twins, some replaced or removed; scanned
    sixteen rows at a time."""
    monkeypatch.setattr("indexer.index.view._SCANNED_AT_ONCE", 16 * D)
    rng = np.random.default_rng(5)
    items = [put(seq, f"i{seq}", int(rng.integers(0, 25)), f"c{seq % 3}") for seq in range(1, 41)]
    gallery = over_segment(items[:40])
    gallery.apply([Upsert(seq, f"i{seq - 20}", f"c{seq % 3}", {}, VECTORS[seq % 25]) for seq in range(41, 71)])
    return gallery.apply([Removal(71, "i3"), Removal(72, "i44")])


@pytest.mark.parametrize(
    "params",
    [
        SearchParams(k=1),
        SearchParams(k=10),
        SearchParams(k=500),
        SearchParams(k=7, exclude_id="i9"),
        SearchParams(k=7, filter=Filter(categories=frozenset({"c1"}))),
        SearchParams(k=7, filter=Filter(categories=frozenset({"nothing"}))),
        SearchParams(k=20, min_score=0.2),
    ],
    ids=["one", "ten", "all", "less an item", "filtered", "none", "with a minimum"],
)
def test_a_search_in_parts_finds_to_the_bit_what_exact_search_finds(mixed: View, params: SearchParams) -> None:
    for query in VECTORS:
        (wanted,) = mixed.search(query[None], replace(params, exact=True))
        found = mixed.search_in_parts(query, params, lambda: None)
        assert found.rows.tolist() == wanted.rows.tolist()
        assert found.scores.tobytes() == wanted.scores.tobytes()
    assert len(empty().view.search_in_parts(VECTORS[0], params, lambda: None)) == 0


def test_a_search_gives_way_after_each_part_and_can_be_ended(mixed: View) -> None:
    scanned: list[int] = []
    calls: list[int] = []

    def counted(vectors: NDArray[np.float32], *rest: Any) -> Any:
        scanned.append(len(vectors))
        return scan(vectors, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("indexer.index.view.scan", counted)
        mixed.search_in_parts(VECTORS[0], SearchParams(), lambda: calls.append(len(scanned)))
    assert scanned == [16, 16, 8, 16, 14]
    assert calls == [1, 2, 3, 4]

    def end() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        mixed.search_in_parts(VECTORS[0], SearchParams(), end)


def test_a_search_in_parts_refuses_what_a_search_does(mixed: View) -> None:
    with pytest.raises(InvalidField):
        mixed.search_in_parts(VECTORS[0], SearchParams(k=0), lambda: None)
    with pytest.raises(InvalidVector):
        mixed.search_in_parts(VECTORS[0][:3], SearchParams(), lambda: None)
