"""Backfill: every item gets its vector by the candidate model, once, and the generation holds them all."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from indexer import worker as workers
from indexer.backfill import Backfill
from indexer.candidate import gather, index_gates, make_generation, refuse
from indexer.catalogue import Catalogue, Delete
from indexer.datadir import DataDir
from indexer.devices import detect
from indexer.embedding import embed
from indexer.encoder import Encoder
from indexer.engine import Engine, Options
from indexer.errors import CatalogueDamaged, InvalidField, NotReady, StorageFull
from indexer.gates import RecallLimits
from indexer.generation import State, candidate_model, load_generation, numbers, publish_generation, state_of
from indexer.index import SearchParams, Segment
from indexer.model import Manifest
from indexer.programs import Activity
from indexer.worker import Answer, Effort, Embed, Embedded, Hand
from tests.indexer.galleries import damage_photo, live, model, new_data, photo_sha256, put_photos
from tests.indexer.in_process import InProcess
from tests.indexer.vectors import clustered

EFFORT = Effort(threads=2, batch=4, give_way=False)


class Enough(Exception):
    """What a test's `pause` ends a backfill with."""


@dataclass
class Shop:
    """A data directory with a live model and a candidate, and a gallery to embed."""

    data: DataDir
    catalogue: Catalogue
    candidate: Manifest
    said: list[Activity] = field(default_factory=list)
    paused: list[float] = field(default_factory=list)
    workers: list[InProcess] = field(default_factory=list)
    meanwhile: Callable[[], None] = lambda: None
    """Called by each pause of a backfill."""

    def backfill(self, effort: Effort = EFFORT) -> Backfill:
        return Backfill(
            self.data,
            self.catalogue,
            self.data.catalogue_url,
            self.candidate,
            effort,
            self.said.append,
            self._pause,
            self._start,
        )

    @property
    def embedded(self) -> list[str]:
        """The photos that all workers were asked for, in order."""
        return [sha for worker in self.workers for sha in worker.embedded]

    def _pause(self, seconds: float) -> None:
        self.paused += [seconds] if seconds else []
        self.meanwhile()

    def _start(self, data: DataDir, url: str, model: Manifest, effort: Effort) -> InProcess:
        self.workers.append(InProcess(data, url, model, effort))
        return self.workers[-1]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    data = new_data(tmp_path)
    live(data, first := model(data, 0))
    candidate = model(data, 1, first)
    with Catalogue.open(data.catalogue_url) as catalogue:
        yield Shop(data, catalogue, candidate)


def direct(shop: Shop) -> dict[int, NDArray[np.float32]]:
    """The candidate's vectors of all items, by seq, embedded one by one."""
    encoder = Encoder.load(shop.data.model(shop.candidate.id), detect(), 1)
    entries = list(shop.catalogue.entries())
    return {entry.seq: embed(shop.catalogue, encoder, [entry.image_sha256])[entry.image_sha256] for entry in entries}


def held(shop: Shop, number: int) -> dict[int, NDArray[np.float32]]:
    """The vectors that a generation holds, by seq."""
    segment = load_generation(shop.data, number, detect(), 1).segment
    return dict(zip(segment.seqs.tolist(), segment.vectors, strict=True))


def assert_same(found: dict[int, NDArray[np.float32]], expected: dict[int, NDArray[np.float32]]) -> None:
    assert list(found) == list(expected)
    np.testing.assert_allclose(list(found.values()), list(expected.values()), atol=1e-6)


# ---------------------------------------------------------------------------------------------------- embedding


def test_every_item_is_embedded_once_and_its_generation_may_go_live(shop: Shop) -> None:
    put_photos(shop.catalogue, range(21))
    info = shop.backfill().run()
    assert shop.embedded == [photo_sha256(seed) for seed in range(21)]
    assert (info.number, info.model, info.seq) == (2, shop.candidate.id, 21)
    assert state_of(shop.data, info) is State.CANDIDATE
    assert_same(held(shop, 2), direct(shop))
    assert candidate_model(shop.data) is None


def test_a_gallery_without_items_has_its_generation_too(shop: Shop) -> None:
    info = shop.backfill().run()
    assert state_of(shop.data, info) is State.CANDIDATE
    assert held(shop, info.number) == {}


def test_what_was_stored_is_never_embedded_again(shop: Shop) -> None:
    put_photos(shop.catalogue, range(20))

    def stop_after_some() -> None:
        if shop.catalogue.vector_count(shop.candidate.id) >= 8:
            raise Enough

    shop.meanwhile = stop_after_some
    with pytest.raises(Enough):
        shop.backfill().run()
    assert shop.catalogue.vector_count(shop.candidate.id) == 8
    shop.meanwhile = lambda: None
    shop.backfill().run()
    assert shop.workers[1].embedded == [photo_sha256(seed) for seed in range(8, 20)]
    assert_same(held(shop, 2), direct(shop))


def test_at_most_two_batches_for_each_thread_are_in_hand(shop: Shop) -> None:
    put_photos(shop.catalogue, range(40))
    shop.backfill(Effort(threads=3, batch=2)).run()
    assert shop.workers[0].most_in_hand == 6


def test_items_that_come_meanwhile_are_in_the_generation_or_after_its_boundary(shop: Shop) -> None:
    put_photos(shop.catalogue, range(20))
    coming = iter(range(100, 110))

    def put_one() -> None:
        if (seed := next(coming, None)) is not None:
            put_photos(shop.catalogue, [seed])

    shop.meanwhile = put_one
    info = shop.backfill().run()
    entries = list(shop.catalogue.entries())
    assert len(entries) == 30
    assert list(held(shop, info.number)) == [entry.seq for entry in entries if entry.seq <= info.seq]
    assert info.seq >= 25  # a second pass found what came during the first


def test_a_backfill_ends_though_items_come_as_fast_as_it_embeds(shop: Shop) -> None:
    put_photos(shop.catalogue, range(10))
    seeds = iter(range(1000, 1100))
    shop.meanwhile = lambda: put_photos(shop.catalogue, list(itertools.islice(seeds, 6)))
    info = shop.backfill().run()
    assert info.seq == 10 + 3 * 6  # three batches of the first pass, during each of which six came
    assert len(held(shop, info.number)) == info.seq


def test_items_that_change_and_go_meanwhile_keep_their_places(shop: Shop) -> None:
    put_photos(shop.catalogue, range(12))

    def change() -> None:
        shop.meanwhile = lambda: None
        shop.catalogue.apply([Delete("item-11"), Delete("item-3")])

    shop.meanwhile = change
    info = shop.backfill().run()
    assert list(held(shop, info.number)) == [seq for seq in range(1, 13) if seq not in (4, 12)]


def test_an_engine_promotes_what_was_backfilled_with_all_that_came_since(shop: Shop) -> None:
    put_photos(shop.catalogue, range(12))
    info = shop.backfill().run()
    put_photos(shop.catalogue, range(12, 15))
    shop.catalogue.apply([Delete("item-4")])
    with Engine(shop.data, Options()) as engine:
        engine.promote(info.number, limits=RecallLimits(least_rise=-1.0))
        serving = engine.live.current
        (hits,) = serving.view.search(np.eye(1, 32, dtype=np.float32), SearchParams(k=50, exact=True))
        assert serving.generation.number == info.number
        assert sorted(hits.ids) == sorted(f"item-{seed}" for seed in range(15) if seed != 4)


def test_progress_is_told_in_photos_with_the_time_that_is_left(shop: Shop) -> None:
    put_photos(shop.catalogue, range(16))
    shop.catalogue.store_vectors(shop.candidate.id, {photo_sha256(0): np.eye(1, 32, dtype=np.float32)[0]})
    shop.backfill().run()
    embedding = [said for said in shop.said if said.phase == "backfill"]
    assert [(said.done, said.total) for said in embedding] == [(1, 16), (5, 16), (9, 16), (13, 16), *2 * [(16, 16)]]
    assert embedding[0].words == f"embedding the gallery by model {shop.candidate.id[:8]}"
    assert {(said.stage, said.categories) for said in shop.said} == {(0, 1)}
    assert embedding[-1].remaining_s == 0
    assert all(said.remaining_s >= 0 for said in embedding)
    steps = [said.words.rpartition(": ")[2] for said in shop.said if said.phase == "index"]
    assert steps == ["read", "check", "publish"]


# ---------------------------------------------------------------------------------------------------- what goes wrong


def test_photos_that_cannot_be_read_are_named_after_all_others_are_done(shop: Shop) -> None:
    put_photos(shop.catalogue, range(10))
    damage_photo(shop.data, 2)
    damage_photo(shop.data, 7)
    with pytest.raises(CatalogueDamaged) as failed:
        shop.backfill().run()
    for seed in (2, 7):
        assert f"item 'item-{seed}', photo {photo_sha256(seed)}: the bytes of photo {photo_sha256(seed)}" in str(
            failed.value
        )
    assert "Delete these items, and put them again" in str(failed.value)
    assert shop.catalogue.vector_count(shop.candidate.id) == 8
    assert numbers(shop.data) == [1]

    shop.catalogue.apply([Delete("item-2"), Delete("item-7")])
    put_photos(shop.catalogue, [2])
    info = shop.backfill().run()
    assert shop.workers[1].embedded == [photo_sha256(2)]
    assert list(held(shop, info.number)) == [1, 2, 4, 5, 6, 7, 9, 10, 13]


def test_a_photo_that_is_no_photo_any_more_to_the_decoder_is_named(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    put_photos(shop.catalogue, range(3))
    data = b"accepted by a decoder that is no more"
    monkeypatch.setattr("tests.indexer.galleries.photo", lambda seed: data)
    put_photos(shop.catalogue, [99])
    with pytest.raises(CatalogueDamaged, match="item 'item-99'"):
        shop.backfill().run()
    assert shop.catalogue.vector_count(shop.candidate.id) == 3


def test_a_photo_whose_item_goes_meanwhile_is_left_out(shop: Shop) -> None:
    put_photos(shop.catalogue, range(8))

    def delete_one() -> None:
        shop.meanwhile = lambda: None
        shop.catalogue.apply([Delete("item-6")])

    shop.meanwhile = delete_one
    info = shop.backfill().run()
    assert list(held(shop, info.number)) == [1, 2, 3, 4, 5, 6, 8]


def test_a_full_database_is_waited_for_with_the_vectors_in_hand(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    put_photos(shop.catalogue, range(8))
    store, refusals = shop.catalogue.store_vectors, iter(range(3))

    def full(model: str, of_photo: dict[str, NDArray[np.float32]]) -> int:
        if next(refusals, None) is not None:
            raise StorageFull("the database refuses: disk full")
        return store(model, of_photo)

    monkeypatch.setattr(shop.catalogue, "store_vectors", full)
    info = shop.backfill().run()
    assert shop.paused == [5.0, 5.0, 5.0]
    assert shop.embedded == [photo_sha256(seed) for seed in range(8)]
    assert "the backfill waits: the database refuses: disk full" in {said.words for said in shop.said}
    assert_same(held(shop, info.number), direct(shop))


def test_a_full_disk_while_publishing_shows_nothing_and_costs_no_vector(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_photos(shop.catalogue, range(8))

    def full(segment: Segment, folder: Path) -> None:
        (folder / "index.faiss").write_bytes(b"some of it")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Segment, "save", full)
        with pytest.raises(OSError, match="No space left"):
            shop.backfill().run()
    assert {path.name for path in shop.data.generations.iterdir()} == {"00000001", "last.json"}
    info = shop.backfill().run()
    assert shop.workers[1].embedded == []
    assert_same(held(shop, info.number), direct(shop))


def test_what_a_killed_worker_left_is_swept(shop: Shop) -> None:
    (shop.data.generations / ".staging-00000002-x").mkdir()
    shop.backfill().run()
    assert {path.name for path in shop.data.generations.iterdir()} == {"00000001", "00000002", "last.json"}


# ---------------------------------------------------------------------------------------------------- the hand


def hand(shop: Shop, effort: Effort = EFFORT) -> tuple[Hand, list[Answer | Exception]]:
    answers: list[Answer | Exception] = []
    encoder = Encoder.load(shop.data.model(shop.candidate.id), detect(), 1)
    return Hand(shop.data, shop.catalogue, encoder, detect(), effort, answers.append), answers


@pytest.mark.parametrize(("share", "rests"), [(1.0, [0.0, 0.0]), (0.25, [0.0, 6.0])])
def test_a_thread_rests_for_its_share_before_the_next_batch(shop: Shop, share: float, rests: list[float]) -> None:
    put_photos(shop.catalogue, range(1))
    does, _ = hand(shop, Effort(1, share))
    now = iter([0.0, 2.0, 10.0, 12.0])
    slept: list[float] = []
    does.clock, does.sleep = lambda: next(now), slept.append
    for _ in range(2):
        does.do(Embed((photo_sha256(0),)))
    assert slept == rests


def test_an_error_of_a_library_is_answered_as_one_that_can_be_read(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    put_photos(shop.catalogue, range(1))
    does, answers = hand(shop)

    def fail(*_: object) -> Embedded:
        raise RuntimeError("out of GPU memory")

    monkeypatch.setattr(workers, "embed", fail)
    does.do(Embed((photo_sha256(0),)))
    assert str(answers[0]) == "RuntimeError: out of GPU memory"


@pytest.mark.parametrize(
    ("threads", "share", "batch", "field"),
    [(0, 1.0, 1, "threads"), (1, 1.0, 0, "batch"), (1, 0.0, 1, "share"), (1, 1.1, 1, "share")],
)
def test_an_effort_that_is_none_is_refused(threads: int, share: float, batch: int, field: str) -> None:
    with pytest.raises(InvalidField) as refused:
        Effort(threads, share, batch)
    assert refused.value.field == field


# ---------------------------------------------------------------------------------------------------- the index


def test_an_item_without_its_vector_is_never_left_out_of_a_generation(shop: Shop) -> None:
    put_photos(shop.catalogue, range(3))
    vector = np.eye(1, 32, dtype=np.float32)[0]
    shop.catalogue.store_vectors(shop.candidate.id, {photo_sha256(0): vector, photo_sha256(2): vector})
    with pytest.raises(NotReady, match="no vector of model"):
        gather(shop.catalogue, shop.candidate, 3)
    assert gather(shop.catalogue, shop.candidate, 1)[1].tolist() == [1]
    shop.catalogue.drop_vectors(shop.candidate.id)
    assert gather(shop.catalogue, shop.candidate, 0)[1].tolist() == []


def test_an_index_that_finds_what_exact_search_finds_passes() -> None:
    vectors = clustered(2000, 16, 20)
    exact = Segment.build(vectors, np.arange(1, 2001, dtype=np.uint64))
    approximate = Segment.build(vectors, np.arange(1, 2001, dtype=np.uint64), flat_below=1000)
    assert approximate.tuning is not None
    for segment in (exact, approximate):
        gates = index_gates(segment, vectors)
        assert [gate.name for gate in gates] == ["index recall", "index items"]
        assert all(gate.passed for gate in gates)
    assert [gate.measured for gate in index_gates(exact, vectors)] == [1.0, 1.0]


def test_an_index_whose_rows_are_other_items_fails() -> None:
    vectors = clustered(2000, 16, 20)
    seqs = np.arange(1, 2001, dtype=np.uint64)
    wrong = Segment.build(np.roll(vectors, 1, axis=0), seqs)
    recall, items = index_gates(wrong, vectors)
    assert not recall.passed
    assert not items.passed
    assert items.measured < 0.1
    assert "of 300 samples" in items.reason


def test_an_index_that_finds_too_few_neighbours_fails() -> None:
    vectors = clustered(2000, 16, 1, spread=2.0)  # without clusters, so that neighbours lie in other lists
    segment = Segment.build(vectors, np.arange(1, 2001, dtype=np.uint64), flat_below=1000, recall_target=0.5)
    recall, _ = index_gates(segment, vectors)
    assert recall.measured < 0.97
    assert not recall.passed


def test_twins_of_an_item_count_as_itself_and_as_each_other() -> None:
    vectors = np.repeat(clustered(3, 8, 3), 30, axis=0)
    segment = Segment.build(vectors, np.arange(1, 91, dtype=np.uint64))
    assert [gate.measured for gate in index_gates(segment, vectors)] == [1.0, 1.0]


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_a_small_gallery_passes(count: int) -> None:
    vectors = clustered(count, 8, 1) if count else np.empty((0, 8), np.float32)
    assert all(gate.passed for gate in index_gates(Segment.build(vectors, np.arange(count, dtype=np.uint64)), vectors))


def test_a_generation_whose_index_fails_is_rejected_and_its_model_not_tried_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_photos(shop.catalogue, range(20))
    build = Segment.build
    monkeypatch.setattr(Segment, "build", lambda vectors, *rest, **more: build(np.roll(vectors, 1, 0), *rest, **more))
    info = shop.backfill().run()
    assert state_of(shop.data, info) is State.REJECTED
    assert candidate_model(shop.data) is None


def test_a_refused_model_has_a_rejected_generation_that_says_why(shop: Shop) -> None:
    info = refuse(shop.data, shop.candidate, "model.onnx was altered")
    assert state_of(shop.data, info) is State.REJECTED
    assert [(gate.name, gate.reason) for gate in info.gates] == [("model", "model.onnx was altered")]
    assert candidate_model(shop.data) is None


def test_what_ends_the_making_of_an_index_leaves_nothing(shop: Shop) -> None:
    def stop(step: str, done: float) -> None:
        if step == "publish":
            raise Enough

    with pytest.raises(Enough):
        make_generation(shop.data, shop.catalogue, shop.candidate, 0, threads=1, gpus=0, progress=stop)
    assert {path.name for path in shop.data.generations.iterdir()} == {"00000001", "last.json"}


def test_the_crash_table_after_publishing_the_model_is_done(shop: Shop) -> None:
    segment = Segment.build(np.empty((0, 32), np.float32), np.empty(0, np.uint64))
    publish_generation(shop.data, shop.candidate.id, 0, segment)
    assert candidate_model(shop.data) is None
