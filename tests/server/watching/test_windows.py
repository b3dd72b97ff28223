"""The reference window and the live windows: what fills them, what outlives a restart, a swap and a full disk."""

from __future__ import annotations

import errno
import itertools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from indexer.datadir import DataDir
from server.watching import reference
from server.watching.drift import Comparison
from server.watching.limits import WatchLimits
from server.watching.windows import QueryWindows
from tests.indexer.vectors import clustered

MODEL, OTHER = "a" * 64, "b" * 64
CALM = clustered(600, 8, 6, seed=0)
STRANGE = clustered(100, 8, 6, seed=1)


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    data = DataDir(tmp_path)
    data.create()
    for model in (MODEL, OTHER):
        data.model(model).mkdir()
    return data


def windows_of(
    data: DataDir,
    reference: int = 20,
    live: int = 10,
    *,
    reference_s: float = 0.0,
    clock: Callable[[], float] = lambda: 1000.0,
) -> QueryWindows:
    limits = WatchLimits(reference=reference, reference_s=reference_s, window=live)
    found = QueryWindows(data, limits, np.random.default_rng(0), clock)
    found.follow(MODEL)
    return found


def fed(to: QueryWindows, vectors: NDArray[np.float32], score: float = 0.8) -> list[dict[str, Comparison]]:
    """What the tests said, window by window. Scores are spread around `score`."""
    spread = np.random.default_rng(0).normal(score, 0.05, len(vectors))
    said = [to.add(vector, float(each)) for vector, each in zip(vectors, spread, strict=True)]
    return [dict(each) for each in said if each]


def first_of(to: QueryWindows) -> Sequence[float]:
    return [score for _, score in to._reference.queries]


def test_the_first_queries_make_the_reference_and_each_full_window_after_them_is_tested(data: DataDir) -> None:
    found = windows_of(data)
    assert fed(found, CALM[:20]) == []
    assert found.gathered == 20
    assert fed(found, CALM[20:29]) == []
    assert len(fed(found, CALM[29:30])) == 1
    assert len(fed(found, CALM[30:65])) == 3
    assert found.gathered == 20


def test_calm_traffic_does_not_drift_and_other_queries_do(data: DataDir) -> None:
    found = windows_of(data, reference=100, live=50)
    calm = fed(found, CALM)
    assert len(calm) == 10
    assert min(said["mmd"].p_value for said in calm) > 0.01
    assert min(said["score"].p_value for said in calm) > 0.01
    for said in fed(found, STRANGE, score=0.5):
        assert said["mmd"].p_value == 0.001
        assert said["score"].p_value == 0.001
        assert said["mmd"].distance > max(each["mmd"].distance for each in calm)


def test_scores_that_fall_are_seen_by_the_score_test_alone(data: DataDir) -> None:
    found = windows_of(data, reference=100, live=50)
    fed(found, CALM[:100])
    (said,) = fed(found, CALM[100:150], score=0.7)
    assert said["score"].p_value == 0.001
    assert said["mmd"].p_value > 0.01


def test_scores_that_rise_as_the_gallery_grows_are_no_drift(data: DataDir) -> None:
    found = windows_of(data, reference=100, live=50)
    fed(found, CALM[:100])
    (said,) = fed(found, CALM[100:150], score=0.9)
    assert said["score"].p_value > 0.5


def test_a_restart_neither_loses_the_reference_nor_begins_it_anew(data: DataDir) -> None:
    before = windows_of(data)
    fed(before, CALM[:35])
    after = windows_of(data)
    assert after.gathered == 20
    assert first_of(after) == first_of(before)
    assert len(fed(after, CALM[35:45])) == 1


def test_a_reference_that_was_half_formed_goes_on_after_a_stop(data: DataDir) -> None:
    before = windows_of(data)
    fed(before, CALM[:12])
    before.save()
    after = windows_of(data)
    assert after.gathered == 12
    fed(after, CALM[12:20])
    assert first_of(after)[:12] == first_of(before)
    after.save()
    assert windows_of(data).gathered == 20


def test_a_kill_loses_no_more_of_the_reference_than_the_queries_since_it_was_saved(data: DataDir) -> None:
    fed(windows_of(data, reference=200), CALM[:150])
    assert windows_of(data, reference=200).gathered == 128


def test_a_rollback_finds_its_reference_again_and_the_window_begins_anew(data: DataDir) -> None:
    found = windows_of(data)
    fed(found, CALM[:25])
    first = first_of(found)
    found.follow(OTHER)
    assert found.gathered == 0
    fed(found, STRANGE[:20])
    found.follow(MODEL)
    assert first_of(found) == first
    assert fed(found, CALM[25:34]) == []  # the five of before the swap do not count
    assert len(fed(found, CALM[34:35])) == 1


def test_following_the_same_model_changes_nothing(data: DataDir) -> None:
    found = windows_of(data)
    fed(found, CALM[:25])
    found.follow(MODEL)
    assert len(fed(found, CALM[25:30])) == 1


def test_the_reference_of_a_model_that_is_gone_is_removed_when_another_goes_live(data: DataDir) -> None:
    found = windows_of(data)
    fed(found, CALM[:20])
    data.model(MODEL).rmdir()
    found.follow(OTHER)
    assert not reference.path_of(data, MODEL).exists()


def test_other_settings_use_as_much_of_a_stored_reference_as_they_ask_for(data: DataDir) -> None:
    before = windows_of(data)
    fed(before, CALM[:20])
    before.save()
    assert windows_of(data, reference=16).gathered == 16
    larger = windows_of(data, reference=24)
    assert larger.gathered == 20
    fed(larger, CALM[20:24])
    larger.save()
    assert windows_of(data, reference=24).gathered == 24


def test_a_full_disk_costs_nothing_but_the_saving_which_is_made_up_for_later(
    data: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    found = windows_of(data)
    with monkeypatch.context() as disk:
        disk.setattr(reference, "save", full)
        fed(found, CALM[:25])
    assert windows_of(data).gathered == 0
    assert len(fed(found, CALM[25:30])) == 1
    assert windows_of(data).gathered == 20


def test_on_a_full_disk_a_forming_reference_is_seldom_tried_again_and_the_log_hears_of_the_first_failure_in_a_row(
    data: DataDir, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, tried, space = reference.save, list[int](), [False]

    def save(data: DataDir, model: str, of: reference.Reference) -> None:
        tried.append(of.seen)
        if not space[0]:
            raise OSError(errno.ENOSPC, "no space left")
        real(data, model, of)

    def failures() -> int:
        return sum("could not be saved" in record.message for record in caplog.records)

    monkeypatch.setattr(reference, "save", save)
    found = windows_of(data, reference=1000)
    with caplog.at_level(logging.WARNING):
        fed(found, CALM[:250])
        assert tried == [64, 128, 192]
        assert failures() == 1
        found.save()  # asked for, as when the server ends
        assert tried == [64, 128, 192, 250]
        space[0] = True
        fed(found, CALM[250:320])
        assert tried == [64, 128, 192, 250, 314]
        assert windows_of(data, reference=1000).gathered == 314
        space[0] = False
        fed(found, CALM[320:450])
        assert tried == [64, 128, 192, 250, 314, 378, 442]
        assert failures() == 2


# ---------------------------------------------------------------------------------------------------- over its time


class Clock:
    """Stands where it is put."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_a_reference_is_drawn_until_its_time_is_over_and_it_is_full_whichever_is_later(data: DataDir) -> None:
    clock = Clock()
    busy = windows_of(data, reference_s=100.0, clock=clock)
    fed(busy, CALM[:300])
    clock.now += 99
    assert fed(busy, CALM[300:400]) == []
    assert busy.gathered == 20
    clock.now += 1
    assert len(fed(busy, CALM[400:420])) == 2

    quiet = windows_of(data, reference_s=100.0, clock=clock)
    quiet.follow(OTHER)
    fed(quiet, CALM[:19])
    clock.now += 1000
    assert fed(quiet, CALM[19:20]) == []
    assert quiet.gathered == 20
    assert len(fed(quiet, CALM[20:30])) == 1


def test_queries_of_every_moment_are_as_likely_to_be_in_the_reference(data: DataDir) -> None:
    """Of 600 queries 20 are drawn, 200 times: from each sixth of them a sixth, within four standard errors."""
    drawn = np.zeros(6)
    for seed in range(200):
        found = QueryWindows(data, WatchLimits(reference=20), np.random.default_rng(seed), lambda: 1000.0)
        for at in range(600):
            found.add(CALM[0], float(at))
        drawn += np.bincount([int(score) // 100 for score in first_of(found)], minlength=6)
    assert drawn.sum() == 4000
    assert abs(drawn / 4000 - 1 / 6).max() < 4 * np.sqrt(1 / 6 * 5 / 6 / 4000)


def test_a_restart_goes_on_with_the_time_and_the_chances_of_a_reference(data: DataDir) -> None:
    clock = Clock()
    before = windows_of(data, reference_s=100.0, clock=clock)
    fed(before, CALM[:200])
    before.save()
    clock.now += 60
    after = windows_of(data, reference_s=100.0, clock=clock)
    assert (first_of(after), after._reference.seen) == (first_of(before), 200)
    fed(after, CALM[200:300])
    assert len(set(first_of(after)) - set(first_of(before))) < 15  # about a third of 20, not all of them anew
    clock.now += 40
    assert len(fed(after, CALM[300:310])) == 1


def test_a_clock_that_is_put_back_puts_the_end_off_by_its_time_at_the_most(data: DataDir) -> None:
    clock = Clock(1e9)
    found = windows_of(data, reference_s=100.0, clock=clock)
    fed(found, CALM[:30])
    clock.now = 5000.0
    assert fed(found, CALM[30:50]) == []
    clock.now = 5100.0
    assert len(fed(found, CALM[50:60])) == 1
    clock.now = 3000.0
    assert len(fed(found, CALM[60:70])) == 1  # what has formed stays


def test_a_long_reference_is_saved_seldom(data: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    found = windows_of(data, reference_s=100.0)
    monkeypatch.setattr(reference, "save", lambda data, model, of: saved.append(of.seen))
    for at in range(20_000):
        found.add(CALM[0], float(at))
    assert saved[:4] == [64, 128, 192, 256]
    assert len(saved) < 60
    assert max(later / earlier for earlier, later in itertools.pairwise(saved[8:])) < 1.13


# ---------------------------------------------------------------------------------------------------- what is kept


def test_what_cannot_be_read_mixes_no_two_models(data: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure on the way to another model leaves all of the one before, and is made up for by the next call."""
    found = windows_of(data)
    fed(found, CALM[:25])

    def broken(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as failing:
        failing.setattr(reference, "load", broken)
        with pytest.raises(MemoryError):
            found.follow(OTHER)
    assert (found._model, found.gathered) == (MODEL, 20)
    found.follow(OTHER)
    assert (found._model, found.gathered) == (OTHER, 0)


def test_what_is_kept_does_not_grow(data: DataDir) -> None:
    found = windows_of(data)
    fed(found, CALM)
    assert len(found._reference.queries) == 20
    assert len(found._window) < 10


def test_a_query_is_kept_without_the_batch_that_it_came_in(data: DataDir) -> None:
    found = windows_of(data)
    batch = CALM[:3]
    found.add(batch[1], 0.5)
    (vector, _), *_ = found._reference.queries
    assert vector.base is None
    assert np.array_equal(vector, batch[1])
