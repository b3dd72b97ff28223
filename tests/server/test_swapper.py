"""When the swapper swaps by itself, what it counts, and that there is one swap at a time. The engine is a fake."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from indexer.datadir import DataDir
from indexer.errors import (
    EverlookError,
    GateFailed,
    GenerationDamaged,
    GenerationNotFound,
    NotReady,
    NotServing,
    StorageFull,
)
from indexer.gates import RecallLimits
from indexer.generation import GenerationInfo, State
from server import swapper
from server.metrics import Metrics
from server.swapper import Attempt, Swap, Swapper, failed_again
from tests.server.running import sample, until

LIMITS = RecallLimits(most_drop=0.07)
EVERY_S = 0.001


def info(number: int) -> GenerationInfo:
    return GenerationInfo(number, f"model {number}", 0, 0.0)


@dataclass
class FakeEngine:
    """Promotes, or raises what it is told to, once it is let."""

    data: DataDir
    errors: list[Exception] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    limits: list[RecallLimits | None] = field(default_factory=list)
    let: threading.Event = field(default_factory=threading.Event)
    states: dict[int, State] = field(default_factory=dict)

    def promote(
        self, number: int, *, limits: RecallLimits | None, progress: Callable[[str, int, int], None]
    ) -> GenerationInfo:
        self.asked.append(number)
        self.limits.append(limits)
        progress("catching up", 3, 10)
        self.let.wait(20)
        if self.errors:
            raise self.errors.pop(0)
        self.states[number] = State.LIVE
        return info(number)

    def candidate(self, data: DataDir) -> GenerationInfo | None:
        found = [number for number, state in self.states.items() if state is State.CANDIDATE]
        return info(max(found)) if found else None


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """An engine that promotes at once; `states` are the generations on the disk."""
    fake = FakeEngine(DataDir(tmp_path))
    fake.let.set()
    monkeypatch.setattr(swapper, "candidate_generation", fake.candidate)
    monkeypatch.setattr(swapper, "numbers", lambda data: sorted(fake.states))
    monkeypatch.setattr(swapper, "load_info", lambda data, number: info(number))
    monkeypatch.setattr(swapper, "state_of", lambda data, of: fake.states[of.number])
    monkeypatch.setattr(swapper, "_FIRST_PAUSE_S", 0.01)
    return fake


@dataclass
class Running:
    swapper: Swapper
    registry: CollectorRegistry

    def counted(self) -> dict[str, float]:
        results = ("ok", "refused", "failed")
        return {result: sample(self.registry, "everlook_swaps_total", result=result) for result in results}


@asynccontextmanager
async def running(engine: FakeEngine, *, hold: bool = False) -> AsyncIterator[Running]:
    registry = CollectorRegistry()
    async with Swapper(engine, LIMITS, Metrics(registry).swaps, hold=hold, every_s=EVERY_S) as made:
        yield Running(made, registry)
    engine.let.set()


def test_a_candidate_goes_live_by_itself_under_the_servers_limits(engine: FakeEngine) -> None:
    async def run() -> None:
        async with running(engine) as server:
            engine.states[7] = State.CANDIDATE
            await until(lambda: engine.states[7] is State.LIVE and server.swapper.current is None)
            assert engine.limits == [LIMITS]
            assert server.counted() == {"ok": 1, "refused": 0, "failed": 0}

    asyncio.run(run())


def test_a_candidate_that_is_held_waits_for_a_persons_promote(engine: FakeEngine) -> None:
    async def run() -> None:
        engine.states[7] = State.CANDIDATE
        async with running(engine, hold=True) as server:
            await asyncio.sleep(20 * EVERY_S)
            assert engine.asked == []
            assert (await server.swapper.promote(7)).number == 7
            assert engine.limits == [LIMITS]

    asyncio.run(run())


def test_a_candidate_that_fails_a_gate_is_counted_and_not_tried_again(engine: FakeEngine) -> None:
    async def run() -> None:
        engine.states[7] = State.CANDIDATE

        def rejected(number: int, progress: Callable[[str, int, int], None], **_: object) -> GenerationInfo:
            engine.asked.append(number)
            progress("checking", 0, 1)
            engine.states[number] = State.REJECTED
            raise GateFailed("old cohort 0: it fell")

        engine.promote = rejected  # type: ignore[method-assign]
        async with running(engine) as server:
            await until(lambda: server.counted()["refused"] == 1)
            await asyncio.sleep(20 * EVERY_S)
            assert engine.asked == [7]
            assert server.swapper.failure is None

    asyncio.run(run())


def test_another_failure_is_counted_shown_and_tried_again_until_it_passes(engine: FakeEngine) -> None:
    async def run() -> None:
        engine.states[7] = State.CANDIDATE
        engine.errors = [StorageFull("the disk is full"), OSError("no such device")]
        async with running(engine) as server:
            await until(lambda: server.swapper.failure is not None)
            assert server.swapper.failure is not None
            assert server.swapper.failure.reason == "the disk is full"
            await until(lambda: engine.states[7] is State.LIVE and server.swapper.failure is None)
            assert server.counted() == {"ok": 1, "refused": 0, "failed": 2}

    asyncio.run(run())


def test_a_failure_of_the_same_candidate_waits_twice_as_long_each_time_up_to_five_minutes() -> None:
    failure = failed_again(7, StorageFull("full"), None, 100.0)
    assert (failure.times, failure.again_at, failure.reason) == (1, 101.0, "full")
    failure = failed_again(7, ValueError("odd"), failure, 100.0)
    assert (failure.times, failure.again_at, failure.reason) == (2, 102.0, "ValueError: odd")
    assert failed_again(8, StorageFull("full"), failure, 100.0).again_at == 101.0
    for _ in range(2000):
        failure = failed_again(7, StorageFull("full"), failure, 100.0)
    assert failure.again_at == 400.0


def test_a_newer_candidate_does_not_wait_for_one_that_failed(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swapper, "_FIRST_PAUSE_S", 3600.0)

    async def run() -> None:
        engine.states[7] = State.CANDIDATE
        engine.errors = [StorageFull("the disk is full")]
        async with running(engine) as server:
            await until(lambda: server.swapper.failure is not None)
            engine.states[8] = State.CANDIDATE
            await until(lambda: engine.states[8] is State.LIVE)

    asyncio.run(run())


def test_what_cannot_be_read_does_not_end_the_looking(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def damaged(data: DataDir) -> GenerationInfo | None:
        looks.append(1)
        if len(looks) < 3:
            raise GenerationDamaged("live.json cannot be read")
        return engine.candidate(data)

    monkeypatch.setattr(swapper, "candidate_generation", damaged)

    async def run() -> None:
        engine.states[7] = State.CANDIDATE
        async with running(engine):
            await until(lambda: engine.states[7] is State.LIVE)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("error", "state", "counted"),
    [
        (GateFailed("fell"), State.REJECTED, "refused"),
        (GenerationDamaged("cut off"), State.REJECTED, "refused"),
        (GenerationDamaged("cut off"), State.PREVIOUS, "failed"),
        (StorageFull("full"), State.CANDIDATE, "failed"),
        (RuntimeError("odd"), State.CANDIDATE, "failed"),
        (NotReady("it is live already"), State.LIVE, None),
        (GenerationNotFound("no such generation"), State.CANDIDATE, None),
        (NotServing("the engine is closing"), State.CANDIDATE, None),
    ],
    ids=lambda value: getattr(value, "name", None) or type(value).__name__,
)
def test_swaps_are_counted_by_what_became_of_them(
    engine: FakeEngine, error: Exception, state: State, counted: str | None
) -> None:
    async def run() -> None:
        engine.errors, engine.states[7] = [error], state
        async with running(engine, hold=True) as server:
            with pytest.raises(type(error)):
                await server.swapper.promote(7)
            wanted = {"ok": 0.0, "refused": 0.0, "failed": 0.0}
            assert server.counted() == wanted | ({counted: 1.0} if counted else {})
            assert server.swapper.current is None

    asyncio.run(run())


def test_what_a_gate_has_refused_before_is_not_refused_again_but_impossible(engine: FakeEngine) -> None:
    def rejected(number: int, **_: object) -> GenerationInfo:
        raise GateFailed("generation 7 failed a gate and is never served")

    engine.states[7] = State.REJECTED
    engine.promote = rejected  # type: ignore[method-assign]
    ended: list[Attempt] = []

    async def run() -> None:
        registry = CollectorRegistry()
        async with Swapper(engine, LIMITS, Metrics(registry).swaps, hold=True, on_end=ended.append) as made:
            for ask in (made.promote, made.rollback):
                with pytest.raises(GateFailed):
                    await ask(7)
        assert Running(made, registry).counted() == {"ok": 0, "refused": 0, "failed": 0}

    asyncio.run(run())
    assert [each.result for each in ended] == ["impossible", "impossible"]


def test_a_second_swap_is_refused_while_one_is_under_way_and_told_which(engine: FakeEngine) -> None:
    async def run() -> None:
        engine.let.clear()
        async with running(engine, hold=True) as server:
            first = asyncio.create_task(server.swapper.promote(7))
            await until(lambda: server.swapper.current == Swap(7, "catching up", 3, 10))
            with pytest.raises(NotReady, match=r"generation 7 is being made live \(catching up\)"):
                await server.swapper.promote(8)
            engine.let.set()
            assert (await first).number == 7
            assert (await server.swapper.promote(8)).number == 8
            assert engine.asked == [7, 8]

    asyncio.run(run())


def test_a_swap_goes_on_when_its_caller_hangs_up(engine: FakeEngine) -> None:
    async def run() -> None:
        engine.let.clear()
        async with running(engine, hold=True) as server:
            caller = asyncio.create_task(server.swapper.promote(7))
            await until(lambda: engine.asked == [7])
            caller.cancel()
            await asyncio.wait({caller})
            engine.let.set()
            await until(lambda: server.counted()["ok"] == 1)

    asyncio.run(run())


def test_the_end_does_not_wait_for_a_swap_that_is_under_way(engine: FakeEngine) -> None:
    async def run() -> None:
        engine.let.clear()
        engine.states[7] = State.CANDIDATE
        engine.errors = [NotServing("the engine is closing")]
        async with running(engine) as server:
            await until(lambda: engine.asked == [7])
        assert server.swapper.current is not None
        await until(lambda: server.swapper.current is None)

    asyncio.run(run())


def test_a_rollback_goes_back_to_the_model_before(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swapper, "previous_generation", lambda data: info(5))

    async def run() -> None:
        engine.states = {5: State.PREVIOUS, 6: State.PREVIOUS, 7: State.CANDIDATE}
        async with running(engine, hold=True) as server:
            assert (await server.swapper.rollback()).number == 5
            assert (await server.swapper.rollback(6)).number == 6
            with pytest.raises(NotReady, match="generation 7 was never live"):
                await server.swapper.rollback(7)
            monkeypatch.setattr(swapper, "previous_generation", lambda data: None)
            with pytest.raises(NotReady, match="no generation of an earlier model"):
                await server.swapper.rollback()
            assert engine.asked == [5, 6]

    asyncio.run(run())


# ---------------------------------------------------------------------------------------------------- who watches


def attempts(
    engine: FakeEngine, ask: Callable[[Swapper], Awaitable[object]]
) -> tuple[list[Attempt], CollectorRegistry]:
    """What is heard of a swap, and what is counted of it."""
    registry, heard = CollectorRegistry(), list[Attempt]()
    metrics = Metrics(registry)

    def hear(attempt: Attempt) -> None:
        metrics.count_swap(attempt)
        heard.append(attempt)

    async def run() -> None:
        async with Swapper(engine, LIMITS, metrics.swaps, hold=True, on_end=hear) as made:
            with contextlib.suppress(EverlookError, ValueError):
                await ask(made)

    asyncio.run(run())
    return heard, registry


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (None, "ok"),
        (GateFailed("it fell"), "refused"),
        (StorageFull("full"), "failed"),
        (NotReady("it is live"), "impossible"),
        (ValueError("a fault"), "failed"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_each_swap_that_has_ended_is_told_once_with_what_came_of_it(
    error: Exception | None, result: str, engine: FakeEngine
) -> None:
    engine.errors = [error] if error else []
    (attempt,), registry = attempts(engine, lambda made: made.promote(7))
    assert (attempt.number, attempt.back, attempt.result) == (7, False, result)
    ((phase, _, took_s),) = attempt.phases
    assert (phase, took_s >= 0) == ("catching up", True)
    assert sample(registry, "everlook_swap_seconds_count", phase="catching up") == 1
    assert sample(registry, "everlook_swaps_total", result=result) == (result != "impossible")
    assert sample(registry, "everlook_rollbacks_total", result=result) == 0


def test_a_rollback_is_a_swap_and_counted_as_what_it_is_too(engine: FakeEngine) -> None:
    engine.states[3] = State.PREVIOUS
    (attempt,), registry = attempts(engine, lambda made: made.rollback(3))
    assert attempt.back
    assert sample(registry, "everlook_swaps_total", result="ok") == 1
    assert sample(registry, "everlook_rollbacks_total", result="ok") == 1


def test_each_phase_lasts_until_the_next_and_there_may_be_none() -> None:
    assert swapper._timed([], 9.0) == ()
    assert swapper._timed([("loading", 1.0), ("checking", 3.5)], 4.0) == (("loading", 1.0, 2.5), ("checking", 3.5, 0.5))


def test_a_swap_that_never_began_a_phase_keeps_its_own_error(engine: FakeEngine) -> None:
    def unknown(number: int, **_: object) -> GenerationInfo:
        raise GenerationNotFound("there is no generation 9")

    async def run() -> None:
        engine.promote = unknown  # type: ignore[method-assign]
        async with running(engine, hold=True) as server:
            with pytest.raises(GenerationNotFound):
                await server.swapper.promote(9)

    asyncio.run(run())


def test_a_watch_that_fails_changes_nothing_of_the_swap(engine: FakeEngine, caplog: pytest.LogCaptureFixture) -> None:
    def broken(attempt: Attempt) -> None:
        raise OSError("no such collector")

    async def run() -> None:
        metrics = Metrics(CollectorRegistry())
        async with Swapper(engine, LIMITS, metrics.swaps, hold=True, on_end=broken) as made:
            assert (await made.promote(7)).number == 7

    asyncio.run(run())
    assert "could not be watched" in caplog.text
