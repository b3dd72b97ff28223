"""The watch of live queries as a whole: each thing that goes wrong raises its own signal, and calm traffic none."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from indexer.datadir import DataDir
from indexer.generation import Live, Serving
from indexer.index import Filter, SearchParams
from server.watching import queries, reference
from server.watching.limits import WatchLimits
from server.watching.queries import QueryWatch
from server.watching.query_metrics import floor_of
from server.watching.tap import Sample
from tests.indexer.vectors import clustered
from tests.server.running import sample
from tests.server.watching.samples import approximate_of, sample_of, serving_of, serving_over

MODEL, OTHER = "a" * 64, "b" * 64
DRAWN = clustered(800, 16, 12, seed=0)
GALLERY, CALM = DRAWN[:400], DRAWN[400:]
STRANGE = clustered(100, 16, 12, seed=5)


class Watched:
    """A watch whose thread does not run: what it is given it works off at once."""

    def __init__(self, folder: Path, serving: Serving, *, share: float = 1.0) -> None:
        data = DataDir(folder)
        data.create()
        for model in (MODEL, OTHER):
            data.model(model).mkdir(exist_ok=True)
        self.live = Live(serving)
        self.registry = CollectorRegistry()
        limits = WatchLimits(share, reference=100, reference_s=0.0, window=50)
        self.watch = QueryWatch(data, self.live, self.registry, limits, seed=0)
        self.watch._pace.rest = lambda: None  # type: ignore[method-assign]  # nobody else wants the processor
        self.watch.follow()

    def see(self, vectors: NDArray[np.float32], params: SearchParams | None = None, *, by_item: bool = False) -> None:
        self.watch.follow()
        for vector in vectors:
            self.put(sample_of(self.live.current, vector, params, by_item=by_item))
            self.watch.work(0.0)

    def put(self, one: Sample) -> None:
        self.watch.tap._waiting.put_nowait(one)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"everlook_{name}", labels)

    def windows(self, test: str) -> tuple[float | None, float | None]:
        """Windows that are the same, and that have drifted."""
        same, drifted = (
            self.value("query_drift_windows_total", test=test, result=result) for result in ("same", "drifted")
        )
        return same, drifted


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path, serving_of(GALLERY, model=MODEL))


def best_scores(vectors: NDArray[np.float32]) -> list[float]:
    """Of each of these vectors, which are of the gallery, the best of the others."""
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -1)
    return [float(best) for best in scores.max(axis=1)]


def test_calm_traffic_raises_no_signal(watched: Watched) -> None:
    watched.watch.know_probes(MODEL, best_scores(GALLERY))
    watched.see(CALM[:400])
    assert watched.windows("mmd") == watched.windows("score") == (6, 0)
    assert watched.value("index_recall_ratio", generation="1") == 1
    familiar = watched.value("query_familiar_total") or 0
    assert familiar / 400 > 0.9
    assert watched.value("query_unfamiliar_total") == 400 - familiar


def test_queries_of_other_things_raise_drift_and_are_unfamiliar(watched: Watched) -> None:
    watched.watch.know_probes(MODEL, best_scores(GALLERY))
    watched.see(CALM[:100])
    before = watched.value("query_unfamiliar_total") or 0
    watched.see(STRANGE)
    assert watched.windows("mmd") == watched.windows("score") == (0, 2)
    assert watched.value("query_drift_p_value", test="mmd") == 0.001
    assert (watched.value("query_drift_distance", test="score") or 0) > 0.5
    assert (watched.value("query_unfamiliar_total") or 0) - before > 75
    assert watched.value("index_recall_ratio", generation="1") == 1


def test_best_scores_are_those_of_exact_search_whatever_least_score_was_asked_for(watched: Watched) -> None:
    watched.see(CALM[:30], SearchParams(k=3, min_score=1.0))
    best = (CALM[:30] @ GALLERY.T).max(axis=1)
    assert watched.value("query_top_score_count") == 30
    assert watched.value("query_top_score_sum") == pytest.approx(float(best.sum()), abs=1e-4)


@pytest.mark.parametrize(
    ("params", "by_item"),
    [(SearchParams(filter=Filter(categories=frozenset({"c1"}))), False), (SearchParams(exclude_id="i1"), True)],
    ids=["filtered", "by item"],
)
def test_what_a_filter_or_an_item_finds_counts_for_the_index_alone(
    watched: Watched, params: SearchParams, by_item: bool
) -> None:
    watched.see(CALM[:5], params, by_item=by_item)
    assert watched.value("index_recall_queries", generation="1") == 5
    assert watched.value("query_top_score_count") == 0
    assert watched.value("query_reference_queries") == 0


def test_an_exact_query_counts_for_drift_alone(watched: Watched) -> None:
    watched.see(CALM[:5], SearchParams(exact=True))
    assert watched.value("index_recall_queries", generation="1") == 0
    assert watched.value("query_reference_queries") == 5


@pytest.mark.parametrize("effort", [True, False], ids=["enough effort", "too little"])
def test_an_index_with_too_little_search_effort_shows_however_many_searches_beside_it_are_exact(
    tmp_path: Path, effort: bool
) -> None:
    """Four of five searches are: by a filter that few items match, or because they ask for it. Counted, they would lift
    an index that finds three quarters to where no alert is raised."""
    vectors = clustered(6200, 32, 400)
    watched = Watched(tmp_path, serving_over(approximate_of(vectors[:6000], effort=effort), model=MODEL))
    watched.see(vectors[6000:6100], SearchParams(filter=Filter(categories=frozenset({"c1"}))))
    watched.see(vectors[6100:6160], SearchParams(exact=True))
    assert watched.value("index_recall_ratio", generation="1") is None
    watched.see(vectors[6160:])
    assert watched.value("query_samples_total", result="taken") == 200
    assert watched.value("index_recall_queries", generation="1") == 40
    shares = watched.value("index_recall_query_ratio_sum", generation="1") or 0
    assert watched.value("index_recall_query_ratio_count", generation="1") == 40
    assert watched.value("index_recall_ratio", generation="1") == pytest.approx(shares / 40)
    assert shares / 40 >= 0.98 if effort else shares / 40 < 0.9


def test_an_empty_gallery_has_no_best_score(tmp_path: Path) -> None:
    watched = Watched(tmp_path, serving_of(GALLERY[:0], model=MODEL))
    watched.see(CALM[:3])
    assert watched.value("query_samples_total", result="taken") == 3
    assert watched.value("query_top_score_count") == 0


def test_nothing_is_familiar_or_not_until_the_probes_of_this_model_are_known(watched: Watched) -> None:
    watched.see(CALM[:2])
    assert watched.value("probe_top_score_floor") is None
    watched.watch.know_probes(OTHER, best_scores(GALLERY))
    watched.see(CALM[2:4])
    assert watched.value("query_familiar_total") == watched.value("query_unfamiliar_total") == 0
    watched.watch.know_probes(MODEL, best_scores(GALLERY))
    watched.see(CALM[4:6])
    assert (watched.value("query_familiar_total") or 0) + (watched.value("query_unfamiliar_total") or 0) == 2


def test_the_floor_is_reached_by_all_but_a_twentieth_and_needs_twenty_probes() -> None:
    scores = [n / 100 for n in range(101)]
    floor = floor_of(MODEL, scores)
    assert floor is not None
    assert floor.score == pytest.approx(0.05)
    assert sum(score < floor.score for score in scores) == 5
    assert floor_of(MODEL, scores[:19]) is None
    assert floor_of(MODEL, [float("nan")] * 50) is None


# ---------------------------------------------------------------------------------------------------- swaps


def test_only_the_live_generations_series_are_there(watched: Watched) -> None:
    watched.see(CALM[:5])
    watched.live.current = serving_of(GALLERY, number=2, model=MODEL)
    watched.see(CALM[5:7])
    for name, value in [("query_ratio_sum", 2), ("query_ratio_count", 2), ("ratio", 1), ("queries", 2)]:
        assert watched.value(f"index_recall_{name}", generation="2") == value
        assert watched.value(f"index_recall_{name}", generation="1") is None


def test_a_merge_goes_on_with_the_windows_and_another_model_has_its_own(watched: Watched) -> None:
    watched.see(CALM[:125])
    watched.live.current = serving_of(GALLERY, number=2, model=MODEL)
    watched.see(CALM[125:150])
    assert watched.windows("mmd") == (1, 0)
    watched.live.current = serving_of(GALLERY, number=3, model=OTHER)
    watched.see(CALM[150:153])
    assert watched.value("query_reference_queries") == 3
    assert watched.value("query_drift_p_value", test="mmd") is None
    watched.live.current = serving_of(GALLERY, number=2, model=MODEL)
    watched.see(CALM[153:154])
    assert watched.value("query_reference_queries") == 100


def test_what_waits_for_a_generation_that_is_gone_is_dropped_and_its_view_let_go_of(watched: Watched) -> None:
    for vector in CALM[:4]:
        watched.put(sample_of(watched.live.current, vector))
    old = weakref.ref(watched.live.current.view)
    watched.live.current = serving_of(GALLERY, number=2, model=MODEL)
    watched.watch.work(0.0)
    gc.collect()
    assert old() is None
    assert watched.value("query_samples_total", result="dropped") == 4
    assert watched.value("query_samples_total", result="taken") == 0


def test_a_late_answer_of_a_generation_that_is_gone_is_dropped(watched: Watched) -> None:
    late = sample_of(watched.live.current, CALM[0])
    watched.live.current = serving_of(GALLERY, number=2, model=MODEL)
    watched.watch.follow()
    watched.put(late)
    watched.watch.work(0.0)
    assert watched.value("query_samples_total", result="dropped") == 1
    assert watched.value("index_recall_query_ratio_count", generation="2") == 0


class Turning:
    """What is live: goes to the next each time that it has been read."""

    def __init__(self, *servings: Serving) -> None:
        self._left = list(servings)

    @property
    def current(self) -> Serving:
        return self._left.pop(0) if len(self._left) > 1 else self._left[0]


def test_a_swap_at_any_moment_mixes_no_two_models(watched: Watched) -> None:
    """The other model's vectors have another length: mixed, they could not even be saved."""
    old, new = watched.live.current, serving_of(clustered(40, 8, 6), number=2, model=OTHER)
    watched.see(CALM[:3])
    watched.put(sample_of(old, CALM[3]))
    live: Any = Turning(old, new)  # the swap comes right after the watch has looked
    watched.watch._live = live
    watched.watch.work(0.0)
    assert watched.value("query_samples_total", result="taken") == 4
    watched.watch.follow()
    watched.put(sample_of(new, clustered(1, 8, 6)[0]))
    watched.watch.work(0.0)
    assert watched.value("query_reference_queries") == 1
    windows = watched.watch._windows
    windows.save()
    assert len(reference.load(windows._data, MODEL).queries) == 4
    assert len(reference.load(windows._data, OTHER).queries) == 1


def test_no_view_is_kept_while_the_windows_are_compared(watched: Watched) -> None:
    watched.see(CALM[:149])
    kept: list[object] = []
    serving = serving_of(GALLERY, model=MODEL)
    view = weakref.ref(serving.view)
    watched.put(sample_of(serving, CALM[149]))
    del serving
    watched.watch._pace.rest = lambda: kept.append(view())  # type: ignore[method-assign]
    watched.watch.work(0.0)
    assert watched.windows("mmd") == (1, 0)
    assert kept
    assert set(kept) == {None}


def test_what_waits_when_a_generation_goes_during_a_comparison_is_let_go_of_in_its_first_rest(watched: Watched) -> None:
    watched.see(CALM[:149])
    view = weakref.ref(watched.live.current.view)
    for vector in CALM[149:155]:
        watched.put(sample_of(watched.live.current, vector))
    kept: list[bool] = []

    def rest() -> None:
        kept.append(view() is not None)
        if len(kept) == 3:  # within the tests
            watched.live.current = serving_of(GALLERY, number=2, model=OTHER)

    watched.watch._pace.rest = rest  # type: ignore[method-assign]
    watched.watch.work(0.0)
    assert watched.windows("mmd") == (1, 0)
    assert kept[:3] == [True] * 3
    assert len(kept) > 10
    assert not any(kept[3:])
    assert watched.value("query_samples_total", result="dropped") == 5
    watched.watch.follow()
    assert watched.value("query_drift_p_value", test="mmd") is None


def test_a_repetition_of_many_parts_ends_when_its_generation_goes(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.index.view._SCANNED_AT_ONCE", 100 * 16)  # four parts of the gallery
    watched.see(CALM[:1])
    rests: list[int] = []

    def rest() -> None:
        rests.append(1)
        if len(rests) == 2:
            watched.live.current = serving_of(GALLERY, number=2, model=MODEL)

    watched.watch._pace.rest = rest  # type: ignore[method-assign]
    view = weakref.ref(watched.live.current.view)
    watched.put(sample_of(watched.live.current, CALM[1]))
    watched.watch.work(0.0)
    assert len(rests) == 2
    assert watched.value("query_samples_total", result="taken") == 1
    assert watched.value("query_samples_total", result="dropped") == 1
    assert view() is None


def test_the_floor_of_a_model_that_does_not_serve_any_more_is_not_shown(watched: Watched) -> None:
    watched.watch.know_probes(MODEL, best_scores(GALLERY))
    assert watched.value("probe_top_score_floor") is not None
    watched.live.current = serving_of(GALLERY, number=2, model=OTHER)
    assert watched.value("probe_top_score_floor") is None
    watched.watch.know_probes(OTHER, best_scores(GALLERY))
    assert watched.value("probe_top_score_floor") is not None


def test_a_model_whose_windows_cannot_be_followed_is_tried_again_before_its_queries_are_taken(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.see(CALM[:3])

    def broken(*_: object) -> None:
        raise MemoryError

    watched.live.current = serving_of(GALLERY, number=2, model=OTHER)
    with monkeypatch.context() as failing:
        failing.setattr(reference, "load", broken)
        for _ in range(2):
            with pytest.raises(MemoryError):
                watched.see(CALM[3:4])
    watched.see(CALM[3:5])
    assert watched.value("query_reference_queries") == 2


# ---------------------------------------------------------------------------------------------------- the thread


def wait_for(condition: Any) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("it did not come about")


def watch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "query-watch"]


def test_the_thread_works_off_what_is_taken_and_ends_with_the_block(watched: Watched) -> None:
    with watched.watch:
        for vector in CALM[:10]:
            watched.put(sample_of(watched.live.current, vector))
        wait_for(lambda: sample(watched.registry, "everlook_query_samples_total", result="taken") == 10)
    assert watch_threads() == []
    assert len(list(DataDir(watched.watch._windows._data.root).watching.iterdir())) == 1  # what it had gathered


def test_a_query_that_cannot_be_watched_does_not_end_the_watch(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(queries, "_PAUSE_S", 0.0)
    with caplog.at_level(logging.ERROR), watched.watch:
        unlike_any: Any = None
        watched.put(Sample(watched.live.current, unlike_any, SearchParams(), unlike_any, False))
        watched.put(sample_of(watched.live.current, CALM[1]))
        wait_for(lambda: sample(watched.registry, "everlook_query_top_score_count") == 1)
    assert "could not be watched" in caplog.text


def test_a_share_of_nothing_starts_no_thread(tmp_path: Path) -> None:
    watched = Watched(tmp_path, serving_of(GALLERY, model=MODEL), share=0.0)
    with watched.watch:
        assert watch_threads() == []


def test_a_stop_does_not_wait_for_a_pause(tmp_path: Path) -> None:
    watched = Watched(tmp_path, serving_of(GALLERY, model=MODEL))
    del watched.watch._pace.rest  # the real one
    watched.watch._pace._share = 1e-9
    with watched.watch:
        watched.put(sample_of(watched.live.current, CALM[0]))
        wait_for(lambda: sample(watched.registry, "everlook_query_samples_total", result="taken") == 1)
        began = time.monotonic()
    assert time.monotonic() - began < 5
