"""Galleries of drawn vectors, what serves them, and queries that were answered by it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.generation import Serving
from indexer.index import Gallery, SearchParams, Segment, Upsert
from server.watching.tap import Sample


def serving_of(vectors: NDArray[np.float32], *, number: int = 1, model: str = "m" * 64) -> Serving:
    """A gallery of these vectors in its main segment, as a generation of that number and model would serve it."""
    seqs = np.arange(1, len(vectors) + 1, dtype=np.uint64)
    return serving_over(Segment.build(vectors, seqs), number=number, model=model)


def serving_over(segment: Segment, *, number: int = 1, model: str = "m" * 64) -> Serving:
    """The same over a segment that is there."""
    items = [
        (Upsert(int(seq), f"i{seq}", f"c{int(seq) % 3}", {}, vector), None)
        for seq, vector in zip(segment.seqs, segment.vectors, strict=True)
    ]
    generation: Any = SimpleNamespace(number=number, model=SimpleNamespace(id=model))
    return Serving(generation, Gallery.open(segment, items).view)


def approximate_of(vectors: NDArray[np.float32], *, effort: bool = True) -> Segment:
    """A segment of inverted lists over these vectors; without `effort` it visits one list, and scores as many vectors
    again as are asked for."""
    seqs = np.arange(1, len(vectors) + 1, dtype=np.uint64)
    built = Segment.build(vectors, seqs, flat_below=0)
    assert built.tuning is not None
    return built if effort else Segment(built._index, seqs, replace(built.tuning, nprobe=1, k_factor=1))


def sample_of(
    serving: Serving, vector: NDArray[np.float32], params: SearchParams | None = None, *, by_item: bool = False
) -> Sample:
    """The query by this vector, as it was answered."""
    params = params or SearchParams()
    (hits,) = serving.view.search(vector[None], params)
    return Sample(serving, vector, params, hits, by_item)
