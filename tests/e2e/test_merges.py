"""Merges that go wrong, or meet writes: the engine in this process, with the disk or the clock in the test's hand."""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import indexer.merging
from indexer.catalogue import Photo, Put
from indexer.datadir import DataDir
from indexer.engine import Engine, Options
from indexer.files import STAGING
from indexer.generation import numbers, remove_stale
from indexer.images import preprocess
from indexer.index import SearchParams, Segment
from tests.e2e.folders import tiny_data
from tests.e2e.photos import photo

OPTIONS = Options(merge_min_entries=4, merge_ratio=0.1)


def put(engine: Engine, seed: int) -> None:
    """Adds an item that shows `photo(seed)`."""
    generation = engine.live.current.generation
    pixels, info = preprocess(photo(seed), generation.model.preprocessing)
    (vector,) = generation.encoder.encode(pixels[None])
    shown = Photo(photo(seed), hashlib.sha256(photo(seed)).hexdigest(), info.width, info.height, info.format)
    engine.submit(Put(f"item-{seed}", "shelf", {}, shown, {generation.model.id: vector})).result(10)


def found(engine: Engine) -> set[str]:
    """The ids of all items that a search can return."""
    view = engine.live.current.view
    (hits,) = view.search(view.live_vectors()[0][:1], SearchParams(k=1000, exact=True))
    return set(hits.ids)


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_what_comes_during_a_merge_is_merged_without_waiting_for_another_write(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    building, go_on = threading.Event(), threading.Event()
    build = Segment.build

    def slow_build(*args: Any, **options: Any) -> Segment:
        building.set()
        assert go_on.wait(20)
        return build(*args, **options)

    with Engine(DataDir(data), OPTIONS) as engine:
        monkeypatch.setattr(Segment, "build", slow_build)
        for seed in range(4):
            put(engine, seed)
        assert building.wait(20)
        for seed in range(4, 12):
            put(engine, seed)
        assert len(engine.live.current.view.delta) == 12
        go_on.set()
        wait_for(lambda: len(engine.live.current.view.segment) == 12)
        assert found(engine) == {f"item-{seed}" for seed in range(12)}


def test_old_generations_that_cannot_be_removed_cost_no_item_and_no_merge(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removing, fail, build_next = threading.Event(), threading.Event(), threading.Event()
    ended: list[bool] = []
    build = Segment.build

    def failing_once(*args: Any) -> list[int]:
        if removing.is_set():
            return remove_stale(*args)
        removing.set()
        assert fail.wait(20)
        raise OSError("the disk is gone for a moment")

    def build_when_told(*args: Any, **options: Any) -> Segment:
        assert not removing.is_set() or build_next.wait(20)
        return build(*args, **options)

    monkeypatch.setattr(Segment, "build", build_when_told)
    with Engine(DataDir(data), Options(merge_min_entries=4, merge_ratio=0.1, on_merge=ended.append)) as engine:
        monkeypatch.setattr(indexer.merging, "remove_stale", failing_once)
        for seed in range(4):
            put(engine, seed)
        assert removing.wait(20)
        for seed in range(4, 12):  # enough for another merge
            put(engine, seed)
        fail.set()
        wait_for(lambda: ended)
        build_next.set()
        wait_for(lambda: len(engine.live.current.view.segment) >= 8)
        assert found(engine) == {f"item-{seed}" for seed in range(12)}
    with Engine(DataDir(data), OPTIONS) as engine:
        assert found(engine) == {f"item-{seed}" for seed in range(12)}


def test_a_merge_that_fails_leaves_everything_as_it_was(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[bool] = []

    def failing(*_: Any) -> None:
        raise OSError("no space left")

    with Engine(DataDir(data), Options(merge_min_entries=4, on_merge=ended.append)) as engine:
        monkeypatch.setattr(indexer.merging, "publish_generation", failing)
        for seed in range(8):
            put(engine, seed)
        wait_for(lambda: ended)
        put(engine, 8)
        assert ended == [False]
        assert engine.live.current.generation.number == 1
        assert found(engine) == {f"item-{seed}" for seed in range(9)}
    monkeypatch.undo()
    with Engine(DataDir(data), OPTIONS) as engine:
        wait_for(lambda: len(engine.live.current.view.segment) == 9)
        assert found(engine) == {f"item-{seed}" for seed in range(9)}


def test_generations_that_a_kill_left_over_are_removed_at_the_next_start(tmp_path: Path) -> None:
    data = DataDir(tiny_data(tmp_path))
    with Engine(data) as engine:
        live = engine.live.current.generation.number
    for left in (live + 1, live + 2):
        shutil.copytree(data.generation(live), data.generation(left))
    with Engine(data) as engine:
        assert engine.live.current.generation.number == live
        assert numbers(data) == [live]


@pytest.mark.parametrize("folder", ["verdicts", "requests", "generations"])
def test_what_a_kill_left_half_written_is_removed_at_the_next_start(tmp_path: Path, folder: str) -> None:
    data = DataDir(tiny_data(tmp_path))
    data.create()
    left = data.root / folder / f"{STAGING}left"
    left.write_text("half of it")
    with Engine(data):
        assert not left.exists()
