"""Index recall: how much of what exact search finds the index has found, on live queries.

Not to be confused with probe recall, which asks whether what is found is of the right category.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from indexer.index import Hits
from server.watching.tap import Sample

RECENT: Final = 1000  # queries that the ratio is of


def repeat(sample: Sample) -> Hits:
    """The query once more, exactly: the same view, k and filter, without a minimum score."""
    params = replace(sample.params, exact=True, min_score=None)
    return sample.hits.view.search(sample.vector[None], params)[0]


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
    """`found_of` for a query and its repetition; None where it tells nothing of the index: it was exact itself, or
    nothing was to be found."""
    least = sample.params.min_score
    scores = exact.scores if least is None else exact.scores[exact.scores >= least]
    return None if sample.params.exact or len(scores) == 0 else found_of(sample.hits.scores, scores)


@dataclass(frozen=True)
class IndexRecall:
    """What was found and what was expected, of all watched queries of a generation and of the recent ones."""

    generation: int
    hits: int = 0
    expected: int = 0
    recent_hits: int = 0
    recent_expected: int = 0
    recent_queries: int = 0


class IndexRecallCount:
    """Counts for the live generation. One thread writes; any thread may read `current`."""

    def __init__(self, generation: int, *, recent: int = RECENT) -> None:
        self._recent: deque[tuple[int, int]] = deque(maxlen=recent)
        self.current = IndexRecall(generation)

    def follow(self, generation: int) -> None:
        """Begins anew for another generation."""
        if generation != self.current.generation:
            self._recent.clear()
            self.current = IndexRecall(generation)

    def add(self, hits: int, expected: int) -> None:
        """Counts one query."""
        full = len(self._recent) == self._recent.maxlen
        gone_hits, gone_expected = self._recent[0] if full else (0, 0)
        self._recent.append((hits, expected))
        now = self.current
        self.current = IndexRecall(
            now.generation,
            now.hits + hits,
            now.expected + expected,
            now.recent_hits + hits - gone_hits,
            now.recent_expected + expected - gone_expected,
            len(self._recent),
        )
