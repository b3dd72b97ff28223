"""A generation of another model goes live: the engine in this process, with the moment in the test's hand."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import indexer.promotion
from indexer.catalogue import Delete, Photo, Put
from indexer.datadir import DataDir
from indexer.engine import Engine, Options
from indexer.errors import Damaged, GateFailed, GenerationDamaged, GenerationNotFound, NotReady, NotServing
from indexer.gates import RecallLimits
from indexer.generation import (
    GenerationInfo,
    State,
    candidate_generation,
    gates_of,
    live_number,
    load_info,
    numbers,
    previous_generation,
    state_of,
)
from indexer.images import preprocess
from indexer.index import SearchParams
from indexer.probes import is_probe
from tests.e2e.folders import publish_candidate
from tests.e2e.photos import photo

OPTIONS = Options(merge_min_entries=1000)
COHORT = tuple(f"category-{n}" for n in range(4))
WAIT_S = 20


def put(engine: Engine, seed: int, *, id: str = "", category: str = "", by: str | None = None) -> None:
    """Writes an item that shows `photo(seed)`, encoded by the live model, or by none."""
    encoder = engine.live.current.generation.encoder
    pixels, info = preprocess(photo(seed), encoder.manifest.preprocessing)
    shown = Photo(photo(seed), hashlib.sha256(photo(seed)).hexdigest(), info.width, info.height, info.format)
    made = {encoder.manifest.id: encoder.encode(pixels[None])[0]} if by is None else {}
    change = Put(id or f"item-{seed}", category or COHORT[seed % 4], {}, shown, made)
    engine.submit(change).result(WAIT_S)


def backfill(engine: Engine, seed: int = 1, *cohorts: tuple[str, ...]) -> GenerationInfo:
    return publish_candidate(engine.data, engine.catalogue, seed, *cohorts)


def found(engine: Engine) -> set[str]:
    """The ids of all items that a search can return."""
    view = engine.live.current.view
    (hits,) = view.search(np.eye(1, view.segment.dimension, dtype=np.float32), SearchParams(k=1000, exact=True))
    return set(hits.ids)


def check_vectors(engine: Engine) -> None:
    """Every item has the vector that the live model makes of its photo."""
    serving = engine.live.current
    encoder = serving.generation.encoder
    for id in found(engine):
        pixels, _ = preprocess(engine.catalogue.image(id).data, encoder.manifest.preprocessing)
        row = serving.view.row_of(id)
        assert row is not None
        np.testing.assert_allclose(serving.view.vectors(np.array(row)), encoder.encode(pixels[None])[0], atol=1e-6)


@contextlib.contextmanager
def stopped_at(phase: str, engine: Engine, number: int) -> Iterator[Future[GenerationInfo]]:
    """A promotion, under way in another thread, that has reached a phase and goes on when the block ends."""
    reached, go_on = threading.Event(), threading.Event()

    def progress(now: str, done: int, total: int) -> None:
        if now == phase and not reached.is_set():
            reached.set()
            assert go_on.wait(WAIT_S)

    with ThreadPoolExecutor(1) as pool:
        promoting = pool.submit(engine.promote, number, progress=progress)
        try:
            assert reached.wait(WAIT_S), promoting.exception(0)
            yield promoting
        finally:
            go_on.set()


@pytest.fixture
def engine(data: Path) -> Iterator[Engine]:
    """With twelve items."""
    with Engine(DataDir(data), OPTIONS) as engine:
        for seed in range(12):
            put(engine, seed)
        yield engine


def test_a_promoted_generation_answers_with_its_own_vectors_and_every_item(engine: Engine) -> None:
    before = engine.live.current
    info = backfill(engine)
    assert engine.promote(info.number) == info
    after = engine.live.current
    assert (after.generation.number, after.generation.model.id) == (info.number, info.model)
    assert after.generation.model.id != before.generation.model.id
    assert found(engine) == {f"item-{seed}" for seed in range(12)}
    check_vectors(engine)
    assert live_number(engine.data) == info.number


def test_a_query_under_way_is_answered_by_the_generation_that_it_began_with(engine: Engine) -> None:
    kept = engine.live.current
    engine.promote(backfill(engine).number)
    (hits,) = kept.view.search(kept.view.live_vectors()[0][:1], SearchParams(k=12))
    assert len(hits) == 12
    assert hits.view is kept.view


def test_the_generation_before_is_gone_from_memory_when_the_promotion_returns(engine: Engine) -> None:
    put(engine, 0)
    before = weakref.ref(engine.live.current.generation)
    number = backfill(engine).number
    gc.disable()  # nothing but its references keeps it
    try:
        engine.promote(number)
        assert before() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("phase", ["loading", "swap"])
def test_what_is_written_during_a_promotion_is_found_before_and_after_it(engine: Engine, phase: str) -> None:
    info = backfill(engine)
    with stopped_at(phase, engine, info.number) as promoting:
        put(engine, 12)
        put(engine, 13, by="none")
        put(engine, 3, id="item-0")  # a replacement
        engine.submit(Put("item-1", "another", {"size": 1.0}, None)).result(WAIT_S)
        engine.submit(Delete("item-2")).result(WAIT_S)
        wanted = {f"item-{seed}" for seed in range(14)} - {"item-2"}
        assert found(engine) == wanted
        assert engine.live.current.generation.number != info.number
    promoting.result(WAIT_S)
    assert engine.live.current.generation.number == info.number
    assert found(engine) == wanted
    check_vectors(engine)
    row = engine.live.current.view.row_of("item-1")
    assert row is not None
    assert engine.live.current.view.attributes.category(row) == "another"


def test_what_was_encoded_by_the_model_before_is_encoded_again(engine: Engine) -> None:
    old = engine.live.current.generation.encoder
    engine.promote(backfill(engine).number)
    pixels, about = preprocess(photo(20), old.manifest.preprocessing)
    shown = Photo(photo(20), hashlib.sha256(photo(20)).hexdigest(), about.width, about.height, about.format)
    late = Put("late", "shelf", {}, shown, {old.manifest.id: old.encode(pixels[None])[0]})
    engine.submit(late).result(WAIT_S)
    assert "late" in found(engine)
    check_vectors(engine)


def test_a_photo_that_comes_and_goes_in_one_transaction_needs_no_vector(engine: Engine) -> None:
    engine.promote(backfill(engine).number)
    shown = Photo(photo(30), hashlib.sha256(photo(30)).hexdigest(), 96, 96, "JPEG")
    blocked = threading.Event()
    holding = engine._committer.run(lambda: blocked.wait(WAIT_S))
    writes = [engine.submit(change) for change in (Put("brief", "shelf", {}, shown), Delete("brief"))]
    blocked.set()
    assert holding.result(WAIT_S)
    for write in writes:
        write.result(WAIT_S)
    assert "brief" not in found(engine)
    put(engine, 31)
    check_vectors(engine)


def test_going_back_has_what_has_arrived_since(engine: Engine) -> None:
    engine.promote(backfill(engine).number)
    put(engine, 12)
    engine.submit(Delete("item-0")).result(WAIT_S)
    back = previous_generation(engine.data)
    assert back is not None
    engine.promote(back.number)
    assert engine.live.current.generation.number == back.number == 1
    assert found(engine) == {f"item-{seed}" for seed in range(1, 13)}
    check_vectors(engine)
    assert previous_generation(engine.data) is None
    assert candidate_generation(engine.data) is None  # one that was gone back from does not go live by itself


def test_a_generation_that_was_gone_back_from_can_be_promoted_again(engine: Engine) -> None:
    info = backfill(engine)
    engine.promote(info.number)
    engine.promote(1)
    put(engine, 12)
    engine.promote(info.number)
    assert found(engine) == {f"item-{seed}" for seed in range(13)}
    check_vectors(engine)


def test_a_candidate_that_recalls_less_is_rejected_for_good_and_changes_nothing(engine: Engine) -> None:
    for seed in range(12, 60):
        put(engine, seed)
    serving = engine.live.current
    info = backfill(engine, 1, COHORT)
    with pytest.raises(GateFailed, match="floor of cohort 0: Recall@1 of cohort 0 is below the floor"):
        engine.promote(info.number, limits=RecallLimits(floor=1.0))
    assert engine.live.current.generation is serving.generation
    assert live_number(engine.data) == serving.generation.number
    assert state_of(engine.data, info) is State.REJECTED
    gates = {gate.name: gate for gate in gates_of(engine.data, info)}
    assert not gates["floor of cohort 0"].passed
    assert "cohort 0 in the gallery" in gates
    assert candidate_generation(engine.data) is None
    with pytest.raises(GateFailed, match="never served"):
        engine.promote(info.number)


def test_probes_are_what_recall_is_measured_with(engine: Engine) -> None:
    for seed in range(12, 60):
        put(engine, seed)
    info = backfill(engine, 1, COHORT)
    with contextlib.suppress(GateFailed):
        engine.promote(info.number)
    (floor,) = [gate for gate in gates_of(engine.data, info) if gate.name == "floor of cohort 0"]
    assert f"of {sum(is_probe(f'item-{seed}') for seed in range(60))} probes" in floor.reason


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data, info: (data.generation(info.number) / "index.faiss").write_bytes(b"cut"),
        lambda data, info: (data.model(info.model) / "model.onnx").write_bytes(b"other"),
        lambda data, info: (data.model(info.model) / "lineage.json").write_text("{}"),
    ],
    ids=["index", "model", "lineage"],
)
def test_a_candidate_that_is_damaged_is_never_served(
    engine: Engine, spoil: Callable[[DataDir, GenerationInfo], object]
) -> None:
    info = backfill(engine)
    spoil(engine.data, info)
    while candidate_generation(engine.data) is not None:
        with pytest.raises(Damaged):
            engine.promote(info.number)
    assert live_number(engine.data) == 1
    put(engine, 12)
    assert found(engine) == {f"item-{seed}" for seed in range(13)}
    check_vectors(engine)


def test_a_candidate_that_could_not_be_loaded_twice_is_promoted_when_it_can(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = backfill(engine)
    load, short = vars(indexer.promotion)["load_generation"], [True, True]

    def load_with_little_memory(*arguments: Any) -> Any:
        if short:
            short.pop()
            raise GenerationDamaged("there was no memory for it")
        return load(*arguments)

    monkeypatch.setattr(indexer.promotion, "load_generation", load_with_little_memory)
    for _ in range(2):
        with pytest.raises(GenerationDamaged):
            engine.promote(info.number)
    engine.promote(info.number)
    assert live_number(engine.data) == info.number


def test_what_has_gathered_in_the_delta_is_merged_after_a_promotion_though_nobody_writes(data: Path) -> None:
    with Engine(DataDir(data), Options(merge_min_entries=5)) as engine:
        info = backfill(engine)
        for seed in range(4):
            put(engine, seed)
        engine.promote(info.number)
        engine.promote(previous_generation(engine.data).number)  # type: ignore[union-attr] # there is one
        put(engine, 4)
        engine.promote(info.number)  # five items are in its delta
        until = time.monotonic() + WAIT_S
        while len(engine.live.current.view.delta):
            assert time.monotonic() < until
            time.sleep(0.01)
        assert found(engine) == {f"item-{seed}" for seed in range(5)}


def test_what_is_no_candidate_is_refused(engine: Engine) -> None:
    with pytest.raises(GenerationNotFound):
        engine.promote(99)
    with pytest.raises(NotReady, match="live already"):
        engine.promote(1)
    info = backfill(engine)
    with stopped_at("loading", engine, info.number), pytest.raises(NotReady, match="another generation"):
        engine.promote(info.number)


def test_a_swap_that_the_disk_refuses_leaves_the_live_generation(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "no space left on device")

    info = backfill(engine)
    with monkeypatch.context() as patch:
        patch.setattr(indexer.promotion, "set_live", full)
        with pytest.raises(OSError, match="no space"):
            engine.promote(info.number)
    assert engine.live.current.generation.number == live_number(engine.data) == 1
    put(engine, 12)
    assert found(engine) == {f"item-{seed}" for seed in range(13)}
    engine.promote(info.number)
    assert found(engine) == {f"item-{seed}" for seed in range(13)}


@pytest.mark.parametrize("step", ["write_verdict", "set_live"])
def test_after_a_crash_in_a_promotion_everything_acknowledged_is_found(
    data: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A fault right after a step leaves on the disk what a crash there would."""
    original = getattr(indexer.promotion, step)

    def crash(*arguments: Any) -> None:
        original(*arguments)
        raise KeyboardInterrupt

    with Engine(DataDir(data), OPTIONS) as engine:
        for seed in range(12):
            put(engine, seed)
        info = backfill(engine, 1, COHORT)
        monkeypatch.setattr(indexer.promotion, step, crash)
        with pytest.raises(KeyboardInterrupt):
            engine.promote(info.number, limits=RecallLimits(floor=0.0, least_rise=-1.0))
    monkeypatch.undo()
    with Engine(DataDir(data), OPTIONS) as engine:
        assert engine.live.current.generation.number == (info.number if step == "set_live" else 1)
        assert found(engine) == {f"item-{seed}" for seed in range(12)}
        check_vectors(engine)
        if step == "write_verdict":
            assert candidate_generation(engine.data) == info


def test_an_item_without_a_vector_stops_the_swap(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    info = backfill(engine)
    put(engine, 12)
    monkeypatch.setattr(indexer.promotion, "embed_missing", lambda *_: 0)
    with pytest.raises(GenerationDamaged, match="no vector"):
        engine.promote(info.number)
    assert engine.live.current.generation.number == 1


def test_closing_ends_a_promotion_that_is_under_way(data: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        with Engine(DataDir(data), OPTIONS) as engine:
            for seed in range(4):
                put(engine, seed)
            info = backfill(engine)
            reached = threading.Event()

            def progress(phase: str, done: int, total: int) -> None:
                if phase == "swap" and not reached.is_set():
                    reached.set()
                    while not engine._promoter._closing:
                        threading.Event().wait(0.001)

            promoting = pool.submit(engine.promote, info.number, progress=progress)
            assert reached.wait(WAIT_S)
        with pytest.raises(NotServing):
            promoting.result(WAIT_S)
    assert live_number(DataDir(data)) == 1


def test_a_merge_and_a_promotion_take_turns(data: Path) -> None:
    with Engine(DataDir(data), Options(merge_min_entries=4, merge_ratio=0.1)) as engine:
        for seed in range(3):
            put(engine, seed)
        info = backfill(engine)
        with stopped_at("swap", engine, info.number) as promoting:
            for seed in range(3, 20):
                put(engine, seed)
            assert engine.live.current.generation.number == 1  # no merge meanwhile
        promoting.result(WAIT_S)
        put(engine, 20)
        deadline = threading.Event()
        for _ in range(2000):
            if len(engine.live.current.view.delta) < 4:
                break
            deadline.wait(0.005)
        assert len(engine.live.current.view.delta) < 4
        assert engine.live.current.generation.model.id == info.model
        assert found(engine) == {f"item-{seed}" for seed in range(21)}
        check_vectors(engine)
        merged = load_info(engine.data, engine.live.current.generation.number)
        assert (merged.model, state_of(engine.data, merged)) == (info.model, State.LIVE)
    assert 1 in numbers(DataDir(data))  # the model before stays, to go back to
