"""Index recall: how much of what exact search finds the index has found, on live queries.

Not to be confused with probe recall, which asks whether what is found is of the right category.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from indexer.index import Hits
from server.watching.tap import Sample

RECENT: Final = 1000  # queries that the ratio is of


def repeat(sample: Sample, between: Callable[[], None] = lambda: None) -> Hits:
    """The query once more, exactly: the same view, k and filter, without a minimum score. `between` is called every few
    milliseconds, and ends it by what it raises."""
    return sample.hits.view.search_in_parts(sample.vector, replace(sample.params, min_score=None), between)


def found_of(found: NDArray[np.float32], exact: NDArray[np.float32]) -> tuple[int, int]:
    """How many hits of an answer exact search finds too, and how many it finds, from the scores of both, best first.

    An item that scores as well as the last exact hit counts as found, whichever item that was: which one of several
    equals comes within k is chance, and recall is about how near the hits are. Scores are summed without noise
    (exact.cosine), so that equal vectors have equal scores and no tolerance is needed.
    """
    if len(exact) == 0:
        return 0, 0
    return min(int(np.count_nonzero(found >= exact[-1])), len(exact)), len(exact)


def compared(sample: Sample, exact: Hits) -> tuple[int, int] | None:
    """`found_of` for a query and its repetition; None where it tells nothing of the index: it was exact itself, as it
    was asked to be or because few items match its filter, or nothing was to be found."""
    least = sample.params.min_score
    scores = exact.scores if least is None else exact.scores[exact.scores >= least]
    return None if sample.hits.exact or len(scores) == 0 else found_of(sample.hits.scores, scores)


@dataclass(frozen=True)
class IndexRecall:
    """What share of exact search's hits each watched query found, summed up over a generation; and of the recent ones
    the mean. Each query counts alike, whatever its k: the sampling error of such a mean is known."""

    generation: int
    queries: int = 0
    shares: float = 0.0
    """The sum of their shares."""
    recent_queries: int = 0
    recent_mean: float | None = None
    """None while there are none."""


class IndexRecallCount:
    """Counts for the live generation. One thread writes; any thread may read `current`."""

    def __init__(self, generation: int, *, recent: int = RECENT) -> None:
        self._recent: deque[float] = deque(maxlen=recent)
        self.current = IndexRecall(generation)

    def follow(self, generation: int) -> None:
        """Begins anew for another generation."""
        if generation != self.current.generation:
            self._recent.clear()
            self.current = IndexRecall(generation)

    def add(self, hits: int, expected: int) -> None:
        """Counts one query, of which one hit at least is expected."""
        share = hits / expected
        self._recent.append(share)
        self.current = IndexRecall(
            self.current.generation,
            self.current.queries + 1,
            self.current.shares + share,
            len(self._recent),
            math.fsum(self._recent) / len(self._recent),
        )
