"""A bound on writes under way, in number and in bytes, over all callers (promise 11)."""

from __future__ import annotations

import asyncio
from collections import deque

from indexer.errors import QueueFull


class Budget:
    """Counts what is under way. Single calls are refused at once when it is spent; streams wait their turn, in order.

    For one event loop. One job larger than the whole byte budget is let through when nothing else is under way.
    """

    def __init__(self, jobs: int, size_bytes: int) -> None:
        self.jobs, self.size_bytes = jobs, size_bytes
        self.used_jobs = self.used_bytes = 0
        self._waiters: deque[tuple[asyncio.Future[None], int]] = deque()

    def _fits(self, size: int) -> bool:
        if self.used_jobs == 0:
            return True
        return self.used_jobs < self.jobs and self.used_bytes + size <= self.size_bytes

    def _take(self, size: int) -> None:
        self.used_jobs += 1
        self.used_bytes += size

    def acquire_now(self, size: int) -> None:
        """Errors: QueueFull when the budget is spent or others wait for it."""
        if self._waiters or not self._fits(size):
            raise QueueFull(
                "too many writes are under way",
                got=f"{self.used_jobs} writes, {self.used_bytes} bytes",
                expected=f"at most {self.jobs} writes, {self.size_bytes} bytes",
                retry_after_s=0.2,
            )
        self._take(size)

    async def acquire(self, size: int) -> None:
        """Waits until the budget has room. First come, first served."""
        if not self._waiters and self._fits(size):
            self._take(size)
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((waiter, size))
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.release(size)  # the turn came together with the cancellation
            else:
                self._wake()
            raise

    def release(self, size: int) -> None:
        """Gives back what one `acquire` took."""
        self.used_jobs -= 1
        self.used_bytes -= size
        self._wake()

    def _wake(self) -> None:
        while self._waiters:
            waiter, size = self._waiters[0]
            if waiter.cancelled():
                self._waiters.popleft()
            elif self._fits(size):
                self._waiters.popleft()
                self._take(size)
                waiter.set_result(None)
            else:
                return
