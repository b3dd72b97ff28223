"""A candidate's generation: the index of all items by its model, built, checked against exact search, and published.

| crash at this step                         | found so at restart                                    |
|--------------------------------------------|--------------------------------------------------------|
| while it is read, built or checked         | nothing of it: it is made again from the same vectors  |
| while it is published                      | `.staging-*`, which is swept; it is made again         |
| after that                                 | the generation: its model is no candidate model any more |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from indexer.catalogue import Catalogue
from indexer.datadir import DataDir
from indexer.errors import NotReady
from indexer.gates import Gate
from indexer.generation import GenerationInfo, publish_generation
from indexer.index import Segment
from indexer.index.exact import cosine
from indexer.index.scan import faiss_threads, scan
from indexer.model import Manifest

RECALL_TARGET: Final = 0.99  # of recall@10 against exact search, for what is built and for what is checked

_K: Final = 10
_SAMPLE: Final = 300  # items that are asked for
_Z: Final = 1.645  # one-sided 95 %, as in `gates`
_TIE: Final = 1e-6  # a hit that scores within this of the true 10th is as good as it

Progress = Callable[[str, float], None]


def make_generation(
    data: DataDir, catalogue: Catalogue, model: Manifest, boundary: int, *, threads: int, gpus: int, progress: Progress
) -> GenerationInfo:
    """Indexes every item up to the change `boundary` by its vector of `model`, and publishes that with its gates.

    `progress` is called with a step's name and the share of it that is done; what it raises ends the work. Errors:
    NotReady when an item has no vector; OSError, such as a full disk, and nothing of it can be seen.
    """
    progress("read", 0.0)
    vectors, seqs = gather(catalogue, model, boundary)
    segment = Segment.build(vectors, seqs, recall_target=RECALL_TARGET, threads=threads, gpus=gpus, progress=progress)
    progress("check", 0.0)
    gates = index_gates(segment, vectors, threads)
    progress("publish", 0.0)
    return publish_generation(data, model.id, boundary, segment, gates)


def gather(catalogue: Catalogue, model: Manifest, boundary: int) -> tuple[NDArray[np.float32], NDArray[np.uint64]]:
    """The vectors (N, D) and seqs (N,) of the live entries up to `boundary`, in its order. Errors: NotReady.

    An entry that goes meanwhile may be among them. None can come: what comes has a seq above the boundary.
    """
    most = catalogue.totals().items
    vectors, seqs = np.empty((most, model.dimension), np.float32), np.empty(most, np.uint64)
    count = 0
    for chunk in catalogue.entries_with_vectors(model.id):
        old = [entry.seq for entry in chunk.entries if entry.seq <= boundary]
        if not chunk.present[: len(old)].all():
            raise NotReady(f"items up to change {boundary} have no vector of model {model.id} yet")
        if old:
            seqs[count : count + len(old)] = old
            vectors[count : count + len(old)] = chunk.vectors[: len(old)]
            count += len(old)
        if len(old) < len(chunk.entries):
            break
    return vectors[:count], seqs[:count]


def index_gates(segment: Segment, vectors: NDArray[np.float32], threads: int = 1) -> list[Gate]:
    """Whether a segment finds what an exact search of `vectors` (N, D), of which it was built, finds.

    Some hundreds of the vectors are its queries. They must find their 10 nearest, themselves left out, and themselves.
    """
    rows = np.random.default_rng(2).choice(len(vectors), min(_SAMPLE, len(vectors)), replace=False)
    queries = vectors[rows]
    wanted = min(_K, len(vectors) - 1)
    if wanted < 1:
        return [_gate("index recall", np.ones(1), "nothing to be found in a gallery of fewer than two items")]
    with faiss_threads(threads):
        _, truth = scan(vectors, queries, wanted + 1)
    _, found = segment.search(queries, wanted + 1, threads=threads)
    true_scores = np.where(truth == rows[:, None], -np.inf, _scores(vectors, queries, truth))
    least = np.sort(true_scores, axis=1)[:, -wanted, None]
    scores = _scores(vectors, queries, found)
    good = np.sum((scores >= least - _TIE) & (found != rows[:, None]), axis=1)
    shares = good.clip(max=wanted) / wanted
    itself = scores.max(axis=1) >= cosine(queries, queries) - _TIE  # or a twin, which is as good
    return [
        _gate("index recall", shares, f"recall@{wanted} of {segment.kind} by exact search"),
        _gate("index items", itself.astype(np.float64), f"items that find themselves in {segment.kind}"),
    ]


def refuse(data: DataDir, model: Manifest, reason: str) -> GenerationInfo:
    """Publishes a generation of a model that cannot be used: without items, rejected, so that the reason is seen and
    the model is not tried again. Errors: OSError."""
    nothing = Segment.build(np.empty((0, model.dimension), np.float32), np.empty(0, np.uint64))
    return publish_generation(data, model.id, 0, nothing, [Gate("model", False, 0.0, 1.0, reason)])


def _scores(vectors: NDArray[np.float32], queries: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """The scores (Q, C) of candidates `rows` (Q, C), without noise; minus infinity where there is none."""
    scores: NDArray[np.float32] = np.empty(rows.shape, np.float32)
    for query, candidates in enumerate(rows):
        scores[query] = cosine(vectors[np.maximum(candidates, 0)], queries[query])
    scores[rows < 0] = -np.inf
    return scores


def _gate(name: str, shares: NDArray[np.float64], words: str) -> Gate:
    """Fails when the mean of the samples' shares is below the target by more than sampling error."""
    mean, error = float(shares.mean()), float(shares.std()) / math.sqrt(len(shares))
    reason = f"{words}: {mean:.4f} of {len(shares)} samples, standard error {error:.4f}"
    return Gate(name, mean + _Z * error >= RECALL_TARGET, mean, RECALL_TARGET, reason)
