"""The promises that a serving process keeps, by number, each against a real one. (Promise 2 under kills: test_kill.)"""

from __future__ import annotations

import hashlib
import itertools
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import pytest

import clients
from clients import Acknowledgement, Client, Embedding, Filter, Item, SearchResult
from everlook.v1 import everlook_pb2 as pb
from indexer.datadir import DataDir
from indexer.generation import live_number, load_info, numbers, publishing
from indexer.index import Segment
from indexer.model import load_manifest
from tests.e2e.folders import check_whole
from tests.e2e.photos import photo, slow_photo
from tests.e2e.process import ServerProcess
from tests.e2e.raw import TIMEOUT_S, refusal
from tests.e2e.shop import MAX_MESSAGE_BYTES, Shop

MERGING = ("--merge-min-entries", "64", "--merge-ratio", "0.1")


def ingest(client: Client, seeds: Iterator[int] | range, prefix: str = "item") -> list[Acknowledgement]:
    """Adds an item for each photo; every one has to be acknowledged."""
    answers = list(client.ingest((Item(f"{prefix}-{seed}", "shelf"), photo(seed)) for seed in seeds))
    assert [answer.error for answer in answers if answer.error] == []
    return answers


# ---------------------------------------------------------------------------------------------------- promise 1


def test_1_one_answer_comes_from_one_generation_while_merges_follow_one_another(data: Path) -> None:
    with ServerProcess(data, *MERGING) as server, server.client() as client:
        ingest(client, range(20))
        vectors = {seed: client.embed(photo(seed)) for seed in range(20)}
        over = threading.Event()
        with ThreadPoolExecutor(3) as searchers:
            searching = [searchers.submit(_search_until, over, client, vectors, first) for first in range(3)]
            try:
                ingest(client, range(20, 420))
            finally:
                over.set()
        answers = [result for each in searching for result in each.result()]
    generations = {result.generation.number for result in answers}
    assert len(generations) > 1, "no merge came between the searches"
    assert {result.generation.model for result in answers} == {vectors[0].model}


def _search_until(
    over: threading.Event, client: Client, vectors: dict[int, Embedding], first: int
) -> list[SearchResult]:
    """Searches by photo and by vector in turn; each answer has to be whole, and no older than the one before."""
    results: list[SearchResult] = []
    for seed in itertools.cycle(range(first, 20, 3)):
        if over.is_set():
            return results
        by_photo = client.search(image=photo(seed), k=5)
        by_vector = client.search(vector=vectors[seed], k=5)
        for result in (by_photo, by_vector):
            scores = [hit.score for hit in result.hits]
            assert result.hits[0].id == f"item-{seed}"
            assert result.hits[0].score == pytest.approx(1.0, abs=1e-5)
            assert len({hit.id for hit in result.hits}) == len(result.hits)
            assert scores == sorted(scores, reverse=True)
            assert not results or result.generation.number >= results[-1].generation.number
            results.append(result)
    return results


# ---------------------------------------------------------------------------------------------------- promises 2 and 3


def test_2_what_is_acknowledged_is_found_at_once_and_after_a_kill(data: Path) -> None:
    with ServerProcess(data, *MERGING) as server, server.client() as client:
        for answer in client.ingest((Item(f"item-{seed}", "shelf"), photo(seed)) for seed in range(100)):
            assert answer.generation is not None
            found = client.search(image=photo(int(answer.id.removeprefix("item-"))), k=1)
            assert found.hits[0].id == answer.id
            assert found.generation.number >= answer.generation.number
        last = client.put(Item("last", "shelf"), photo(1000))
        server.kill()
    with ServerProcess(data, *MERGING) as server, server.client() as client:
        for seed in range(100):
            assert client.search(image=photo(seed), k=1).hits[0].id == f"item-{seed}"
        assert client.search(image=photo(1000), k=1).hits[0].id == "last"
        assert client.get("last").seq == last.seq


def test_2_what_is_replaced_is_found_by_its_new_photo_only(data: Path) -> None:
    with ServerProcess(data) as server, server.client() as client:
        ingest(client, range(5))
        client.put(Item("item-2", "other shelf"), photo(1002))
        hit = client.search(image=photo(1002), k=1).hits[0]
        assert (hit.id, hit.category) == ("item-2", "other shelf")
        assert client.search(image=photo(2), k=5).hits[0].score < 0.99
        client.put(Item("item-3", "other shelf"), None)
        hit = client.search(image=photo(3), k=1, filter=Filter(categories=["other shelf"])).hits[0]
        assert hit.id == "item-3"
        assert hit.score == pytest.approx(1.0, abs=1e-5)


def test_3_what_is_deleted_is_gone_across_merges_restarts_and_kills(data: Path) -> None:
    gone = [f"item-{seed}" for seed in range(0, 40, 2)]

    def check(client: Client) -> None:
        for exact in (False, True):
            hits = client.search(image=photo(0), k=1000, exact=exact).hits
            assert {hit.id for hit in hits}.isdisjoint(gone)
        assert client.get_many(gone) == []
        for call in (client.get, client.get_image, client.delete, lambda id: client.search(item_id=id)):
            with pytest.raises(clients.NotFound):
                call(gone[0])

    with ServerProcess(data, *MERGING) as server, server.client() as client:
        ingest(client, range(40))
        for id in gone:
            client.delete(id)
            assert id not in {hit.id for hit in client.search(image=photo(int(id[5:])), k=1000).hits}
        check(client)
        server.kill()
    with ServerProcess(data, *MERGING) as server, server.client() as client:
        check(client)
        ingest(client, range(100, 200))  # a merge
        check(client)
        assert server.stop() == 0
    with ServerProcess(data, *MERGING) as server, server.client() as client:
        check(client)
        assert client.status().catalogue.items == 20 + 100


# ---------------------------------------------------------------------------------------------------- promises 9 and 10


def test_9_what_is_published_is_whole_and_never_edited(data: Path) -> None:
    folder = DataDir(data)
    seen: dict[Path, str] = {}

    def look() -> None:
        with publishing(folder):  # so that nothing is removed between the two looks
            for path in sorted([*folder.generations.glob("[0-9]*/*"), *folder.models.glob("[!.]*/*")]):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                assert seen.setdefault(path, content) == content, f"{path} was edited"

    with ServerProcess(data, *MERGING) as server, server.client() as client:
        for start in range(0, 300, 100):
            ingest(client, range(start, start + 100))
            look()
        server.kill()
    look()
    with ServerProcess(data, *MERGING) as server:
        assert server.stop() == 0
    look()
    check_whole(data)
    for number in numbers(folder):
        info = load_info(folder, number)
        load_manifest(folder.model(info.model), verify=True)
        assert len(Segment.load(folder.generation(number))) <= info.seq
    assert live_number(folder) in numbers(folder)


def test_10_bad_input_is_refused_with_what_was_got_and_expected_and_changes_nothing(shop: Shop) -> None:
    too_long = pb.PutRequest(item=pb.Item(id="new", category="x" * 300), image=photo(0))
    refused = refusal(lambda: shop.raw.catalog.Put(too_long, timeout=TIMEOUT_S))
    assert (refused.code, refused.reason, refused.field) == ("INVALID_ARGUMENT", "INVALID_FIELD", "item.category")
    assert (refused.got, refused.expected) == ("300 bytes", "at most 256 bytes")


# ---------------------------------------------------------------------------------------------------- promise 11

BUSY = ("--threads", "1", "--max-batch", "1")


def test_11_a_full_query_queue_refuses_at_once_with_a_hint(data: Path) -> None:
    with (
        ServerProcess(data, *BUSY, "--query-queue", "2") as server,
        server.client() as client,
        ThreadPoolExecutor(12) as callers,
    ):
        began = time.monotonic()
        calls: dict[Future[SearchResult], float] = {
            callers.submit(client.search, image=slow_photo()): time.monotonic() for _ in range(12)
        }
        refused_after, answered_after = [], []
        for done in as_completed(calls):
            error = done.exception()
            if error is None:
                answered_after.append(time.monotonic() - began)
            else:
                assert isinstance(error, clients.Overloaded)
                assert error.reason == "QUEUE_FULL"
                assert error.retry_after_s
                assert error.got
                refused_after.append(time.monotonic() - began)
        assert len(answered_after) >= 3
        assert len(refused_after) >= 1
        assert min(refused_after) < max(answered_after)
        assert client.search(image=photo(0)).hits == ()
        assert server.metric('everlook_refusals_total{reason="QUEUE_FULL"}') == len(refused_after)


def test_11_writes_past_the_bound_are_refused_and_streams_wait(data: Path) -> None:
    flags = (*BUSY, "--max-ingest-batch", "1", "--ingest-queue", "2")
    with ServerProcess(data, *flags) as server, server.client() as client, ThreadPoolExecutor(8) as callers:
        puts = [callers.submit(client.put, Item(f"put-{i}", "shelf"), slow_photo()) for i in range(8)]
        outcomes = [each.exception() for each in puts]
        refused = [error for error in outcomes if error is not None]
        assert 1 <= len(refused) <= 6
        assert all(isinstance(error, clients.Overloaded) and error.retry_after_s for error in refused)
        assert len(ingest(client, range(100))) == 100
        assert client.status().catalogue.items == 100 + 8 - len(refused)


def test_11_a_call_whose_deadline_passes_while_it_waits_is_dropped_unrun(data: Path) -> None:
    with ServerProcess(data, *BUSY) as server, server.client() as client, ThreadPoolExecutor(40) as callers:
        slow = [callers.submit(client.search, image=slow_photo()) for _ in range(40)]
        while server.metric('everlook_queue_depth{lane="query"}') < 30:  # seconds of work
            assert not all(each.done() for each in slow), "the queue was never seen to be long"
            time.sleep(0.005)
        with pytest.raises(clients.DeadlineExceeded):
            client.search(image=photo(0), timeout_s=1)
        assert [each.exception() for each in slow] == [None] * 40
        client.search(image=photo(0))
        assert server.metric('everlook_expired_total{lane="query"}') == 1


def test_11_a_message_has_a_bound(shop: Shop) -> None:
    with pytest.raises(clients.Overloaded) as caught:
        shop.client.search(image=bytes(MAX_MESSAGE_BYTES + 1))
    assert caught.value.retry_after_s is None


# ---------------------------------------------------------------------------------------------------- promise 12


def test_12_the_serving_process_has_no_torch_in_it(shop: Shop) -> None:
    assert np.isfinite(shop.client.embed(photo(0)).values).all()
    maps = Path(f"/proc/{shop.process.pid}/maps").read_text()
    assert "onnxruntime" in maps  # so that the file is what it is taken for
    assert not re.search(r"torch|libc10|onnxscript", maps)
