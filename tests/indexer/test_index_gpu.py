"""How a segment uses GPUs. A stand-in for faiss's GPU build shows which thread owns what, and for how long."""

from __future__ import annotations

import gc
import threading
from typing import Any

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from indexer.catalogue import Entry
from indexer.index import SearchParams, Segment
from indexer.index.gallery import Gallery
from tests.indexer.vectors import clustered

Vectors = NDArray[np.float32]


class FlatOnGpu:
    """A flat index that notes the threads that touch it, as faiss's GPU indexes bear only one."""

    def __init__(self, dimension: int) -> None:
        self._index = faiss.IndexFlatIP(dimension)
        self.threads: set[int] = set()
        self.searches = 0

    def add(self, vectors: Vectors) -> None:
        self.threads.add(threading.get_ident())
        self._index.add(vectors)

    def search(self, queries: Vectors, k: int) -> Any:
        self.threads.add(threading.get_ident())
        self.searches += 1
        return self._index.search(queries, k)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[FlatOnGpu]:
    indexes: list[FlatOnGpu] = []

    def to_gpus(flat: Any, ngpu: int) -> FlatOnGpu:
        indexes.append(FlatOnGpu(flat.d))
        return indexes[-1]

    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", to_gpus, raising=False)
    return indexes


def unit(rows: int, seed: int = 0) -> Vectors:
    vectors = np.random.default_rng(seed).normal(size=(rows, 16)).astype(np.float32)
    normalised: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return normalised


def segment(rows: int = 300) -> Segment:
    return Segment.build(unit(rows), np.arange(1, rows + 1, dtype=np.uint64))


def entries(of: Segment) -> Any:

    return [(Entry(int(seq), f"i{seq}", "c", {}, ""), None) for seq in of.seqs]


def test_a_batch_of_exact_searches_runs_on_the_gpu_in_one_thread_and_finds_what_the_cpu_finds(
    made: list[FlatOnGpu],
) -> None:
    on_cpu, on_gpu = segment(), segment()
    on_gpu.use_gpus(1)
    queries = unit(64, seed=1)
    params = SearchParams(k=5, exact=True)
    expected = [hits.ids for hits in Gallery.open(on_cpu, entries(on_cpu)).view.search(queries, params)]
    view = Gallery.open(on_gpu, entries(on_gpu)).view
    results: list[list[list[str]]] = []

    def search() -> None:
        results.append([hits.ids for hits in view.search(queries, params)])

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 4
    assert made[0].searches >= 4
    assert len(made[0].threads) == 1


def test_without_a_gpu_nothing_is_copied_to_one(made: list[FlatOnGpu]) -> None:
    segment().use_gpus(0)
    assert made == []


def test_the_gpus_memory_is_freed_with_the_last_reference_to_the_segment(made: list[FlatOnGpu]) -> None:
    before = threading.active_count()
    used = segment()
    used.use_gpus(1)
    assert threading.active_count() == before + 1
    del used
    gc.collect()
    assert threading.active_count() == before


def test_a_segment_that_does_not_fit_stays_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_small(flat: Any, ngpu: int) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", too_small, raising=False)
    used = segment()
    used.use_gpus(1)
    queries = unit(8, seed=2)
    hits = Gallery.open(used, entries(used)).view.search(queries, SearchParams(k=1, exact=True))
    assert [len(each) for each in hits] == [1] * 8


def test_inverted_lists_are_trained_on_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def to_gpus(flat: Any, ngpu: int) -> Any:
        asked.append(ngpu)
        return flat

    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", to_gpus, raising=False)
    seqs = np.arange(1, 2001, dtype=np.uint64)
    built = Segment.build(clustered(2000, 16, 40), seqs, flat_below=1000, gpus=2)
    assert built.kind.startswith("IVF")
    assert asked == [2]
