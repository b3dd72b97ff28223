"""The worker threads: one batch, one serving unit; what goes wrong with a batch, and what does not."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from indexer.encoder import Encoder
from indexer.engine import Engine, Serving
from indexer.errors import (
    DeadlinePassed,
    ImageUnreadable,
    InvalidVector,
    ItemNotFound,
    ModelMismatch,
    NotServing,
    QueueFull,
)
from indexer.index import AnyOf, Filter, SearchParams
from server.jobs import Answer, ImageQuery, IngestJob, ItemQuery, QueryJob, VectorQuery, Written
from server.services.calls import Calls
from tests.server.running import calls_of, photo, sample, until

Metadata = dict[str, str | float | bool]


def query(
    what: ImageQuery | VectorQuery | ItemQuery, params: SearchParams | None = None, deadline: float | None = None
) -> QueryJob:
    return QueryJob(asyncio.get_running_loop().create_future(), deadline, what, params or SearchParams())


def write(id: str, image: bytes, metadata: Metadata | None = None) -> IngestJob:
    return IngestJob(asyncio.get_running_loop().create_future(), None, id, "apples", metadata or {}, image)


async def submit(calls: Calls, jobs: Sequence[QueryJob | IngestJob]) -> list[Any]:
    """Submits the jobs together, lets the workers do them, and returns results and exceptions."""
    for job in jobs:
        calls.pipeline.submit(job)
    return await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)


def fill(engine: Engine, *items: tuple[str, bytes, Metadata]) -> None:
    async def scenario() -> None:
        calls = calls_of(engine)
        async with calls.pipeline:
            written = await submit(calls, [write(id, image, metadata) for id, image, metadata in items])
            assert all(isinstance(each, Written) for each in written)

    asyncio.run(scenario())


def ids(answer: Answer) -> list[str]:
    assert answer.hits is not None
    return answer.hits.ids


class Encodes:
    """The batches that the encoder gets, and what it does before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.failures: list[BaseException] = []
        self.before: Any = lambda: None
        encode = Encoder.encode

        def observed(encoder: Encoder, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            self.sizes.append(len(pixels))
            self.before()
            if self.failures:
                raise self.failures.pop()
            return encode(encoder, pixels)

        monkeypatch.setattr(Encoder, "encode", observed)


@pytest.fixture
def encodes(monkeypatch: pytest.MonkeyPatch) -> Encodes:
    return Encodes(monkeypatch)


def test_what_waits_is_one_batch_and_every_query_gets_its_own_answer(engine: Engine, encodes: Encodes) -> None:
    fill(engine, *((f"i{n}", photo(n), {}) for n in range(4)))
    encodes.sizes.clear()

    async def scenario() -> None:
        calls = calls_of(engine)
        jobs = [query(ImageQuery(photo(n))) for n in range(4)]
        for job in jobs:
            calls.pipeline.submit(job)
        async with calls.pipeline:
            answers = await asyncio.gather(*(job.future for job in jobs))
        assert [ids(answer)[0] for answer in answers] == ["i0", "i1", "i2", "i3"]
        assert encodes.sizes == [4]
        assert all(answer.timing.encode_s > 0 and answer.timing.search_s > 0 for answer in answers)

    asyncio.run(scenario())


def test_a_batch_is_answered_by_one_serving_unit_although_another_goes_live_meanwhile(
    engine: Engine, encodes: Encodes
) -> None:
    fill(engine, ("a", photo(1), {}))
    before = engine.live.current
    encodes.before = lambda: setattr(engine.live, "current", Serving(before.generation, before.view))

    async def scenario() -> None:
        calls = calls_of(engine)
        jobs = [query(ImageQuery(photo(1))), query(ImageQuery(photo(2))), query(ItemQuery("a"))]
        for job in jobs:
            calls.pipeline.submit(job)
        async with calls.pipeline:
            answers = await asyncio.gather(*(job.future for job in jobs))
        assert [answer.serving for answer in answers] == [before] * 3
        assert all(answer.hits.view is before.view for answer in answers if answer.hits)
        assert engine.live.current is not before

    asyncio.run(scenario())


def test_each_bad_query_of_a_batch_fails_by_itself(engine: Engine) -> None:
    fill(engine, ("a", photo(1), {}))
    model = engine.live.current.generation.model.id

    async def scenario() -> None:
        calls = calls_of(engine)
        ones = np.ones(32, np.float32)
        jobs = [
            query(ImageQuery(b"no photo")),
            query(VectorQuery(ones, "another model")),
            query(VectorQuery(np.ones(3, np.float32), model)),
            query(ItemQuery("nobody")),
            query(ImageQuery(photo(1))),
        ]
        async with calls.pipeline:
            failed = await submit(calls, jobs)
        assert [type(each) for each in failed] == [ImageUnreadable, ModelMismatch, InvalidVector, ItemNotFound, Answer]

    asyncio.run(scenario())


def test_a_batch_that_fails_as_a_whole_fails_each_waiter_and_the_worker_lives_on(
    engine: Engine, encodes: Encodes
) -> None:
    encodes.failures.append(RuntimeError("the encoder is out of order"))

    async def scenario() -> None:
        calls = calls_of(engine)
        jobs = [query(ImageQuery(photo(n))) for n in range(3)]
        for job in jobs:
            calls.pipeline.submit(job)
        async with calls.pipeline:
            failed = await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)
            assert [str(each) for each in failed] == ["the encoder is out of order"] * 3
            (answer,) = await submit(calls, [query(ImageQuery(photo(1)))])
            assert isinstance(answer, Answer)

    asyncio.run(scenario())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_dies_fails_all_that_wait_and_all_that_come(engine: Engine, encodes: Encodes) -> None:
    encodes.failures.append(SystemExit("the thread is gone"))

    async def scenario() -> None:
        calls = calls_of(engine, max_batch=1)
        jobs = [query(ImageQuery(photo(n))) for n in range(3)]
        for job in jobs:
            calls.pipeline.submit(job)
        async with calls.pipeline:
            failed = await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)
            assert [type(each) for each in failed] == [NotServing] * 3
            with pytest.raises(NotServing):
                calls.pipeline.submit(query(ImageQuery(photo(1))))

    asyncio.run(scenario())


def test_jobs_whose_deadline_passed_or_whose_caller_left_are_dropped_unrun_and_counted(
    engine: Engine, encodes: Encodes
) -> None:
    async def scenario() -> None:
        calls = calls_of(engine)
        late = query(ImageQuery(photo(1)), deadline=time.monotonic() - 1)
        left = query(ImageQuery(photo(2)))
        live = query(ImageQuery(photo(3)), deadline=time.monotonic() + 60)
        for job in (late, left, live):
            calls.pipeline.submit(job)
        left.future.cancel()
        async with calls.pipeline:
            await live.future
            with pytest.raises(DeadlinePassed):
                await late.future
        assert encodes.sizes == [1]
        assert sample(calls.metrics.registry, "everlook_expired_total", lane="query") == 2

    asyncio.run(scenario())


def test_a_full_queue_refuses_at_once(engine: Engine) -> None:
    async def scenario() -> None:
        calls = calls_of(engine, queue=2)
        calls.pipeline.submit(query(ItemQuery("a")))
        calls.pipeline.submit(query(ItemQuery("a")))
        with pytest.raises(QueueFull):
            calls.pipeline.submit(query(ItemQuery("a")))

    asyncio.run(scenario())


def test_conditions_that_python_calls_equal_are_searched_apart(engine: Engine) -> None:
    fill(engine, ("number", photo(1), {"x": 1.0}), ("truth", photo(2), {"x": True}), ("text", photo(3), {"x": "1"}))

    async def scenario() -> None:
        calls = calls_of(engine)
        values: list[str | float | bool] = [1.0, True, "1"]
        jobs = [
            query(ImageQuery(photo(1)), SearchParams(filter=Filter(conditions=(AnyOf("x", (value,)),))))
            for value in values
        ]
        for job in jobs:
            calls.pipeline.submit(job)
        async with calls.pipeline:
            answers = await asyncio.gather(*(job.future for job in jobs))
        assert [ids(answer) for answer in answers] == [["number"], ["truth"], ["text"]]

    asyncio.run(scenario())


def test_a_written_item_is_found_by_the_serving_unit_that_its_answer_names(engine: Engine) -> None:
    async def scenario() -> None:
        calls = calls_of(engine, threads=2)
        async with calls.pipeline:
            for n in range(10):
                (written,) = await submit(calls, [write(f"i{n}", photo(n))])
                assert written.serving.view.row_of(f"i{n}") is not None

    asyncio.run(scenario())


def test_each_bad_photo_of_a_batch_of_writes_is_refused_by_itself(engine: Engine, encodes: Encodes) -> None:
    async def scenario() -> None:
        calls = calls_of(engine)
        jobs = [write("good", photo(1)), write("bad", b""), write("better", photo(2))]
        for job in jobs:
            calls.pipeline.submit(job)
        async with calls.pipeline:
            done = await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)
        assert [type(each) for each in done] == [Written, ImageUnreadable, Written]
        assert encodes.sizes == [2]
        assert engine.catalogue.totals().items == 2

    asyncio.run(scenario())


def test_leaving_the_pipeline_finishes_what_waits_and_ends_the_threads(engine: Engine) -> None:
    async def scenario() -> None:
        calls = calls_of(engine, threads=3)
        jobs = [write(f"i{n}", photo(n)) for n in range(20)]
        for job in jobs:
            calls.pipeline.submit(job)
        async with calls.pipeline:
            pass
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("worker-")]
        done = await asyncio.gather(*(job.future for job in jobs))
        assert len(done) == 20

    asyncio.run(scenario())


def test_who_watches_is_told_of_what_was_answered_and_of_nothing_else(engine: Engine) -> None:
    fill(engine, ("a", photo(1), {}))
    told: list[tuple[QueryJob, Answer]] = []

    async def scenario() -> None:
        calls = calls_of(engine, on_answers=told.extend)
        good, bad = query(ImageQuery(photo(1))), query(ItemQuery("nobody"))
        async with calls.pipeline:
            answer, _, _ = await submit(calls, [good, bad, write("b", photo(2))])
            late = query(ImageQuery(photo(1)), deadline=time.monotonic() - 1)
            await submit(calls, [late])
        assert told == [(good, answer)]

    asyncio.run(scenario())


def test_a_watch_that_fails_costs_neither_the_answers_nor_the_worker(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    fill(engine, ("a", photo(1), {}))

    def fails(_: object) -> None:
        raise RuntimeError("the watch is out of order")

    async def scenario() -> None:
        calls = calls_of(engine, on_answers=fails)
        async with calls.pipeline:
            for _ in range(2):
                (answer,) = await submit(calls, [query(ImageQuery(photo(1)))])
                assert ids(answer) == ["a"]

    asyncio.run(scenario())
    assert "answers could not be watched" in caplog.text


def test_without_a_watch_nothing_is_gathered_for_one(engine: Engine) -> None:
    """What nobody listens to costs one comparison a batch."""
    calls = calls_of(engine)

    class Untouched(list[Any]):
        def __iter__(self) -> Any:
            raise AssertionError("the outcomes were looked through")

    calls.pipeline._tell(Untouched())
    watched = calls_of(engine, on_answers=lambda answered: None)
    with pytest.raises(AssertionError):
        watched.pipeline._tell(Untouched())


def test_workers_that_wait_keep_nothing_of_their_last_batch_alive(engine: Engine) -> None:
    """Otherwise a generation that is gone would stay in memory until the next query comes."""
    fill(engine, ("a", photo(1), {}))

    async def scenario() -> None:
        calls = calls_of(engine)
        async with calls.pipeline:
            job = query(ItemQuery("a"))
            gone = weakref.ref(job)
            assert isinstance((await submit(calls, [job]))[0], Answer)
            del job
            await until(lambda: gone() is None)

    asyncio.run(scenario())
