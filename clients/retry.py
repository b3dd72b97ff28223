"""When a failed call is tried again, and after how long.

Every call that apps make is safe to repeat (the header of everlook.proto says why), so what decides is only whether
repeating can help: after UNAVAILABLE, and after RESOURCE_EXHAUSTED where the server says when. An operator's levers are
never pulled twice (`wire.Call.once`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from clients.errors import EverlookClientError, Overloaded, Unavailable


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential back-off with full jitter.

    attempts: calls in all, the first included; 1 never retries. initial_s, multiplier, max_s: the longest pause before
    the second call, its growth, and its ceiling; the pause is drawn evenly from zero to that. A pause that the server
    asks for is kept, and the jitter added to it, so that callers refused together do not return together.
    """

    attempts: int = 5
    initial_s: float = 0.1
    multiplier: float = 2.0
    max_s: float = 5.0

    def pause_s(self, failed: int, error: EverlookClientError, jitter: float) -> float | None:
        """Seconds to wait after the `failed`-th attempt (1 is the first); None when it should not be tried again.

        jitter: a number between 0 and 1.
        """
        helps = isinstance(error, Unavailable) or (isinstance(error, Overloaded) and error.retry_after_s is not None)
        if not helps or failed >= self.attempts:
            return None
        backoff = min(self.max_s, self.initial_s * self.multiplier ** (failed - 1)) * jitter
        return (error.retry_after_s or 0.0) + backoff


# For what another attempt could do a second time.
ONCE = RetryPolicy(attempts=1)

# For a long job, which a server that restarts should not end: about half a minute, a minute at most.
PATIENT = RetryPolicy(attempts=20)


class Attempts:
    """The attempts of one call, under one deadline for all of them together.

    The caller asks `remaining_s` before each attempt, and after a failure sleeps for `pause_s(error)`, which raises the
    error instead when another attempt cannot help or cannot end in time.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        timeout_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._jitter = jitter
        self._deadline = clock() + timeout_s
        self._failed = 0
        self.maybe_done = False  # an earlier attempt failed in a way that leaves open whether the server did the work

    @property
    def remaining_s(self) -> float:
        """Seconds until the deadline, never below zero."""
        return max(0.0, self._deadline - self._clock())

    def pause_s(self, error: EverlookClientError) -> float:
        """Seconds to sleep before the next attempt. Errors: `error` itself, when there should be none."""
        self._failed += 1
        pause = self._policy.pause_s(self._failed, error, self._jitter())
        if pause is None or pause >= self.remaining_s:
            raise error
        self.maybe_done = self.maybe_done or isinstance(error, Unavailable)
        return pause
