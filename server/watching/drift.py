"""Whether two samples of queries come from the same distribution, without labels. Pure functions.

Embeddings are compared by maximum mean discrepancy (MMD), best scores by the one-sided test of Kolmogorov and Smirnov:
only scores that fall are harm, and those of a gallery that grows rise without end. Both p-values are by permutation.

From A. Gretton, K. Borgwardt, M. Rasch, B. Schölkopf, A. Smola, A Kernel Two-Sample Test, JMLR 13 (2012): x_1..x_m is
`reference`, y_1..y_n `window`, k the Gaussian kernel; the unbiased MMD² is equation (3); its distribution where nothing
has drifted is had by splitting the pooled samples anew (section 5), the kernel's width from the median distance
(section 8).

Departs from the paper: the median is that of the reference alone, so that the distances of all windows have one unit. A
test by permutation is exact where the kernel does not depend on the split; what this dependence costs is measured by
tests/bench/drift.py. The given split counts as one of the permutations, so that a p-value is never 0.

Written here because no library fits: frouros has this test and pins numpy below 2.2, alibi-detect brings a framework of
detectors along. The other test is scipy.stats.ks_2samp's, which is good and takes a second and some 60 MiB of a server
to load, for one formula.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

PERMUTATIONS: Final = 999  # with the given split a thousand: p-values are multiples of 0.001
_BLOCK: Final = 64  # splits, or rows of the kernel, that are worked out together: some milliseconds
_ROUNDING: Final = 1e-12  # of one statistic: splits that are equal but for rounding count as equal

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """What a test says of two samples."""

    distance: float
    """Unbiased MMD², which may be a little below 0; or how far scores have fallen, from 0 (not at all) to 1."""
    p_value: float
    """How often two samples of one distribution lie this far apart, or farther."""


def squared_distances(a: NDArray[np.floating], b: NDArray[np.floating]) -> Floats:
    """Squared Euclidean distances (m, n) between the rows of `a` (m, D) and of `b` (n, D)."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    squares = np.vecdot(a, a)[:, None] + np.vecdot(b, b)[None, :] - 2 * (a @ b.T)
    found: Floats = np.maximum(squares, 0.0)
    return found


def median_distance(points: NDArray[np.floating]) -> float:
    """The median distance between two different ones of `points` (m, D): the kernel's width. 1 when all are the same,
    where any width will do."""
    squares = squared_distances(points, points)[np.triu_indices(len(points), 1)]
    apart = squares[squares > _ROUNDING]
    return float(np.sqrt(np.median(apart))) if len(apart) else 1.0


def gaussian(a: NDArray[np.floating], b: NDArray[np.floating], width: float) -> Floats:
    """The kernel (m, n) between the rows of `a` (m, D) and of `b` (n, D): exp(-|a - b|² / (2 width²))."""
    matrix: Floats = np.exp(squared_distances(a, b) / (-2 * width * width))
    return matrix


def mmd2(kernel: Floats, first: NDArray[np.bool_]) -> Floats:
    """Unbiased MMD² (B,) of B splits of N points, from their `kernel` matrix (N, N).

    `first` (N, B) says which points are of the first sample; the others are of the second. Each has two at least.
    One matrix product gives all: with s a column of `first`, the sum within the first sample is s'Ks, and the others
    follow from the sums of K's rows. A point is not compared with itself.
    """
    between = kernel - np.diag(np.diag(kernel))
    sides = first.astype(np.float64)
    rows = between.sum(axis=1)
    m = np.count_nonzero(first, axis=0)
    n = len(kernel) - m
    within_first = (sides * (between @ sides)).sum(axis=0)
    across = rows @ sides - within_first
    within_second = rows.sum() - within_first - 2 * across
    found: Floats = within_first / (m * (m - 1)) + within_second / (n * (n - 1)) - 2 * across / (m * n)
    return found


def random_splits(rng: np.random.Generator, m: int, n: int, count: int) -> NDArray[np.bool_]:
    """`count` random splits of m + n points into samples of m and n: (m + n, count), as `mmd2` takes them."""
    given = np.arange(m + n) < m
    return rng.permuted(np.tile(given, (count, 1)), axis=1).T


def compare_embeddings(
    reference: NDArray[np.floating],
    window: NDArray[np.floating],
    width: float,
    rng: np.random.Generator,
    *,
    permutations: int = PERMUTATIONS,
    between: Callable[[], None] = lambda: None,
) -> Comparison:
    """MMD² between `reference` (m, D) and `window` (n, D), with the share of splits that are no closer, the given one
    among them. `between` is called every few milliseconds, for a caller that gives way to others."""
    m, n = len(reference), len(window)
    pooled = np.concatenate([reference, window]).astype(np.float64)
    kernel = np.empty((m + n, m + n))
    for start in range(0, m + n, _BLOCK):
        between()
        kernel[start : start + _BLOCK] = gaussian(pooled[start : start + _BLOCK], pooled, width)
    (distance,) = mmd2(kernel, (np.arange(m + n) < m)[:, None])
    as_far = 1
    for start in range(0, permutations, _BLOCK):
        between()
        splits = random_splits(rng, m, n, min(_BLOCK, permutations - start))
        as_far += int(np.count_nonzero(mmd2(kernel, splits) >= distance - _ROUNDING))
    return Comparison(float(distance), as_far / (1 + permutations))


def largest_falls(scores: Floats, first: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How far the second sample lies below the first, for each of B splits of N `scores` (N,) in ascending order: (B,).

    `first` (N, B) as for `mmd2`. It is the largest excess, at any score, of the second sample's share up to that score
    over the first's; times m n, so that splits that are equally far apart are equal to the bit. Equal scores belong
    together: the shares are compared after the last of them.
    """
    ends = np.flatnonzero(np.append(scores[1:] > scores[:-1], True))
    up_to = np.cumsum(first, axis=0, dtype=np.int64)
    m = up_to[-1]
    n = len(scores) - m
    falls: NDArray[np.int64] = ((ends + 1)[:, None] * m - up_to[ends] * (m + n)).max(axis=0)
    return falls


def compare_scores(
    reference: NDArray[np.floating],
    window: NDArray[np.floating],
    rng: np.random.Generator,
    *,
    permutations: int = PERMUTATIONS,
    between: Callable[[], None] = lambda: None,
) -> Comparison:
    """The one-sided Kolmogorov-Smirnov statistic of best scores (m,) and (n,): how far those of `window` lie below
    those of `reference`, with the share of splits that fall as far. `between` as for `compare_embeddings`."""
    m, n = len(reference), len(window)
    pooled = np.concatenate([reference, window]).astype(np.float64)
    order = np.argsort(pooled, kind="stable")
    scores = pooled[order]
    (fall,) = largest_falls(scores, (order < m)[:, None])
    as_far = 1
    for start in range(0, permutations, _BLOCK):
        between()
        splits = random_splits(rng, m, n, min(_BLOCK, permutations - start))
        as_far += int(np.count_nonzero(largest_falls(scores, splits) >= fall))
    return Comparison(float(fall) / (m * n), as_far / (1 + permutations))
