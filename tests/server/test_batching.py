"""How work waits: `collect` with plain deques, and the queue that threads take from."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import pytest

from indexer.errors import NotServing, QueueFull
from server.batching import Lane, LaneLimits, WorkQueue, collect

LIMITS = {Lane.QUERY: LaneLimits(100, 1000, 4), Lane.INGEST: LaneLimits(100, 1000, 3)}
PATIENCE_S = 0.5


@dataclass(eq=False)
class Job:
    name: str
    lane: Lane = Lane.QUERY
    enqueued_at: float = 0.0
    expired: bool = False
    size: int = 1


def names(jobs: Iterable[Job]) -> list[str]:
    return [job.name for job in jobs]


def writes(count: int) -> deque[Job]:
    return deque(Job(f"w{n}", Lane.INGEST) for n in range(count))


def queries(count: int) -> deque[Job]:
    return deque(Job(f"q{n}") for n in range(count))


def lanes_of(query: deque[Job], ingest: deque[Job]) -> dict[Lane, deque[Job]]:
    return {Lane.QUERY: query, Lane.INGEST: ingest}


def never() -> dict[Lane, float]:
    return dict.fromkeys(Lane, float("-inf"))


def take(lanes: dict[Lane, deque[Job]], now: float = 0.0, served: dict[Lane, float] | None = None) -> list[str]:
    jobs, _ = collect(lanes, LIMITS, never() if served is None else served, now, PATIENCE_S)
    return names(jobs)


def test_nothing_is_collected_where_nothing_waits() -> None:
    assert collect(lanes_of(deque(), deque()), LIMITS, never(), 0.0, PATIENCE_S) == ([], [])


def test_queries_go_before_writes_and_a_batch_is_of_one_lane() -> None:
    lanes = lanes_of(queries(2), writes(2))
    assert take(lanes) == ["q0", "q1"]
    assert take(lanes) == ["w0", "w1"]


def test_a_batch_takes_whatever_waits_in_order_up_to_its_limit() -> None:
    lanes = lanes_of(queries(6), deque())
    assert take(lanes) == ["q0", "q1", "q2", "q3"]
    assert take(lanes) == ["q4", "q5"]


@pytest.mark.parametrize(("waited", "first"), [(0.4, "q0"), (0.6, "w0")], ids=["patient", "out of patience"])
def test_writes_go_before_queries_once_they_have_had_no_turn_for_longer_than_their_patience(
    waited: float, first: str
) -> None:
    assert take(lanes_of(queries(1), writes(1)), now=waited)[0] == first


def test_a_long_queue_of_writes_gets_turns_and_not_the_way() -> None:
    lanes = lanes_of(queries(12), writes(9))
    served = never()
    turns = [take(lanes, now, served)[0][0] for now in (10.0, 10.1, 10.2, 10.7, 10.8)]
    assert turns == ["w", "q", "q", "w", "q"]


def test_what_has_expired_is_reported_and_leaves_its_place_in_the_batch_to_others() -> None:
    waiting = deque([Job("late", expired=True), *queries(4), Job("later", expired=True), Job("q4")])
    jobs, expired = collect(lanes_of(waiting, deque()), LIMITS, never(), 0.0, PATIENCE_S)
    assert (names(jobs), names(expired)) == (["q0", "q1", "q2", "q3"], ["late"])
    jobs, expired = collect(lanes_of(waiting, deque()), LIMITS, never(), 0.0, PATIENCE_S)
    assert (names(jobs), names(expired)) == (["q4"], ["later"])


# ---------------------------------------------------------------------------------------------------- the queue


def queue_of(capacity: int = 2, capacity_bytes: int = 1000) -> WorkQueue[Job]:
    limits = LaneLimits(capacity, capacity_bytes, 8)
    return WorkQueue(dict.fromkeys(Lane, limits), patience_s=PATIENCE_S)


def test_a_full_lane_refuses_at_once_and_says_when_to_try_again() -> None:
    queue = queue_of()
    queue.put(Job("a"))
    queue.put(Job("b"))
    with pytest.raises(QueueFull) as refused:
        queue.put(Job("c"))
    assert refused.value.retry_after_s is not None
    assert "2 waiting" in refused.value.got
    assert "at most 2 waiting" in refused.value.expected
    queue.put(Job("write", Lane.INGEST))
    assert (queue.depth(Lane.QUERY), queue.depth(Lane.INGEST)) == (2, 1)
    assert queue.capacity(Lane.QUERY) == 2


def test_a_lane_is_bounded_in_bytes_and_lets_one_large_job_wait_alone() -> None:
    queue = queue_of(capacity=100)
    queue.put(Job("huge", size=5000))
    with pytest.raises(QueueFull):
        queue.put(Job("small"))
    queue.take()
    queue.put(Job("half", size=500))
    queue.put(Job("the other half", size=500))
    with pytest.raises(QueueFull):
        queue.put(Job("more"))


def test_room_comes_back_when_work_is_taken_run_or_not() -> None:
    queue = queue_of(capacity=2, capacity_bytes=10)
    for _ in range(5):
        queue.put(Job("live", size=5))
        queue.put(Job("late", size=5, expired=True))
        assert queue.take() is not None


def test_a_closed_queue_takes_nothing_more_gives_out_what_waits_and_then_ends() -> None:
    queue = queue_of()
    queue.put(Job("a"))
    queue.close()
    with pytest.raises(NotServing):
        queue.put(Job("b"))
    taken = queue.take()
    assert taken is not None
    assert names(taken[0]) == ["a"]
    assert queue.take() is None
    assert queue.take() is None


def test_takers_sleep_until_there_is_work() -> None:
    queue = queue_of()
    taken: list[str] = []

    def work() -> None:
        while (batch := queue.take()) is not None:
            taken.extend(names(batch[0]))

    thread = threading.Thread(target=work)
    thread.start()
    ticks = time.clock_gettime_ns(time.pthread_getcpuclockid(_native(thread)))
    time.sleep(0.2)
    used_s = (time.clock_gettime_ns(time.pthread_getcpuclockid(_native(thread))) - ticks) / 1e9
    assert used_s < 0.02
    queue.put(Job("a"))
    queue.close()
    thread.join(5)
    assert taken == ["a"]
    assert not thread.is_alive()


def _native(thread: threading.Thread) -> int:
    assert thread.ident is not None
    return thread.ident


def test_many_threads_take_every_job_once() -> None:
    queue = queue_of(capacity=10_000)
    taken: list[str] = []
    lock = threading.Lock()

    def work() -> None:
        while (batch := queue.take()) is not None:
            with lock:
                taken.extend(names(batch[0]))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for n in range(2000):
        queue.put(Job(str(n), Lane(n % 2)))
    queue.close()
    for thread in threads:
        thread.join(5)
    assert sorted(taken, key=int) == [str(n) for n in range(2000)]


def test_the_oldest_job_of_a_lane_tells_how_far_it_lags() -> None:
    clock = iter([12.0, 13.5])
    queue: WorkQueue[Job] = WorkQueue(LIMITS, patience_s=PATIENCE_S, clock=lambda: next(clock))
    assert queue.oldest_s(Lane.INGEST) == 0
    queue.put(Job("w0", Lane.INGEST, enqueued_at=10.0))
    queue.put(Job("w1", Lane.INGEST, enqueued_at=11.0))
    assert [queue.oldest_s(Lane.INGEST) for _ in range(2)] == [2.0, 3.5]
    assert queue.oldest_s(Lane.QUERY) == 0
