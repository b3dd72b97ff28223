"""Exact search in plain numpy: the oracle that the served index is compared with, and the one definition of a score."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_CHUNK_ELEMENTS = 1 << 22


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """The score of unit vectors: their dot product along the last axis, (..., D) x (..., D) broadcast to (...).

    Summed in float64, one vector at a time, then rounded: equal vectors get equal bits, whatever else is in the batch.
    A matrix product does not promise that, and would let noise decide the order of duplicates.
    """
    dots = np.vecdot(np.ascontiguousarray(a, np.float64), np.ascontiguousarray(b, np.float64))
    scores: NDArray[np.float32] = np.clip(dots, -1.0, 1.0).astype(np.float32)
    return scores


def search(
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    k: int,
    mask: NDArray[np.bool_] | None = None,
    min_score: float | None = None,
) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """For each query (Q, D), the rows of `vectors` (N, D) that score best, and their scores: at most `k`, best first.

    Equal scores: the lower row first. Only rows where `mask` (N,) holds and whose score is at least `min_score` count.
    """
    allowed = np.arange(len(vectors)) if mask is None else np.flatnonzero(mask)
    hits = []
    for query in queries:
        step = max(1, _CHUNK_ELEMENTS // max(1, vectors.shape[1]))
        parts = [cosine(vectors[allowed[i : i + step]], query) for i in range(0, len(allowed), step)]
        scores = np.concatenate([*parts, np.empty(0, np.float32)])
        best = np.argsort(-scores, kind="stable")[:k]
        if min_score is not None:
            best = best[scores[best] >= min_score]
        hits.append((allowed[best].astype(np.int64), scores[best]))
    return hits
