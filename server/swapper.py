"""The swapper: makes candidates live by itself, and other generations where an operator says so, one at a time.

The engine does the work, in a thread. A candidate that fails a gate is rejected for good; any other failure, such as a
full disk, is tried again, later each time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from prometheus_client import Counter

from indexer.datadir import DataDir
from indexer.errors import Damaged, EverlookError, GateFailed, GenerationNotFound, NotReady, NotServing
from indexer.gates import RecallLimits
from indexer.generation import (
    GenerationInfo,
    State,
    candidate_generation,
    load_info,
    numbers,
    previous_generation,
    state_of,
)

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_FIRST_PAUSE_S, _MOST_PAUSE_S = 1.0, 300.0


class Promotes(Protocol):
    """The engine, as far as it is needed here."""

    @property
    def data(self) -> DataDir: ...

    def promote(
        self, number: int, *, limits: RecallLimits | None, progress: Callable[[str, int, int], None]
    ) -> GenerationInfo: ...


@dataclass(frozen=True)
class Swap:
    """A generation that is being made live."""

    number: int
    phase: str = "loading"
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class Attempt:
    """A swap that has ended."""

    number: int
    back: bool
    """Whether somebody asked to go back to this generation."""
    result: str
    """"ok"; "refused" by a gate in this attempt; "failed" otherwise; "impossible" as things stood."""
    phases: tuple[tuple[str, float, float], ...]
    """Each phase with when it began, as `time.perf_counter()`, and how many seconds it took."""


@dataclass(frozen=True)
class Failure:
    """A candidate that could not be made live for a reason that may pass."""

    number: int
    """0 when it cannot even be told which there are."""
    times: int
    again_at: float
    """`time.monotonic()`."""
    reason: str


class Swapper:
    """`async with Swapper(...)` looks for candidates about once a second, unless it is told to hold.

    The end of the block does not wait for a swap that is under way: the engine, which closes next, ends it.
    """

    def __init__(
        self,
        engine: Promotes,
        limits: RecallLimits,
        swaps: Counter,
        *,
        hold: bool,
        on_swap: Callable[[], None] = lambda: None,
        on_end: Callable[[Attempt], None] = lambda attempt: None,
        every_s: float = _LOOK_EVERY_S,
    ) -> None:
        """`on_swap` is told, on the event loop, of each generation that has gone live; `on_end` of each swap that has
        ended, however it did, in the context of the call that asked for it."""
        self._engine = engine
        self._limits = limits
        self._swaps = swaps
        self._on_swap = on_swap
        self._on_end = on_end
        self._every_s = every_s
        self._looking: asyncio.Task[None] | None = None
        self._swapping: asyncio.Task[GenerationInfo] | None = None
        self.hold = hold
        """Whether a candidate that has passed its gates waits for a person's `promote`."""
        self.current: Swap | None = None
        """What is under way."""
        self.failure: Failure | None = None
        """What is to be tried again."""

    async def __aenter__(self) -> Self:
        if not self.hold:
            self._looking = asyncio.create_task(self._look())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})

    async def promote(self, number: int) -> GenerationInfo:
        """Makes a generation live, and returns when it is; goes on when the caller is cancelled.

        Errors: as `Engine.promote`; NotReady too while another is being made live.
        """
        return await self._promote(number, back=False)

    async def _promote(self, number: int, *, back: bool) -> GenerationInfo:
        if self.current is not None:
            raise NotReady(
                f"generation {self.current.number} is being made live ({self.current.phase}); try again when it is",
                field="number",
                got=number,
            )
        self.current = Swap(number)
        self._swapping = asyncio.create_task(self._swap(number, back=back))
        self._swapping.add_done_callback(_retrieve)  # nobody may be left to be told
        return await asyncio.shield(self._swapping)

    async def rollback(self, number: int = 0) -> GenerationInfo:
        """Makes a generation live that was live before; 0 is the one of the model before. Otherwise as `promote`."""
        return await self._promote(await asyncio.to_thread(self._to_go_back_to, number), back=True)

    def _to_go_back_to(self, number: int) -> int:
        data = self._engine.data
        if number:
            if number in numbers(data) and state_of(data, load_info(data, number)) is State.CANDIDATE:
                raise NotReady(
                    f"generation {number} was never live; promote it instead",
                    field="number",
                    got=number,
                    expected="one that was live",
                )
            return number
        previous = previous_generation(data)
        if previous is None:
            raise NotReady("there is no generation of an earlier model to go back to", field="number")
        return previous.number

    async def _swap(self, number: int, *, back: bool) -> GenerationInfo:
        began: list[tuple[str, float]] = []

        def told(phase: str, done: int, total: int) -> None:
            self.current = Swap(number, phase, done, total)
            if not began or began[-1][0] != phase:
                began.append((phase, time.perf_counter()))

        log.info("making generation %d live", number)
        result = "impossible"
        try:
            info = await asyncio.to_thread(self._engine.promote, number, limits=self._limits, progress=told)
        except Exception as error:
            if began and await self._refuses(error, number):  # not begun: a gate refused it before
                result = "refused"
            elif not isinstance(error, NotReady | GenerationNotFound | GateFailed | NotServing):
                result = "failed"
            raise
        else:
            result = "ok"
        finally:
            self.current = None
            if result != "impossible":
                self._swaps.labels(result=result).inc()
            self._tell(Attempt(number, back, result, _timed(began, time.perf_counter())))
        self.failure = None
        self._on_swap()
        return info

    def _tell(self, attempt: Attempt) -> None:
        """Tells who watches. A watch that fails changes nothing of the swap."""
        try:
            self._on_end(attempt)
        except Exception:
            log.exception("a swap could not be watched")

    async def _refuses(self, error: Exception, number: int) -> bool:
        """Whether an error, of an attempt that has begun, is a gate's."""
        if isinstance(error, Damaged):
            return await asyncio.to_thread(self._rejected, number)
        return isinstance(error, GateFailed)

    def _rejected(self, number: int) -> bool:
        try:
            return state_of(self._engine.data, load_info(self._engine.data, number)) is State.REJECTED
        except Damaged:
            return False

    # ------------------------------------------------------------------------------------------------ by itself

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            if self.current is None:
                await self._make_candidate_live()

    async def _make_candidate_live(self) -> None:
        failure, number = self.failure, 0
        try:
            if _pauses(failure, 0):
                return
            info = await asyncio.to_thread(candidate_generation, self._engine.data)
            if info is None:
                self.failure = None
            elif self.current is None and not _pauses(failure, info.number):
                number = info.number
                await self.promote(number)
        except NotReady as error:
            log.warning("%s", error.message)
        except Exception as error:
            self.failure = failed_again(number, error, failure, time.monotonic())
            log.error("generation %d could not be made live: %s", number, self.failure.reason)


def _timed(began: Sequence[tuple[str, float]], end: float) -> tuple[tuple[str, float, float], ...]:
    """Phases by when each began, with how long each took: until the next."""
    ends = [*(at for _, at in began[1:]), end]
    return tuple((phase, at, until - at) for (phase, at), until in zip(began, ends, strict=False))


def _pauses(failure: Failure | None, number: int) -> bool:
    return failure is not None and failure.number == number and time.monotonic() < failure.again_at


def failed_again(number: int, error: Exception, before: Failure | None, now: float) -> Failure:
    """What is known after a failure: a candidate that failed before waits twice as long as then."""
    times = before.times + 1 if before is not None and before.number == number else 1
    pause_s = min(_MOST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(times - 1, 32))
    reason = error.message if isinstance(error, EverlookError) else f"{type(error).__name__}: {error}"
    return Failure(number, times, now + pause_s, reason)


def _retrieve(task: asyncio.Task[GenerationInfo]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        task.exception()
