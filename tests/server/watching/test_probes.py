"""When the probes are measured, what for, and what becomes of it. The gallery and the history are real."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from indexer.catalogue import Catalogue, Cause, CohortCounts, History, Measurement, Photo, Put, SwapRecord
from indexer.errors import NotServing, StorageFull
from indexer.gates import RecallLimits
from indexer.generation import Live, Serving
from indexer.index import Segment, View
from indexer.probe_recall import places
from indexer.probes import is_probe, rank
from server.watching import probes
from server.watching.cohorts import drift
from server.watching.pace import Pace
from server.watching.probes import Measured, ProbeWatch
from tests.e2e.folders import publish_candidate
from tests.indexer.catalogues import fresh_url
from tests.indexer.test_probe_recall import view_of
from tests.indexer.vectors import clustered, unit
from tests.server.running import engine_in, photo

WAIT_S = 20.0
IDS = [id for id in (f"probe-{n}" for n in range(1000)) if is_probe(id)][:60]
CATEGORIES = [f"category-{n % 6}" for n in range(60)]
LEARNED: dict[str, dict[str, int]] = {
    "zero": {},
    "one": dict.fromkeys(CATEGORIES[:3], 0),
    "two": {f"category-{n}": n // 3 for n in range(6)},
}
"""What each model has learned."""


def a_view(seed: int = 0, without: Sequence[str] = ()) -> View:
    vectors = unit(clustered(6, 8, 6, seed=1)[np.arange(60) % 6] + 0.4 * clustered(60, 8, 60, seed=seed))
    held = [row for row, id in enumerate(IDS) if id not in without]
    return view_of(vectors[held], [IDS[row] for row in held], [CATEGORIES[row] for row in held], in_main=30)


@dataclass
class FakeEngine:
    """Serves one view by models of any name; writes at once, or raises what it is told to."""

    history: History
    live: Live
    errors: list[BaseException] = field(default_factory=list)

    def note_live(self) -> None:
        """Its history misses nothing."""

    def record(self, measured: Measurement) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.history.append(measured)

    def go_live(self, model: str, number: int = 1) -> None:
        generation: Any = SimpleNamespace(number=number, model=SimpleNamespace(id=model))
        self.live.current = Serving(generation, self.live.current.view)

    def swap(self, model: str, base: str, cohort: int | None, number: int, at: float | None = None) -> None:
        self.go_live(model, number)
        self.history.append_swap(SwapRecord(at or time.time(), number, model, base, cohort, False))

    def merge(self, view: View | None = None) -> weakref.ref[Segment]:
        """Another generation of the live model goes live. Returns the segment of the one before."""
        generation, old = self.live.current.generation, weakref.ref(self.live.current.view.segment)
        merged: Any = SimpleNamespace(number=generation.number + 1, model=generation.model)
        self.live.current = Serving(merged, a_view() if view is None else view)
        return old


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    """Model "zero" is live, and has learned nothing."""
    with Catalogue.open(fresh_url("sqlite", tmp_path)) as catalogue:
        generation: Any = SimpleNamespace(number=1, model=SimpleNamespace(id="zero"))
        engine = FakeEngine(catalogue.history, Live(Serving(generation, a_view())))
        engine.swap("zero", "", None, 1)
        yield engine


def watch_of(engine: FakeEngine, **changes: Any) -> ProbeWatch:
    values: dict[str, Any] = {"every_s": 0.0, "pace": Pace(0.9)}
    return ProbeWatch(engine, lambda model: LEARNED[model], **(values | changes))


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.002)


def test_the_probes_are_measured_at_the_start_and_what_was_measured_is_kept(engine: FakeEngine) -> None:
    told: list[Measured] = []
    watch = watch_of(engine)
    watch.on_measured.append(told.append)
    assert watch.last() is None
    with watch:
        until(lambda: told)
    last = watch.last()
    assert last is told[0]
    assert last is not None
    assert (last.measurement.cause, last.model, last.measurement.generation) == (Cause.START, "zero", 1)
    (waiting,) = last.measurement.cohorts
    assert (waiting.cohort, waiting.probes) == (None, 60)
    assert 0 < waiting.found_1 <= waiting.found_5 <= waiting.found_10 <= 60
    assert waiting.found_1 == sum(probe.place.place == 1 for probe in last.probes)
    assert {probe.place.id for probe in last.probes} == set(IDS)
    assert last.references == {}
    assert last.seconds > 0
    assert engine.history.measurements() == [last.measurement]


def test_a_swap_is_measured_when_it_is_told_of_and_its_stage_has_its_reference_in_that(engine: FakeEngine) -> None:
    with watch_of(engine) as watch:
        until(watch.last)
        engine.swap("one", "zero", 0, 2)
        assert watch.last() is None  # what is live has not been measured
        watch.wake()
        until(watch.last)
        first = watch.last()
        engine.swap("two", "one", 1, 3)
        watch.wake()
        until(watch.last)
        second = watch.last()
    assert first is not None
    assert second is not None
    assert [each.cause for each in engine.history.measurements()] == [Cause.START, Cause.SWAP, Cause.SWAP]
    assert [each.cohort for each in first.measurement.cohorts] == [0, None]
    assert first.references == {0: first.measurement.cohorts[0]}
    assert [each.cohort for each in second.measurement.cohorts] == [0, 1]
    assert second.references == {0: first.measurement.cohorts[0], 1: second.measurement.cohorts[1]}


def test_it_is_measured_again_and_again_and_a_calm_repeat_measures_the_same(engine: FakeEngine) -> None:
    engine.swap("one", "zero", 0, 2)
    with watch_of(engine, every_s=0.01):
        until(lambda: len(engine.history.measurements()) >= 4)
    found = engine.history.measurements()
    assert [each.cause for each in found[:3]] == [Cause.SWAP, Cause.TIMER, Cause.TIMER]
    assert len({each.cohorts for each in found}) == 1


def test_without_a_timer_there_is_one_measurement_until_something_goes_live(engine: FakeEngine) -> None:
    with watch_of(engine) as watch:
        until(watch.last)
        time.sleep(0.1)
        assert len(engine.history.measurements()) == 1


def test_a_generation_of_the_same_model_leaves_what_was_measured_as_it_is(engine: FakeEngine) -> None:
    with watch_of(engine) as watch:
        until(watch.last)
        engine.go_live("zero", 2)
        assert watch.last() is not None


def test_no_more_probes_of_a_cohort_are_searched_than_asked_for_and_all_are_counted(engine: FakeEngine) -> None:
    engine.swap("two", "zero", 1, 2)
    with watch_of(engine, most_probes=7) as watch:
        until(watch.last)
        last = watch.last()
    assert [(each.cohort, each.probes) for each in engine.history.measurements()[0].cohorts] == [(0, 7), (1, 7)]
    assert last is not None
    assert last.in_all == {0: 30, 1: 30}


def test_an_empty_gallery_is_measured_too_and_leaves_no_row(engine: FakeEngine) -> None:
    engine.live.current = Serving(engine.live.current.generation, view_of(np.empty((0, 8), np.float32), [], []))
    with watch_of(engine) as watch:
        until(watch.last)
    assert engine.history.measurements() == []


def failing(function: Callable[..., Any], *errors: BaseException) -> Callable[..., Any]:
    """The function, which raises these errors before it works."""
    left = list(errors)

    def fails(*arguments: Any) -> Any:
        if left:
            raise left.pop(0)
        return function(*arguments)

    return fails


def test_a_failure_is_logged_and_the_measurement_made_again(
    engine: FakeEngine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "_FIRST_PAUSE_S", 0.01)
    engine.swap("one", "zero", 0, 2)
    errors = StorageFull("the disk is full"), RuntimeError("nobody foresaw this")
    monkeypatch.setattr("server.watching.probes.places", failing(places, *errors))
    with caplog.at_level(logging.WARNING), watch_of(engine) as watch:
        until(watch.last)
    assert [record.getMessage().rsplit(": ", 1)[1] for record in caplog.records] == [
        "the disk is full",
        "nobody foresaw this",
    ]
    assert [each.cause for each in engine.history.measurements()] == [Cause.SWAP]


def now(watch: ProbeWatch) -> Measured:
    last = watch.last()
    assert last is not None
    return last


def full() -> list[BaseException]:
    """What a disk that stays full raises, one after another."""
    return [StorageFull("the disk is full") for _ in range(10_000)]


def test_what_cannot_be_written_is_shown_and_is_written_once_as_it_is_when_it_can_be(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "_FIRST_PAUSE_S", 0.01)
    engine.swap("one", "zero", 0, 2)
    engine.errors = full()
    with watch_of(engine) as watch:
        until(watch.last)
        shown = now(watch)
        assert shown.references == {}
        until(lambda: len(engine.errors) < 9_998)
        assert engine.history.measurements() == []
        engine.errors.clear()
        until(lambda: now(watch).references)
        kept = now(watch)
        time.sleep(0.05)
    assert kept.probes is shown.probes  # of the same measurement
    assert engine.history.measurements() == [shown.measurement]
    assert shown.measurement.cause is Cause.SWAP
    assert kept.references == {0: shown.measurement.cohorts[0]}


def test_while_nothing_can_be_written_it_is_measured_on_and_the_last_measurement_takes_the_place_of_those_before(
    engine: FakeEngine,
) -> None:
    engine.swap("one", "zero", 0, 2)
    told: list[Measured] = []

    def disk_fills_up(measured: Measured) -> None:
        told.append(measured)
        engine.errors = full() if len(told) < 4 else []

    watch = watch_of(engine, every_s=0.01)
    watch.on_measured.append(disk_fills_up)
    with watch:
        until(lambda: len(told) >= 5)
    ats = [each.measurement.at for each in told]
    assert ats == sorted(set(ats))
    assert [each.at for each in engine.history.measurements()] == [ats[0], *ats[4:]]
    assert [each.references for each in told] == [{0: told[0].measurement.cohorts[0]}] * len(told)


def test_a_measurement_of_which_nobody_knows_whether_it_was_written_is_not_written_twice(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "_FIRST_PAUSE_S", 0.01)
    engine.swap("one", "zero", 0, 2)

    def written_and_lost(measured: Measurement) -> None:
        engine.history.append(measured)
        raise NotServing("the database cannot be reached")

    monkeypatch.setattr(engine, "record", written_and_lost)
    with watch_of(engine) as watch:
        until(lambda: watch.last() and now(watch).references)
        last = now(watch)
    assert engine.history.measurements() == [last.measurement]


def test_references_that_cannot_be_read_have_nothing_measured_or_written_again(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(History, "references", failing(History.references, StorageFull("busy"), StorageFull("busy")))
    engine.swap("one", "zero", 0, 2)
    with watch_of(engine) as watch:
        until(watch.last)
        shown = now(watch)
        until(lambda: now(watch).references)
        last = now(watch)
    assert last.probes is shown.probes
    assert engine.history.measurements() == [last.measurement]


def test_who_fails_when_told_keeps_no_other_from_being_told_and_has_nothing_measured_again(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(probes, "_FIRST_PAUSE_S", 0.01)
    told: list[Measured] = []
    watch = watch_of(engine)
    watch.on_measured += [failing(told.append, RuntimeError("nobody foresaw this")), told.append]
    with watch:
        until(lambda: told)
        time.sleep(0.05)
    assert "nobody foresaw this" in caplog.text
    assert told == [watch.last()]
    assert engine.history.measurements() == [told[0].measurement]


def test_a_swap_whose_row_was_lost_is_in_the_history_when_its_model_is_measured_which_is_for_that_swap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine_in(tmp_path) as engine:
        for number, id in enumerate(IDS[:8]):
            shown = photo(number)
            pictured = Photo(shown, hashlib.sha256(shown).hexdigest(), 40, 40, "PNG")
            engine.submit(Put(id, CATEGORIES[number % 2], {}, pictured)).result(WAIT_S)
        zero = engine.live.current.generation.model.id
        one = publish_candidate(engine.data, engine.catalogue, 1, tuple(CATEGORIES[:2]))
        with monkeypatch.context() as lossy:
            lossy.setattr(History, "append_swap", failing(History.append_swap, StorageFull("the disk is full")))
            engine.promote(one.number, limits=RecallLimits(most_drop=1.0, floor=0.0))
        assert [each.model for each in engine.history.swaps()] == [zero]
        with ProbeWatch(engine, lambda model: LEARNED["one"], every_s=0.0) as watch:
            until(watch.last)
            last = now(watch)
        assert [each.model for each in engine.history.swaps()] == [zero, one.model]
        assert engine.history.measurements() == [last.measurement]
    assert last.measurement.cause is Cause.SWAP
    assert last.references == {0: last.measurement.cohorts[0]}


class Pauses(Pace):
    """Rests not at all; in each pause, by its number from 1 on, what it is told to happen happens."""

    def __init__(self, happens: Callable[[int], None]) -> None:
        super().__init__()
        self._happens = happens
        self._count = 0

    def rest(self) -> None:
        self._count += 1
        self._happens(self._count)


def test_nothing_from_before_a_merge_is_kept_after_the_pause_in_which_it_came(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.probe_recall._ROWS", 8)
    merged: list[weakref.ref[Segment]] = []
    kept: list[int] = []

    def happens(pause: int) -> None:
        kept.append(sum(segment() is not None for segment in merged))
        if pause in (3, 10):  # of 8 in which probes are looked for; of 4 in which they are searched
            merged.append(engine.merge())

    with watch_of(engine, pace=Pauses(happens)) as watch:
        until(watch.last)
    assert kept == [0] * (8 + 4)
    assert len(merged) == 2
    last = now(watch)
    assert (last.measurement.generation, len(last.probes)) == (3, 60)


def test_a_failure_keeps_nothing_from_before_a_merge(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "_FIRST_PAUSE_S", 2 * WAIT_S)
    monkeypatch.setattr(probes.log, "propagate", False)  # pytest keeps what is logged, with the error
    failed = threading.Event()

    def happens(pause: int) -> None:
        failed.set()
        raise RuntimeError("nobody foresaw this")

    with watch_of(engine, pace=Pauses(happens)):
        assert failed.wait(WAIT_S)
        old = engine.merge()
        until(lambda: old() is None)


def test_a_probe_that_is_deleted_meanwhile_is_not_counted(engine: FakeEngine) -> None:
    last_ones = sorted(IDS, key=rank)[-10:]

    def happens(pause: int) -> None:
        if pause == 2:  # after the first few are searched
            engine.merge(a_view(without=last_ones))

    with watch_of(engine, pace=Pauses(happens)) as watch:
        until(watch.last)
    last = now(watch)
    assert [(each.cohort, each.probes) for each in last.measurement.cohorts] == [(None, 50)]
    assert {each.place.id for each in last.probes} == set(IDS).difference(last_ones)


def test_a_cohort_whose_probes_are_all_deleted_meanwhile_is_not_there(engine: FakeEngine) -> None:
    engine.swap("two", "zero", 1, 2)
    second = [id for id, category in zip(IDS, CATEGORIES, strict=True) if LEARNED["two"][category] == 1]

    def happens(pause: int) -> None:
        if pause == 2:
            engine.merge(a_view(without=second))

    with watch_of(engine, pace=Pauses(happens)) as watch:
        until(watch.last)
    assert [(each.cohort, each.probes) for each in engine.history.measurements()[0].cohorts] == [(0, 30)]


def test_a_model_that_goes_live_meanwhile_is_measured_in_place_of_the_one_before(engine: FakeEngine) -> None:
    class Overtaking(Pace):
        def rest(self) -> None:
            if engine.live.current.generation.model.id == "zero":
                engine.swap("one", "zero", 0, 2)

    with watch_of(engine, pace=Overtaking()) as watch:
        until(watch.last)
    assert [(each.model, each.cause) for each in engine.history.measurements()] == [("one", Cause.SWAP)]


def test_the_end_does_not_wait_for_a_measurement_that_is_under_way(engine: FakeEngine) -> None:
    resting = threading.Event()

    class Slow(Pace):
        def rest(self) -> None:
            resting.set()
            super().rest()

    began = time.monotonic()
    with watch_of(engine, pace=Slow(1e-9)) as watch:
        assert resting.wait(WAIT_S)
    assert time.monotonic() - began < WAIT_S
    assert watch.last() is None
    assert engine.history.measurements() == []


def test_a_measurement_for_a_swap_that_a_kill_took_before_its_row_is_made_for_that_swap_at_the_next_start(
    engine: FakeEngine,
) -> None:
    engine.swap("one", "zero", 0, 2)
    engine.errors = [StorageFull("as if it had ended here")]
    with watch_of(engine):
        until(lambda: not engine.errors)
    assert engine.history.measurements() == []
    with watch_of(engine) as watch:
        until(watch.last)
    last = watch.last()
    assert last is not None
    assert last.measurement.cause is Cause.SWAP
    assert last.references == {0: last.measurement.cohorts[0]}


def test_a_measurement_is_never_before_the_swap_that_it_is_for_though_the_clock_was_put_back(
    engine: FakeEngine,
) -> None:
    engine.swap("one", "zero", 0, 2, at=5000.0)
    with watch_of(engine, every_s=0.01, clock=lambda: 4000.0):
        until(lambda: not engine.history.awaits_measurement("one"))
    assert engine.history.measurements()[0].at == 5000.0


def test_measurements_stay_apart_and_in_their_order_though_the_clock_was_put_back(
    engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.swap("one", "zero", 0, 2, at=5000.0)
    times = iter([6000.0])
    told: list[Measured] = []
    watch = watch_of(engine, every_s=0.01, clock=lambda: next(times, 4000.0))
    watch.on_measured.append(told.append)
    with watch:
        until(lambda: len(told) >= 3)
    found = engine.history.measurements()
    assert len(found) == len(told)
    assert found == [each.measurement for each in told]
    assert [each.cause for each in found[:3]] == [Cause.SWAP, Cause.TIMER, Cause.TIMER]
    assert all(each.cohorts == found[0].cohorts for each in found)
    assert found[0].at == 6000.0
    assert 6000.0 < found[1].at < found[2].at < 6000.001
    assert [each.taken_at for each in told[:3]] == [6000.0, 4000.0, 4000.0]
    assert caplog.text.count("2000 s behind the history of recall") == 1


def test_a_cohorts_spoiled_vectors_show_as_drift_beyond_its_error_and_no_other_cohorts_do(engine: FakeEngine) -> None:
    engine.swap("two", "zero", 1, 2)
    with watch_of(engine) as watch:
        until(watch.last)
        calm = watch.last()
    assert calm is not None
    references = {each.cohort: each for each in calm.measurement.cohorts if each.cohort is not None}
    for each in calm.measurement.cohorts:
        found = drift([each], references, calm.in_all)
        assert found is not None
        assert found.change == 0.0

    serving = engine.live.current
    vectors, _ = serving.view.live_vectors()
    first = [number for number, category in enumerate(CATEGORIES) if LEARNED["two"][category] == 0]
    vectors[first] = clustered(len(first), 8, 1000, seed=9, spread=3.0)
    engine.live.current = Serving(serving.generation, view_of(vectors, IDS, CATEGORIES))
    with watch_of(engine) as watch:
        until(watch.last)
        spoiled = watch.last()
    assert spoiled is not None
    fell, kept = (drift([each], references, spoiled.in_all) for each in spoiled.measurement.cohorts)
    assert fell is not None
    assert kept is not None
    assert fell.change + 1.645 * fell.error < -0.02
    assert kept.change + 1.645 * kept.error > -0.02


def test_what_is_counted_of_places() -> None:
    def at(place: int) -> Any:
        return SimpleNamespace(place=place)

    found = probes.counted(3, [at(place) for place in (1, 1, 2, 5, 6, 10, 0)])
    assert found == CohortCounts(3, 7, 2, 4, 6)
