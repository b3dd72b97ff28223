"""Work done in threads ahead of its use, in order and within bounds."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
R = TypeVar("R")


@contextlib.contextmanager
def ahead(
    function: Callable[[A], R], arguments: Iterable[A], *, workers: int = 2, depth: int = 4
) -> Iterator[Iterator[R]]:
    """`with ahead(f, xs) as results:` iterates over f(x) for each x in order, while threads work on the next ones.

    At most `depth` results are begun and not yet taken. An error of `function` is raised where its result would have
    come. Leaving the block, for whatever reason, drops what has not begun and waits for what has.
    """
    if workers < 1 or depth < 1:
        raise ValueError(f"workers and depth must be at least 1, got {workers} and {depth}")
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ahead")
    try:
        yield _results(pool, function, iter(arguments), depth)
    finally:
        pool.shutdown(cancel_futures=True)


def _results(
    pool: ThreadPoolExecutor, function: Callable[[A], R], arguments: Iterator[A], depth: int
) -> Generator[R, None, None]:
    begun: deque[Future[R]] = deque(pool.submit(function, x) for x in itertools.islice(arguments, depth))
    while begun:
        result = begun.popleft().result()
        begun.extend(pool.submit(function, x) for x in itertools.islice(arguments, 1))
        yield result
