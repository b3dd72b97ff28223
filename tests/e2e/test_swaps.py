"""A storm of swaps: promises 1, 2, 3, 4 and 8 while models go forward and back under sixteen callers and a stream."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from everlook.v1 import everlook_pb2 as pb
from indexer.catalogue import Catalogue
from indexer.datadir import DataDir
from indexer.generation import load_info, numbers
from tests.e2e.folders import publish_candidate, tiny_data
from tests.e2e.photos import photo
from tests.e2e.process import ServerProcess
from tests.e2e.raw import TIMEOUT_S, Stubs, parse

ITEMS = 40
PHOTO_CALLERS, VECTOR_CALLERS, WRITERS = 9, 5, 2
SWAPS = 20


class Storm:
    """What callers share: who failed, and which model each generation has."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.over = threading.Event()
        self.failures: list[str] = []
        self.answers = 0
        self.mismatches = 0
        self.models: dict[int, set[str]] = {}
        self._lock = threading.Lock()

    def run(self, body: Callable[[Stubs, Callable[[], bool]], None]) -> threading.Thread:
        """Calls `body` in a thread, with stubs of its own, until the storm is over or it fails."""

        def work() -> None:
            try:
                with grpc.insecure_channel(self.target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
                    body(Stubs(channel), self.over.is_set)
            except BaseException as error:
                self.failures.append(repr(error))

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread

    def check(self, seed: int, answer: pb.SearchResponse, id: str | None = None) -> None:
        """The photo's own item comes first, with the score of a vector met by itself: one model made both."""
        assert answer.hits, "nothing was found"
        first = answer.hits[0]
        assert first.id == (id or f"item-{seed}"), f"{first.id} came first, not {id or f'item-{seed}'}"
        assert first.score > 0.9999, f"{first.id} scores {first.score}"
        with self._lock:
            self.answers += 1
            self.models.setdefault(answer.generation.number, set()).add(answer.generation.model)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tiny_data(tmp_path)


@pytest.fixture
def server(data: Path) -> Iterator[ServerProcess]:
    """Over forty items."""
    with ServerProcess(data, "--hold", "--merge-min-entries", "60", "--keep-generations", "3") as server:
        with grpc.insecure_channel(server.target) as channel:
            for seed in range(ITEMS):
                put(Stubs(channel), f"item-{seed}", seed)
        yield server


def put(stubs: Stubs, id: str, seed: int) -> pb.PutResponse:
    item = pb.Item(id=id, category=f"category-{seed % 4}")
    return stubs.catalog.Put(pb.PutRequest(item=item, image=photo(seed)), timeout=TIMEOUT_S)


def by_photo(storm: Storm, number: int) -> Callable[[Stubs, Callable[[], bool]], None]:
    def body(stubs: Stubs, over: Callable[[], bool]) -> None:
        draw = random.Random(number)
        while not over():
            seed = draw.randrange(ITEMS)
            storm.check(seed, stubs.search.Search(pb.SearchRequest(image=photo(seed), k=3), timeout=TIMEOUT_S))

    return body


def by_vector(storm: Storm, number: int) -> Callable[[Stubs, Callable[[], bool]], None]:
    """A vector of a model that serves no more is refused, as it must be, and embedding again helps."""

    def body(stubs: Stubs, over: Callable[[], bool]) -> None:
        draw = random.Random(number)
        while not over():
            seed = draw.randrange(ITEMS)
            vector = stubs.search.Embed(pb.EmbedRequest(image=photo(seed)), timeout=TIMEOUT_S).vector
            for _ in range(20):
                request = pb.SearchRequest(vector=vector, k=3)
                try:
                    answer = stubs.search.Search(request, timeout=TIMEOUT_S)
                except grpc.RpcError as error:
                    found = parse(error)
                    assert (found.code, found.reason) == ("FAILED_PRECONDITION", "MODEL_MISMATCH"), found
                    assert found.got == vector.model
                    storm.mismatches += 1
                    break
                assert answer.generation.model == vector.model
                storm.check(seed, answer)

    return body


def writing(storm: Storm, number: int) -> Callable[[Stubs, Callable[[], bool]], None]:
    """Each item is found by the search after its acknowledgement, and after its deletion by none."""

    def body(stubs: Stubs, over: Callable[[], bool]) -> None:
        seed = 1000 * (number + 1)
        while not over():
            seed += 1
            id = f"new-{seed}"
            put(stubs, id, seed)
            storm.check(seed, stubs.search.Search(pb.SearchRequest(image=photo(seed)), timeout=TIMEOUT_S), id)
            if seed % 3 == 0:
                stubs.catalog.Delete(pb.DeleteRequest(id=id), timeout=TIMEOUT_S)
                answer = stubs.search.Search(pb.SearchRequest(image=photo(seed)), timeout=TIMEOUT_S)
                assert id not in [hit.id for hit in answer.hits], f"{id} was deleted and is found"
            if seed % 4 == 0:
                item = pb.Item(id=id if seed % 3 else f"item-{seed % ITEMS}", category="moved")
                stubs.catalog.Put(pb.PutRequest(item=item), timeout=TIMEOUT_S)

    return body


def test_promises_1_2_3_4_and_8_hold_in_a_storm_of_swaps(data: Path, server: ServerProcess) -> None:
    with Catalogue.open(DataDir(data).catalogue_url) as catalogue:
        candidate = publish_candidate(DataDir(data), catalogue, 2).model
    storm = Storm(server.target)
    threads = [storm.run(by_photo(storm, number)) for number in range(PHOTO_CALLERS)]
    threads += [storm.run(by_vector(storm, number)) for number in range(VECTOR_CALLERS)]
    threads += [storm.run(writing(storm, number)) for number in range(WRITERS)]
    with grpc.insecure_channel(server.target) as channel:
        stubs = Stubs(channel)
        live = []
        for swap in range(SWAPS):
            if storm.failures:
                break
            if swap % 2 == 0:
                listed = stubs.admin.ListGenerations(pb.ListGenerationsRequest(), timeout=TIMEOUT_S).generations
                newest = max(each.number for each in listed if each.model.id == candidate)
                went_live = stubs.admin.Promote(pb.PromoteRequest(number=newest), timeout=TIMEOUT_S).generation
            else:
                went_live = stubs.admin.Rollback(pb.RollbackRequest(), timeout=TIMEOUT_S).generation
            live.append(went_live.model.id)
            time.sleep(0.15)
    storm.over.set()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert not storm.failures, storm.failures
    assert len(live) == SWAPS
    assert len(set(live)) == 2
    assert storm.answers > 20 * SWAPS
    assert storm.mismatches > 0  # vectors of the model before were refused, and no other call was
    assert len(storm.models) > 1
    for number, models in storm.models.items():
        assert len(models) == 1, f"generation {number} answered with vectors of {models}"
        if number in numbers(DataDir(data)):
            assert models == {load_info(DataDir(data), number).model}
