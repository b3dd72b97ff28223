"""The tap: a share of the answers, bounded, and no worker waits for it."""

from __future__ import annotations

import asyncio
import gc
import random
import time
import weakref

import numpy as np

from indexer.index import SearchParams
from server.jobs import Answer, ImageQuery, ItemQuery, QueryJob, Timing, VectorQuery
from server.watching.tap import QueryTap, Sample
from tests.indexer.vectors import clustered
from tests.server.watching.samples import sample_of, serving_of

SERVING = serving_of(clustered(20, 8, 4))
Query = ImageQuery | VectorQuery | ItemQuery


def answered(query: Query, params: SearchParams | None = SearchParams()) -> tuple[QueryJob, Answer]:  # noqa: B008
    loop = asyncio.new_event_loop()
    job = QueryJob(loop.create_future(), None, query, params)
    loop.close()
    vector = SERVING.view.segment.vectors[0]
    hits = None if params is None else sample_of(SERVING, vector, params).hits
    return job, Answer(SERVING, vector, hits, Timing())


def waiting(tap: QueryTap) -> list[Sample]:
    found = []
    while (sample := tap.take(0.0)) is not None:
        found.append(sample)
    return found


def tap_of(share: float = 1.0, capacity: int = 64, dropped: list[int] | None = None) -> QueryTap:
    counted = [] if dropped is None else dropped
    return QueryTap(share, random.Random(3), lambda: counted.append(1), capacity=capacity)


def image(count: int) -> list[tuple[QueryJob, Answer]]:
    return [answered(ImageQuery(b"photo")) for _ in range(count)]


def test_each_answer_is_taken_by_a_draw_of_its_own() -> None:
    tap = tap_of(share=0.3, capacity=1000)
    draws = random.Random(3)
    wanted = sum(draws.random() < 0.3 for _ in range(200))
    for _ in range(20):
        tap.offer(image(10))
    assert len(waiting(tap)) == wanted
    assert 40 < wanted < 80


def test_a_share_of_nothing_takes_nothing_and_of_one_everything() -> None:
    none, every = tap_of(share=0.0), tap_of(share=1.0)
    for tap in (none, every):
        tap.offer(image(5))
    assert (len(waiting(none)), len(waiting(every))) == (0, 5)


def test_what_finds_no_room_is_dropped_and_counted_at_once() -> None:
    dropped: list[int] = []
    tap = tap_of(capacity=3, dropped=dropped)
    began = time.perf_counter()
    tap.offer(image(10))
    assert time.perf_counter() - began < 1.0
    assert len(dropped) == 7
    assert len(waiting(tap)) == 3


def test_what_is_thrown_away_is_counted_too() -> None:
    dropped: list[int] = []
    tap = tap_of(dropped=dropped)
    tap.offer(image(4))
    tap.empty()
    assert len(dropped) == 4
    assert waiting(tap) == []


def test_a_query_for_its_vector_alone_is_no_search_and_not_taken() -> None:
    tap = tap_of()
    tap.offer([answered(ImageQuery(b"photo"), None)])
    assert waiting(tap) == []


def test_a_sample_says_whether_the_query_was_an_item() -> None:
    tap = tap_of()
    queries: list[Query] = [
        ImageQuery(b"photo"),
        VectorQuery(np.zeros(8, np.float32), "m"),
        ItemQuery("i1"),
    ]
    tap.offer([answered(query) for query in queries])
    assert [sample.by_item for sample in waiting(tap)] == [False, False, True]


def test_a_sample_keeps_no_photo() -> None:
    tap = tap_of()
    offered = image(1)
    query = weakref.ref(offered[0][0].query)
    tap.offer(offered)
    offered.clear()
    gc.collect()
    assert query() is None
    assert len(waiting(tap)) == 1
