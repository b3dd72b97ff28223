"""What an ingest keeps track of: which items are sent and not acknowledged. Pure state, without threads or network.

The sync and the asyncio ingest drive it in the same way, each under its own lock:

    reader     waits for `has_room(id)`, then `add`s the next item of the source; `end_source` when there is none left
    sender     waits for `can_send`, sends `next_request()`; ends when the `epoch` has moved on, or when `drained`
    receiver   hands each answer to `receive`; `break_stream` when the stream broke, after which all that is not
               acknowledged is sent again over the next one
    caller     `take`s the acknowledgements
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from clients.errors import DeadlineExceeded, EverlookClientError, Unavailable
from clients.retry import RetryPolicy
from clients.types import Acknowledgement


@dataclass(frozen=True)
class IngestLimits:
    """How much is under way at once, and how long a stream lasts.

    window, window_bytes: items, and bytes of their photos, that are sent and not acknowledged, or acknowledged and not
    yet taken by the caller. stream_s: a stream is opened anew after this many seconds, so that a server that hangs is
    noticed; several such streams in a row without one acknowledgement are an error.
    """

    window: int = 64
    window_bytes: int = 64 << 20
    stream_s: float = 120.0


@dataclass
class _Pending:
    request: bytes
    refusals: int = 0


class Window:
    """Items between the source and the caller. Ids are unique in it, so that writes of one id keep their order."""

    def __init__(
        self,
        limits: IngestLimits,
        policy: RetryPolicy,
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.epoch = 0
        self.limits = limits
        self._policy = policy
        self._clock = clock
        self._jitter = jitter
        self._pending: dict[str, _Pending] = {}
        self._bytes = 0
        self._outbox: deque[str] = deque()
        self._answers: deque[Acknowledgement] = deque()
        self._source_ended = False
        self._failed_streams = 0
        self._paused_until = 0.0

    # ---- reader

    def has_room(self, item_id: str) -> bool:
        """Whether an item of this id may be added now."""
        under_way = len(self._pending) + len(self._answers)
        return (
            under_way < self.limits.window and self._bytes < self.limits.window_bytes and item_id not in self._pending
        )

    def add(self, item_id: str, request: bytes) -> None:
        """One more item to send."""
        self._pending[item_id] = _Pending(request)
        self._bytes += len(request)
        self._outbox.append(item_id)

    def refuse(self, item_id: str, error: EverlookClientError) -> None:
        """An item that cannot be sent at all."""
        self._answers.append(Acknowledgement(item_id, error=error))

    def end_source(self) -> None:
        """There are no more items."""
        self._source_ended = True

    # ---- sender

    @property
    def drained(self) -> bool:
        """Whether every item of the source has its answer."""
        return self._source_ended and not self._pending

    @property
    def has_unsent(self) -> bool:
        """Whether something waits to be sent, now or after a pause."""
        return bool(self._outbox)

    @property
    def can_send(self) -> bool:
        """Whether `next_request` may be called now."""
        return bool(self._outbox) and self.pause_s == 0.0

    @property
    def pause_s(self) -> float:
        """For how long a refusal asks the sender to wait, in seconds."""
        return max(0.0, self._paused_until - self._clock())

    def next_request(self) -> bytes:
        """The next request in the order of the source."""
        return self._pending[self._outbox.popleft()].request

    # ---- receiver

    def receive(self, answer: Acknowledgement) -> None:
        """The server's word on one item: kept for the caller, unless it is a refusal that another attempt may mend."""
        pending = self._pending.get(answer.id)
        if pending is None or answer.id in self._outbox:  # a second word on the same item
            return
        self._failed_streams = 0
        if answer.error is not None:
            pending.refusals += 1
            pause = self._policy.pause_s(pending.refusals, answer.error, self._jitter())
            if pause is not None:
                self._paused_until = max(self._paused_until, self._clock() + pause)
                self._outbox.append(answer.id)
                return
        del self._pending[answer.id]
        self._bytes -= len(pending.request)
        self._answers.append(answer)

    def break_stream(self, error: EverlookClientError) -> float:
        """Puts all that is not acknowledged back to be sent; returns the seconds to wait before the next stream.

        Errors: `error`, when it is not one that another stream may mend, or when too many in a row have failed.
        """
        self.epoch += 1
        self._outbox = deque(self._pending)
        if not self._pending:
            return 0.0
        self._failed_streams += 1
        # A stream that outlived its time is like a broken one: the server may hang, and another stream may reach it.
        cause = Unavailable(error.message) if isinstance(error, DeadlineExceeded) else error
        pause = self._policy.pause_s(self._failed_streams, cause, self._jitter())
        if pause is None:
            raise error
        return pause

    # ---- caller

    def take(self) -> Acknowledgement | None:
        """The next acknowledgement; None when there is none yet."""
        return self._answers.popleft() if self._answers else None
