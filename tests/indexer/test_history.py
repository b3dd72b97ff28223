"""The history of recall: what is read back, what a reference is, and what is kept of the past."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from indexer.catalogue import Catalogue, Cause, CohortCounts, History, Measurement, SwapRecord
from indexer.catalogue.history import DAY_S, KEEP_DAYS, beyond_the_first_of_each_day, chosen, reference_swaps
from tests.indexer.catalogues import DATABASES, fresh_url


@pytest.fixture(params=DATABASES)
def history(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[History]:
    with Catalogue.open(fresh_url(request.param, tmp_path)) as catalogue:
        yield catalogue.history


def counts(cohort: int | None, found: int, probes: int = 10) -> CohortCounts:
    return CohortCounts(cohort, probes, found, found, found)


def measured(at: float, model: str, cause: Cause = Cause.TIMER, *cohorts: CohortCounts) -> Measurement:
    return Measurement(at, 1, model, cause, cohorts or (counts(0, 5),))


def swap(at: float, model: str, base: str = "", cohort: int | None = None, *, again: bool = False) -> SwapRecord:
    return SwapRecord(at, int(at), model, base, cohort, again)


# ---------------------------------------------------------------------------------------------------- rows


def test_measurements_and_swaps_are_read_back_as_they_were_written_oldest_first(history: History) -> None:
    cohorts = (CohortCounts(0, 500, 300, 400, 450), CohortCounts(12, 7, 1, 2, 3), CohortCounts(None, 3, 0, 1, 3))
    first = Measurement(1_700_000_000.25, 3, "a" * 64, Cause.START, cohorts)
    later = measured(1_700_000_300.5, "b" * 64, Cause.SWAP)
    for each in (first, later):
        history.append(each)
    assert history.measurements() == [first, later]
    assert history.measurements(since=1_700_000_300.5) == [later]
    assert history.measurements(since=1_700_000_300.6) == []
    gone_live = [swap(1.0, "model 0"), swap(2.0, "model 1", "model 0", 0)]
    for record in gone_live:
        history.append_swap(record)
    assert history.swaps() == gone_live
    assert history.last_swap() == gone_live[-1]


def test_an_empty_history_has_nothing(history: History) -> None:
    assert history.measurements() == []
    assert history.swaps() == []
    assert history.last_swap() is None
    assert history.references("a") == {}
    assert not history.awaits_measurement("a")
    assert history.last_generation() == 0
    assert history.thin() == 0


def test_the_last_generation_is_the_highest_that_went_live_or_was_measured(history: History) -> None:
    for number in (7, 3):
        history.append_swap(SwapRecord(1.0, number, f"model {number}", "", None, False))
    assert history.last_generation() == 7
    history.append(Measurement(2.0, 9, "model 3", Cause.TIMER, (counts(0, 5),)))  # after merges
    history.append(Measurement(3.0, 8, "model 3", Cause.TIMER, (counts(0, 5),)))
    assert history.last_generation() == 9


def test_a_model_goes_live_again_when_the_history_has_it_or_the_caller_says_so(history: History) -> None:
    for record in (swap(1, "a"), swap(2, "b", "a", 0), swap(3, "a"), swap(4, "old", again=True), swap(5, "b", "a", 0)):
        history.append_swap(record)
    assert [each.again for each in history.swaps()] == [False, False, True, True, True]


def test_a_swap_awaits_a_measurement_of_its_model_until_there_is_one(history: History) -> None:
    history.append_swap(swap(1, "a"))
    assert not history.awaits_measurement("a")  # a first model went live in place of none
    history.append_swap(swap(2, "b", "a", 0))
    assert not history.awaits_measurement("a")
    assert history.awaits_measurement("b")
    history.append(measured(3, "b", Cause.TIMER))
    assert history.awaits_measurement("b")
    history.append(measured(4, "b", Cause.SWAP))
    assert not history.awaits_measurement("b")
    history.append_swap(swap(5, "a"))
    assert history.awaits_measurement("a")
    history.append_swap(swap(6, "b", "a", 0))
    assert history.awaits_measurement("b")


# ---------------------------------------------------------------------------------------------------- references


def test_the_reference_of_a_cohort_was_measured_right_after_its_stage_first_went_live(history: History) -> None:
    history.append_swap(swap(1, "zero"))
    history.append(measured(2, "zero", Cause.START, counts(None, 1)))
    history.append_swap(swap(10, "one", "zero", 0))
    history.append(measured(11, "one", Cause.TIMER, counts(0, 1)))
    history.append(measured(12, "one", Cause.SWAP, counts(0, 8), counts(None, 2)))
    history.append(measured(13, "one", Cause.TIMER, counts(0, 2)))
    history.append_swap(swap(20, "two", "one", 1))
    history.append(measured(21, "two", Cause.SWAP, counts(0, 7), counts(1, 9)))
    history.append_swap(swap(30, "one", "zero", 0))
    history.append(measured(31, "one", Cause.SWAP, counts(0, 3), counts(None, 1)))
    assert history.references("two") == {0: counts(0, 8), 1: counts(1, 9)}
    assert history.references("one") == {0: counts(0, 8)}
    assert history.references("zero") == {}
    assert history.references("never live") == {}


def test_a_cohort_without_probes_at_its_swap_has_no_reference(history: History) -> None:
    history.append_swap(swap(1, "one", "zero", 0))
    history.append(measured(2, "one", Cause.SWAP, counts(None, 3)))
    assert history.references("one") == {}


def test_the_time_of_the_latest_measurement_is_the_highest(history: History) -> None:
    assert history.last_at() is None
    for at in (10.5, 12.25, 11.0):
        history.append(measured(at, "one", Cause.TIMER, counts(0, 1)))
    assert history.last_at() == 12.25


def test_what_was_measured_right_after_the_latest_swap_is_where_the_live_model_began(history: History) -> None:
    assert history.after_last_swap("one") == {}
    history.append_swap(swap(10, "one", "zero", 0))
    history.append(measured(11, "one", Cause.TIMER, counts(0, 1)))
    assert history.after_last_swap("one") == {}
    history.append(measured(12, "one", Cause.SWAP, counts(0, 8), counts(None, 2)))
    history.append(measured(13, "one", Cause.TIMER, counts(0, 2)))
    assert history.after_last_swap("one") == {0: counts(0, 8)}
    history.append_swap(swap(20, "two", "one", 1))
    assert history.after_last_swap("one") == history.after_last_swap("two") == {}
    history.append(measured(21, "two", Cause.SWAP, counts(0, 7), counts(1, 9)))
    assert history.after_last_swap("two") == {0: counts(0, 7), 1: counts(1, 9)}
    history.append_swap(swap(30, "one", "zero", 0))
    history.append(measured(31, "one", Cause.SWAP, counts(0, 3)))
    assert history.after_last_swap("one") == {0: counts(0, 3)}


def test_each_line_of_models_has_the_reference_of_its_own_stage() -> None:
    """Stage 1 was taught twice: the first time it was rolled back."""
    records = [
        swap(1, "zero"),
        swap(2, "one", "zero", 0),
        swap(3, "two", "one", 1),
        swap(4, "one", "zero", 0, again=True),
        swap(5, "two'", "one", 1),
        swap(6, "three", "two'", 2),
    ]
    found = reference_swaps(records, "three")
    assert {cohort: each.model for cohort, each in found.items()} == {0: "one", 1: "two'", 2: "three"}
    assert {cohort: each.model for cohort, each in reference_swaps(records, "two").items()} == {0: "one", 1: "two"}


def test_the_walk_ends_where_the_history_begins_and_goes_round_no_circle() -> None:
    began_late = [swap(5, "one", "zero", 0, again=True), swap(6, "two", "one", 1)]
    assert set(reference_swaps(began_late, "two")) == {1}
    circle = [swap(1, "a", "b", 0), swap(2, "b", "a", 1)]
    assert set(reference_swaps(circle, "a")) == {0, 1}


# ---------------------------------------------------------------------------------------------------- what is kept


def test_of_the_old_there_is_one_a_day_and_all_that_was_measured_after_swaps(history: History) -> None:
    whole = [day * DAY_S + second for day in range(70, 70 + KEEP_DAYS) for second in (0, 1)]
    for at in whole:
        history.append(measured(at, "a"))
    old = 60 * DAY_S
    for at in (old, old + 1, old + 2):
        history.append(measured(at, "a", Cause.START, counts(0, 5), counts(1, 5)))
    for at in (old + 3, old + 4):
        history.append(measured(at, "a", Cause.SWAP, counts(0, 5), counts(1, 5)))
    assert history.thin() == 2 * 2
    assert [each.at for each in history.measurements()] == [old, old + 3, old + 4, *whole]
    assert len(history.measurements(since=old + 4)[0].cohorts) == 2
    assert history.thin() == 0


def test_it_is_thinned_out_once_a_day_by_what_is_added(history: History) -> None:
    for at in (1.0, 2.0, 3.0, *(day * DAY_S for day in range(1, KEEP_DAYS))):
        history.append(measured(at, "a"))
    assert [each.at for each in history.measurements()][:4] == [1.0, 2.0, 3.0, DAY_S]
    history.append(measured(KEEP_DAYS * DAY_S, "a", Cause.SWAP))  # a day of swaps alone is none of the thirty-one
    assert [each.at for each in history.measurements()][:4] == [1.0, 2.0, 3.0, DAY_S]
    history.append(measured(KEEP_DAYS * DAY_S + 1, "a"))
    assert [each.at for each in history.measurements()][:2] == [1.0, DAY_S]


def test_a_clock_that_was_ahead_lets_its_last_day_grow_only_so_far(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is measured once it is right again goes to the end of that day, for as long as it was ahead."""
    monkeypatch.setattr("indexer.catalogue.history.MOST_OF_NEWEST_DAY", 5)
    monkeypatch.setattr("indexer.catalogue.history._THIN_EVERY", 4)
    before = [100 * DAY_S + second for second in range(8)]
    for at in before:
        history.append(measured(at, "a"))
    kept = [each.at for each in history.measurements()]
    assert kept[-5:] == before[-5:]
    ahead = at = 465 * DAY_S
    history.append(measured(ahead, "a", Cause.SWAP))
    for number in range(40):
        at = math.nextafter(at, math.inf)
        history.append(measured(at, "a", Cause.TIMER, counts(0, number % 10), counts(None, 1)))
        assert len(history.measurements(since=ahead)) <= 1 + 5 + 4
    assert history.measurements(since=ahead)[0].cause is Cause.SWAP  # what was measured after one stays
    assert history.last_at() == at
    history.thin()
    assert [len(each.cohorts) for each in history.measurements(since=ahead)] == [1, 2, 2, 2, 2, 2]
    assert [each.at for each in history.measurements()][: len(kept)] == kept  # of other days nothing goes for it


def test_a_clock_that_is_ahead_costs_nothing_of_the_last_month(history: History) -> None:
    """Ahead by a year at one start of the server, and right again at the next one."""
    month = [day * DAY_S + second for day in range(100, 100 + KEEP_DAYS - 1) for second in (0, 1)]
    for at in month:
        history.append(measured(at, "a"))
    ahead = month[-1] + 365 * DAY_S
    for at in (ahead, ahead + 1e-6):
        history.append(measured(at, "a"))
    assert history.thin() == 0
    assert [each.at for each in history.measurements()] == [*month, ahead, ahead + 1e-6]


def test_a_server_that_was_off_for_months_still_has_the_days_before(history: History) -> None:
    days = [1.0, 2.0, DAY_S, DAY_S + 1]
    for at in (*days, 200 * DAY_S):
        history.append(measured(at, "a"))
    assert history.thin() == 0
    assert [each.at for each in history.measurements()] == [*days, 200 * DAY_S]


def test_swaps_back_and_forward_are_forgotten_and_first_ones_never(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.catalogue.history._MOST_REPEATED_SWAPS", 3)
    history.append_swap(swap(1, "a"))
    history.append_swap(swap(2, "b", "a", 0))
    for at in range(3, 13):
        history.append_swap(swap(at, "ab"[at % 2]))
    assert [each.at for each in history.swaps()] == [1, 2, 10, 11, 12]


@pytest.mark.parametrize(
    ("swaps", "count", "most", "kept"),
    [
        pytest.param([], 0, 5, [], id="none"),
        pytest.param([], 4, 5, [0, 1, 2, 3], id="few"),
        pytest.param([], 10, 4, [0, 1, 5, 9], id="first, last and every fourth"),
        pytest.param([4, 6], 12, 6, [0, 1, 4, 6, 7, 11], id="those after swaps stay"),
        pytest.param([1, 2, 3, 4], 6, 3, [0, 2, 5], id="too many swaps"),
        pytest.param([2], 5, 1, [4], id="one"),
        pytest.param([2], 5, 3, [0, 2, 4], id="only what stays"),
    ],
)
def test_what_is_shown_of_many_measurements(swaps: Sequence[int], count: int, most: int, kept: Sequence[int]) -> None:
    assert chosen([number in swaps for number in range(count)], most) == list(kept)


@pytest.mark.parametrize("most", range(1, 40))
def test_no_more_are_shown_than_asked_for(most: int) -> None:
    for count in (1, 7, 38, 200):
        for swap_every in (1, 3, 50):
            after_swap = [number % swap_every == 0 for number in range(count)]
            found = chosen(after_swap, most)
            assert len(found) == len(set(found)) <= most
            assert found == sorted(found)
            assert found[-1] == count - 1
            if most > 1:
                assert found[0] == 0


def test_the_measurements_that_are_shown_are_whole(history: History) -> None:
    for at in range(1, 21):
        cause = Cause.SWAP if at == 10 else Cause.TIMER
        history.append(measured(float(at), "a", cause, counts(0, at % 7), counts(None, 1)))
    shown = history.measurements(most=5)
    assert len(shown) == 5
    assert {1.0, 10.0, 20.0} <= {each.at for each in shown}
    assert all([cohort.cohort for cohort in each.cohorts] == [0, None] for each in shown)


@pytest.mark.parametrize(
    ("cohorts", "shown"),
    [
        pytest.param(1, 40, id="few cohorts"),
        pytest.param(5, 40, id="just as many as fit"),
        pytest.param(6, 22, id="of too many every second but those that stay"),
        pytest.param(150, 10, id="ten however many cohorts"),
    ],
)
def test_the_more_cohorts_there_are_the_fewer_measurements_are_read_at_a_time(
    history: History, cohorts: int, shown: int
) -> None:
    many = tuple(counts(stage, 5) for stage in range(cohorts))
    for at in range(1, 41):
        cause = Cause.SWAP if at == 17 else Cause.TIMER
        history.append(measured(float(at), "a", cause, *(many if at >= 20 else many[:1])))
    found = history.measurements(most_rows=200)
    assert len(found) == shown
    assert {1.0, 17.0, 40.0} <= {each.at for each in found}
    assert all(len(each.cohorts) == (1 if each.at < 20 else cohorts) for each in found)


def test_days_begin_at_midnight_utc() -> None:
    times = [10 * DAY_S - 1, 10 * DAY_S, 10 * DAY_S + 1, 11 * DAY_S - 1, 11 * DAY_S]
    assert beyond_the_first_of_each_day(times) == [10 * DAY_S + 1, 11 * DAY_S - 1]
