"""The two tests of drift: against literal loops, worked out by hand, and as often wrong as they say."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from server.watching import drift
from server.watching.drift import (
    Comparison,
    Kernel,
    compare_embeddings,
    compare_scores,
    gaussian,
    largest_falls,
    median_distance,
    mmd2,
    random_splits,
    squared_distances,
)

Points = NDArray[np.float64]


def k(a: Points, b: Points, width: float) -> float:
    return math.exp(-sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / (2 * width**2))


def mmd2_by_loops(x: Points, y: Points, width: float) -> float:
    """Equation (3), one term at a time."""
    m, n = len(x), len(y)
    within_x = sum(k(x[i], x[j], width) for i in range(m) for j in range(m) if i != j)
    within_y = sum(k(y[i], y[j], width) for i in range(n) for j in range(n) if i != j)
    across = sum(k(x[i], y[j], width) for i in range(m) for j in range(n))
    return within_x / (m * (m - 1)) + within_y / (n * (n - 1)) - 2 * across / (m * n)


def normal(seed: int, count: int, dimension: int = 3, shift: float = 0.0) -> Points:
    return np.random.default_rng(seed).standard_normal((count, dimension)) + shift


def kernel(points: Points, width: float) -> Kernel:
    return gaussian(points, width)


def given(m: int, n: int) -> NDArray[np.bool_]:
    return (np.arange(m + n) < m)[:, None]


@pytest.mark.parametrize(("m", "n"), [(2, 2), (5, 3), (4, 9)])
def test_mmd_is_the_equations_sum(m: int, n: int) -> None:
    x, y = normal(1, m), normal(2, n, shift=0.5)
    (found,) = mmd2(kernel(np.concatenate([x, y]), 1.7), given(m, n))
    assert found == pytest.approx(mmd2_by_loops(x, y, 1.7), abs=1e-12)


def test_mmd_of_every_split_is_that_of_its_two_samples() -> None:
    pooled = normal(3, 9)
    splits = random_splits(np.random.default_rng(4), 4, 5, 20)
    assert splits.shape == (9, 20)
    assert (np.count_nonzero(splits, axis=0) == 4).all()
    wanted = [mmd2_by_loops(pooled[side], pooled[~side], 0.8) for side in splits.T]
    assert mmd2(kernel(pooled, 0.8), splits) == pytest.approx(wanted, abs=1e-12)


def test_mmd_of_two_pairs_of_twins_is_worked_out_by_hand() -> None:
    # Each sample is one point twice, the two points lie 2 apart: 1 + 1 - 2 exp(-4 / 2).
    points = np.array([[0.0], [0.0], [2.0], [2.0]])
    assert mmd2(kernel(points, 1.0), given(2, 2)) == pytest.approx([2 - 2 * math.exp(-2)])


def test_mmd_is_about_zero_on_the_average_where_nothing_differs() -> None:
    """Unbiased: with a point compared with itself it would be 1/m + 1/n too much, 0.13 here."""
    found = [
        mmd2(kernel(np.concatenate([normal(s, 20), normal(1000 + s, 12)]), 2.0), given(20, 12))[0] for s in range(200)
    ]
    assert abs(np.mean(found)) < 0.01


@pytest.mark.parametrize("at_once", [1, 30, 1 << 24], ids=["one", "three by three", "whole"])
@pytest.mark.parametrize("count", [2, 7, 8])
def test_distances_and_their_median_are_those_of_loops_in_however_many_parts(
    count: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift, "_AT_ONCE", at_once)
    points = normal(5, count)
    squares = [math.dist(a, b) ** 2 for a, b in itertools.combinations(points.tolist(), 2)]
    assert median_distance(points) == pytest.approx(math.sqrt(np.median(squares)))
    assert squared_distances(points, points[:2])[-1, 0] == pytest.approx(math.dist(points[-1], points[0]) ** 2)


def test_the_median_leaves_twins_out_and_is_one_where_all_are_twins() -> None:
    assert median_distance(np.array([[0.0], [0.0], [0.0], [0.0], [3.0]])) == pytest.approx(3.0)
    assert median_distance(np.ones((4, 2))) == 1.0


@pytest.mark.parametrize("shift", [0.0, 1.0], ids=["same", "shifted"])
def test_the_p_value_is_the_share_of_splits_that_are_no_closer(shift: float) -> None:
    x, y = normal(6, 6), normal(7, 5, shift=shift)
    found = compare_embeddings(x, y, 1.3, np.random.default_rng(8), permutations=50)
    pooled = np.concatenate([x, y])
    distance = mmd2_by_loops(x, y, 1.3)
    no_closer = 1
    for side in random_splits(np.random.default_rng(8), 6, 5, 50).T:
        no_closer += mmd2_by_loops(pooled[side], pooled[~side], 1.3) >= distance
    assert found.distance == pytest.approx(distance, abs=1e-12)
    assert found.p_value == no_closer / 51


def test_points_that_are_all_the_same_have_not_drifted() -> None:
    found = compare_embeddings(np.ones((8, 4)), np.ones((5, 4)), 1.0, np.random.default_rng(0), permutations=99)
    assert found.distance == pytest.approx(0.0, abs=1e-12)
    assert found.p_value == 1.0


def test_samples_far_apart_get_the_least_p_value_there_is() -> None:
    found = compare_embeddings(normal(1, 40), normal(2, 20, shift=2.0), 2.0, np.random.default_rng(0))
    assert found.p_value == 0.001


def test_where_nothing_drifts_p_values_are_spread_evenly() -> None:
    """Of 200 pairs of windows about a tenth are below 0.1 and a half below 0.5, within four standard errors; at most as
    many by the score test, whose statistic has few different values for small windows."""
    mmd, score = [], []
    for seed in range(200):
        x, y = normal(seed, 32), normal(10_000 + seed, 16)
        width = median_distance(x)
        mmd.append(compare_embeddings(x, y, width, np.random.default_rng(seed), permutations=39).p_value)
        scores = compare_scores(x[:, 0], y[:, 0], np.random.default_rng(seed), permutations=39)
        score.append(scores.p_value)
    for level in (0.1, 0.5):
        error = 4 * math.sqrt(level * (1 - level) / 200)
        assert abs(np.mean(np.array(mmd) <= level) - level) < error
        assert np.mean(np.array(score) <= level) - level < error


@pytest.mark.parametrize("at_once", [1, 30, 300, 1 << 24])
def test_the_kernel_is_that_of_loops_in_however_many_parts(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "_AT_ONCE", at_once)
    points = normal(9, 11)
    wanted = np.array([[k(a, b, 1.4) for b in points] for a in points])
    wanted[np.diag_indices(11)] = 0.0  # a point is not compared with itself
    found = kernel(points, 1.4)
    assert found.matrix == pytest.approx(wanted, abs=1e-12)
    assert found.sums == pytest.approx([math.fsum(row) for row in wanted.tolist()], abs=1e-12)


@pytest.mark.parametrize("at_once", [1, 700, 5000])
def test_what_is_worked_out_in_many_parts_is_the_same(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(6, 30), normal(7, 14, shift=0.3)
    whole = compare_embeddings(x, y, median_distance(x), np.random.default_rng(8), permutations=150)
    assert 0.01 < whole.p_value < 0.9
    monkeypatch.setattr(drift, "_AT_ONCE", at_once)
    in_parts = compare_embeddings(x, y, median_distance(x), np.random.default_rng(8), permutations=150)
    assert in_parts.distance == pytest.approx(whole.distance, abs=1e-12)
    assert in_parts.p_value == whole.p_value


def test_no_more_is_multiplied_between_two_chances_to_give_way_than_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty vectors of a length of 1000: three by three of them, ten parts each way of which those above the diagonal
    count; and five of their rows with 64 splits."""
    monkeypatch.setattr(drift, "_AT_ONCE", 5 * 30 * 64)
    calls: list[int] = []
    x, y = normal(1, 20, 1000), normal(2, 10, 1000)
    median_distance(x, lambda: calls.append(1))
    assert len(calls) > 7 * 8 // 2  # and more within the median itself
    calls.clear()
    compare_embeddings(x, y, 45.0, np.random.default_rng(0), permutations=130, between=lambda: calls.append(1))
    assert len(calls) == 10 * 11 // 2 + (6 - 1) + 3 * 6


def test_the_memory_of_the_embeddings_test_is_that_of_one_kernel_and_of_the_width_half_of_it() -> None:
    x, y = normal(1, 800, 8).astype(np.float32), normal(2, 400, 8).astype(np.float32)
    matrix = 1200 * 1200 * 8

    def peak_of(work: Callable[[], object]) -> int:
        tracemalloc.start()
        try:
            work()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak_of(lambda: median_distance(np.concatenate([x, y]))) < 0.8 * matrix
    assert peak_of(lambda: compare_embeddings(x, y, 4.0, np.random.default_rng(0), permutations=99)) < 1.3 * matrix


@pytest.mark.parametrize("compare", ["embeddings", "scores"])
def test_a_caller_may_give_way_between_parts_of_a_test(compare: str) -> None:
    calls: list[int] = []

    def between() -> None:
        calls.append(1)

    x, y, rng = normal(1, 4), normal(2, 4), np.random.default_rng(0)
    if compare == "embeddings":
        compare_embeddings(x, y, 1.0, rng, permutations=130, between=between)
    else:
        compare_scores(x[:, 0], y[:, 0], rng, permutations=130, between=between)
    assert len(calls) == 3 + (compare == "embeddings")  # one for the kernel


# ---------------------------------------------------------------------------------------------------- scores


def fall_by_loops(reference: Points, window: Points) -> float:
    """The largest excess of the window's share up to a score over the reference's, one score at a time."""

    def share(of: Points, most: float) -> float:
        return float(np.mean([score <= most for score in of.tolist()]))

    return max(share(window, score) - share(reference, score) for score in [*reference.tolist(), *window.tolist()])


def drawn_scores(seed: int, count: int) -> Points:
    """Scores of which many are equal."""
    return np.random.default_rng(seed).integers(0, 6, count) / 10


@pytest.mark.parametrize("seed", range(6))
def test_the_score_tests_p_value_is_the_share_of_splits_that_fall_as_far(seed: int) -> None:
    x, y = drawn_scores(seed, 7), drawn_scores(100 + seed, 5) - 0.1 * (seed % 2)
    found = compare_scores(x, y, np.random.default_rng(8), permutations=70)
    pooled = np.sort(np.concatenate([x, y]))
    as_far, rng = 1, np.random.default_rng(8)
    for size in (64, 6):  # as many as are worked out together
        for side in random_splits(rng, 7, 5, size).T:
            as_far += fall_by_loops(pooled[side], pooled[~side]) >= fall_by_loops(x, y) - 1e-12
    assert found.distance == pytest.approx(fall_by_loops(x, y), abs=1e-12)
    assert found.p_value == as_far / 71


def test_the_falls_of_all_splits_of_a_few_scores_are_those_of_loops() -> None:
    scores = np.array([0.1, 0.2, 0.2, 0.2, 0.3, 0.5])
    sides = np.array([side for side in itertools.product([True, False], repeat=6) if sum(side) == 4]).T
    wanted = [fall_by_loops(scores[side], scores[~side]) for side in sides.T]
    assert len(wanted) == 15
    assert largest_falls(scores, sides) / 8 == pytest.approx(wanted)


def rng_of(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_scores_that_fall_drift_and_scores_that_rise_by_as_much_are_the_same() -> None:
    # Below 0.45 lie three of four of the second and one of four of the first.
    high, low = np.array([0.4, 0.5, 0.6, 0.95]), np.array([0.1, 0.2, 0.3, 0.9])
    assert compare_scores(high, low, rng_of()).distance == pytest.approx(0.75)
    assert compare_scores(low, high, rng_of()).distance == 0.0
    assert compare_scores(low, high, rng_of()).p_value == 1.0
    far, above = np.linspace(0.0, 0.4, 20), np.linspace(0.5, 0.9, 30)
    assert compare_scores(above, far, rng_of()) == Comparison(1.0, 0.001)
    assert compare_scores(far, above, rng_of()) == Comparison(0.0, 1.0)


def test_scores_that_are_all_equal_have_not_fallen() -> None:
    """With shares compared within a run of equal scores they would have, for any order of the two samples."""
    assert compare_scores(np.ones(8), np.ones(5), rng_of(), permutations=99) == Comparison(0.0, 1.0)


def test_best_scores_in_a_gallery_of_twice_the_size_have_not_drifted() -> None:
    """More of it is near each query: as scores they differ, and none has fallen."""
    points = normal(3, 2000, 16)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    gallery, asked = points[:1600], points[1600:]
    before, after = (asked[:250] @ gallery[:800].T).max(axis=1), (asked[250:] @ gallery.T).max(axis=1)
    assert compare_scores(after, before, rng_of()).p_value < 0.01
    assert compare_scores(before, after, rng_of()).p_value > 0.9
