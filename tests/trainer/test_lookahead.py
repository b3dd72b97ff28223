"""Work done in threads ahead of its use."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import pytest

from trainer.lookahead import ahead


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


@pytest.mark.parametrize(("workers", "depth"), [(1, 1), (2, 4), (8, 3)], ids=lambda n: str(n))
def test_results_come_in_order_whichever_thread_is_first(workers: int, depth: int) -> None:
    def late(x: int) -> int:
        time.sleep(random.random() / 500)
        return x * x

    with ahead(late, range(50), workers=workers, depth=depth) as results:
        assert list(results) == [x * x for x in range(50)]


def test_the_next_results_are_made_while_one_is_used() -> None:
    made = [threading.Event() for _ in range(5)]
    with ahead(lambda x: made[x].set(), range(5), workers=1, depth=3) as results:
        next(results)
        assert all(made[x].wait(10) for x in (1, 2, 3))


def test_no_more_than_depth_results_are_made_ahead() -> None:
    taken: list[int] = []

    def arguments() -> Iterator[int]:
        for x in range(20):
            assert x <= len(taken) + 3
            yield x

    with ahead(lambda x: x, arguments(), depth=3) as results:
        while len(taken) < 20:
            taken.append(next(results))
    assert taken == list(range(20))


def test_an_error_is_raised_at_its_turn_and_ends_the_threads() -> None:
    taken: list[float] = []
    with pytest.raises(ZeroDivisionError), ahead(lambda x: 1 / x, [4, 2, 0, 1]) as results:
        taken.extend(results)
    assert not threads()


@pytest.mark.parametrize("error", [None, KeyboardInterrupt], ids=["early end", "Ctrl-C"])
def test_leaving_early_drops_what_has_not_begun_and_leaves_no_thread(error: type[BaseException] | None) -> None:
    begun: list[int] = []

    def slow(x: int) -> None:
        begun.append(x)
        time.sleep(0.02)

    def take_one() -> None:
        with ahead(slow, range(1000), workers=1, depth=500) as results:
            next(results)
            if error:
                raise error

    if error:
        with pytest.raises(error):
            take_one()
    else:
        take_one()
    assert len(begun) < 100
    assert not threads()


@pytest.mark.parametrize("bad", [{"workers": 0}, {"depth": 0}], ids=str)
def test_no_thread_or_no_room_is_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"), ahead(int, [1], **bad):
        pass
