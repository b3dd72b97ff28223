"""The bound on writes under way: never exceeded, never leaked, first come first served."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.errors import QueueFull
from server.budget import Budget


def used(budget: Budget) -> tuple[int, int]:
    return budget.used_jobs, budget.used_bytes


async def settle() -> None:
    """Lets every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


def start(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    return asyncio.create_task(coroutine)


@pytest.mark.parametrize(
    ("jobs", "size_bytes", "fits"), [(2, 1000, [1, 1]), (1000, 10, [6, 4])], ids=["in number", "in bytes"]
)
def test_a_call_past_the_bound_is_refused_at_once(jobs: int, size_bytes: int, fits: list[int]) -> None:
    budget = Budget(jobs, size_bytes)
    for size in fits:
        budget.acquire_now(size)
    with pytest.raises(QueueFull) as refused:
        budget.acquire_now(1)
    assert refused.value.retry_after_s is not None
    assert used(budget) == (len(fits), sum(fits))
    budget.release(fits[0])
    budget.acquire_now(fits[0])


def test_a_job_larger_than_the_whole_budget_passes_alone() -> None:
    async def scenario() -> None:
        budget = Budget(10, 100)
        await budget.acquire(500)
        with pytest.raises(QueueFull):
            budget.acquire_now(1)
        large, small = start(budget.acquire(500)), start(budget.acquire(1))
        await settle()
        assert not large.done()
        budget.release(500)
        await settle()
        assert large.done()
        assert not small.done()
        budget.release(500)
        await small
        assert used(budget) == (1, 1)

    asyncio.run(scenario())


def test_first_come_first_served_also_when_a_later_one_would_fit() -> None:
    async def scenario() -> None:
        budget = Budget(10, 100)
        await budget.acquire(80)
        order: list[str] = []

        async def take(name: str, size: int) -> None:
            await budget.acquire(size)
            order.append(name)

        tasks = [start(take("large", 50)), start(take("small", 10))]
        await settle()
        assert order == []
        with pytest.raises(QueueFull):
            budget.acquire_now(1)
        budget.release(80)
        await asyncio.gather(*tasks)
        assert order == ["large", "small"]

    asyncio.run(scenario())


def test_who_gives_up_waiting_lets_the_next_one_in() -> None:
    async def scenario() -> None:
        budget = Budget(10, 100)
        await budget.acquire(60)
        large, small = start(budget.acquire(80)), start(budget.acquire(30))
        await settle()
        large.cancel()
        await small
        assert used(budget) == (2, 90)

    asyncio.run(scenario())


def test_a_turn_that_comes_together_with_the_cancellation_is_given_back() -> None:
    async def scenario() -> None:
        budget = Budget(1, 100)
        await budget.acquire(10)
        waiting, next_one = start(budget.acquire(20)), start(budget.acquire(30))
        await settle()
        budget.release(10)  # its turn
        waiting.cancel()  # and its end, before it ran
        await next_one
        assert waiting.cancelled()
        assert used(budget) == (1, 30)

    asyncio.run(scenario())


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("acquire"), st.integers(0, 15)),
        st.tuples(st.just("acquire_now"), st.integers(0, 15)),
        st.tuples(st.just("release"), st.integers(0, 7)),
        st.tuples(st.just("cancel"), st.integers(0, 7)),
        st.tuples(st.just("run"), st.just(0)),
    ),
    max_size=60,
)


@given(STEPS)
def test_in_any_order_of_events_what_is_used_is_what_is_held_and_within_the_bounds(
    steps: list[tuple[str, int]],
) -> None:
    async def scenario() -> None:
        budget = Budget(4, 20)
        waiting: list[asyncio.Task[None]] = []
        held: list[int] = []

        async def take(size: int) -> None:
            await budget.acquire(size)
            held.append(size)

        for step, number in steps:
            if step == "acquire":
                waiting.append(start(take(number)))
            elif step == "acquire_now":
                try:
                    budget.acquire_now(number)
                except QueueFull:
                    continue
                held.append(number)
            elif step == "release" and held:
                budget.release(held.pop(number % len(held)))
            elif step == "cancel" and waiting:
                waiting.pop(number % len(waiting)).cancel()
            elif step == "run":
                await settle()
                assert used(budget) == (len(held), sum(held))
            assert budget.used_jobs <= 4
            assert budget.used_bytes <= 20 or budget.used_jobs == 1
        await settle()
        assert used(budget) == (len(held), sum(held))
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        while held:
            budget.release(held.pop())
        assert used(budget) == (0, 0)
        budget.acquire_now(20)

    asyncio.run(scenario())
