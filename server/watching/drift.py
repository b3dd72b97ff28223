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

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

PERMUTATIONS: Final = 999  # with the given split a thousand: p-values are multiples of 0.001
_BLOCK: Final = 64  # splits that are worked out together
_AT_ONCE: Final = 1 << 24  # multiplications without giving way to others: a millisecond or two
_TILE: Final = 256  # rows and columns of a part of a matrix at the most, of short vectors
_ROUNDING: Final = 1e-12  # of one statistic: splits that are equal but for rounding count as equal

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """What a test says of two samples."""

    distance: float
    """Unbiased MMD², which may be a little below 0; or how far scores have fallen, from 0 (not at all) to 1."""
    p_value: float
    """How often two samples of one distribution lie this far apart, or farther."""


@dataclass(frozen=True, eq=False)
class Kernel:
    """The Gaussian kernel between each two of N points."""

    matrix: Floats
    """(N, N), symmetric; 0 on the diagonal, since a point is not compared with itself."""
    sums: Floats
    """Of its rows: (N,)."""


def squared_distances(a: NDArray[np.floating], b: NDArray[np.floating]) -> Floats:
    """Squared Euclidean distances (m, n) between the rows of `a` (m, D) and of `b` (n, D)."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    squares: Floats = a @ b.T
    squares *= -2
    squares += np.vecdot(a, a)[:, None]
    squares += np.vecdot(b, b)
    return np.maximum(squares, 0.0, out=squares)


def _tiles(count: int, dimension: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the parts in which a symmetric matrix between `count` points (count, D) is worked out: the
    upper triangle, and on the diagonal whole squares."""
    side = max(1, min(_TILE, math.isqrt(_AT_ONCE // dimension)))
    for top in range(0, count, side):
        for left in range(top, count, side):
            yield slice(top, top + side), slice(left, left + side)


def median_distance(points: NDArray[np.floating], between: Callable[[], None] = lambda: None) -> float:
    """The median distance between two different ones of `points` (m, D): the kernel's width. 1 when all are the same,
    where any width will do. `between` as for `compare_embeddings`."""
    parts: list[Floats] = []
    for rows, columns in _tiles(*points.shape):
        between()
        squares = squared_distances(points[rows], points[columns])
        each_once = squares if rows != columns else squares[np.triu_indices(len(squares), 1)]
        if len(apart := each_once[each_once > _ROUNDING]):
            parts.append(np.sort(apart))
    return math.sqrt(_median(parts, between)) if parts else 1.0


def _median(parts: Sequence[Floats], between: Callable[[], None]) -> float:
    """The median of the numbers above 0 in all of `parts`, each of which ascends. They are not put together: the place
    of each of the two in the middle is halved until it is one number's. Floats above 0 ascend as their bits do."""

    def up_to(bits: int) -> int:
        between()
        number = np.int64(bits).view(np.float64)
        return sum(int(np.searchsorted(part, number, "right")) for part in parts)

    most, count = max(part[-1] for part in parts), sum(map(len, parts))
    places = range(int(most.view(np.int64)))
    middle = {bisect_left(places, rank + 1, key=up_to) for rank in ((count - 1) // 2, count // 2)}
    return float(np.mean([np.int64(bits).view(np.float64) for bits in middle]))


def gaussian(points: NDArray[np.floating], width: float, between: Callable[[], None] = lambda: None) -> Kernel:
    """The kernel exp(-|a - b|² / (2 width²)) between any a and b of `points` (N, D). `between` as for
    `compare_embeddings`."""
    points = np.asarray(points, np.float64)
    matrix, sums = np.empty((len(points), len(points))), np.zeros(len(points))
    for rows, columns in _tiles(*points.shape):
        between()
        tile = squared_distances(points[rows], points[columns])
        tile /= -2 * width * width
        np.exp(tile, out=tile)
        if rows == columns:
            np.fill_diagonal(tile, 0.0)
        else:
            matrix[columns, rows] = tile.T
            sums[columns] += tile.sum(axis=0)
        matrix[rows, columns] = tile
        sums[rows] += tile.sum(axis=1)
    return Kernel(matrix, sums)


def mmd2(kernel: Kernel, first: NDArray[np.bool_], between: Callable[[], None] = lambda: None) -> Floats:
    """Unbiased MMD² (B,) of B splits of the N points of `kernel`.

    `first` (N, B) says which points are of the first sample; the others are of the second. Each has two at least.
    One matrix product gives all: with s a column of `first`, the sum within the first sample is s'Ks, and the others
    follow from the sums of K's rows. It is worked out some rows of K at a time, `between` called between them.
    """
    sides = first.astype(np.float64)
    m = np.count_nonzero(first, axis=0)
    n = len(first) - m
    within_first = np.zeros(first.shape[1])
    step = max(1, _AT_ONCE // (len(first) * _BLOCK))
    for start in range(0, len(first), step):
        if start:
            between()
        rows = slice(start, start + step)
        within_first += (sides[rows] * (kernel.matrix[rows] @ sides)).sum(axis=0)
    across = kernel.sums @ sides - within_first
    within_second = kernel.sums.sum() - within_first - 2 * across
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
    kernel = gaussian(np.concatenate([reference, window], dtype=np.float64), width, between)
    (distance,) = mmd2(kernel, (np.arange(m + n) < m)[:, None], between)
    as_far = 1
    for start in range(0, permutations, _BLOCK):
        between()
        splits = random_splits(rng, m, n, min(_BLOCK, permutations - start))
        as_far += int(np.count_nonzero(mmd2(kernel, splits, between) >= distance - _ROUNDING))
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
