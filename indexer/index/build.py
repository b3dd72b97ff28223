"""How an approximate index is trained, and how its effort is chosen by measured recall."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from indexer.index.gpu import flat_on_gpus
from indexer.index.scan import scan

MEASURED_K = 10  # recall@10 is what is promised
_QUERIES = 500
_TRAINING_POINTS_PER_LIST = 64
_ADD_ROWS = 16_384
_K_FACTORS = (10, 20, 40)
_LEAST_NPROBE = 16  # fewer is hardly faster, and leaves nothing in hand for queries unlike the gallery and for filters
_LIST_COST, _REFINE_COST = 7.0, 80.0  # nanoseconds: one 4-bit code of a visited list; one full vector, scored again
_TIE = 1e-6  # a returned row that scores within this of the true 10th is as good as it

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Tuning:
    """The approximate index's type, its effort for each query, and the recall@10 that this was measured to give."""

    kind: str
    nlist: int
    nprobe: int
    k_factor: int
    recall: float

    def parameters(self, nprobe: int, k_factor: float, selector: Any) -> Any:
        """faiss's parameters for one call. They are made anew for each: faiss may write into what it is given."""
        lists = faiss.SearchParametersIVF()
        lists.sel, lists.nprobe = selector, nprobe
        params = faiss.IndexRefineSearchParameters()
        params.k_factor, params.base_index_params = k_factor, lists
        return params


def train_index(vectors: NDArray[np.float32], gpus: int, progress: Progress) -> Any:
    """An inverted-list index of `vectors` (N, D), D a multiple of 4, with the full vectors beside it. k-means runs
    on `gpus` GPUs, where there are some."""
    count, dimension = vectors.shape
    nlist = 2 ** max(0, round(math.log2(min(4 * math.sqrt(count), count / 39))))
    index = faiss.index_factory(dimension, f"IVF{nlist},PQ{dimension // 4}x4fs,RFlat", faiss.METRIC_INNER_PRODUCT)
    lists = faiss.extract_index_ivf(index)
    lists.cp.max_points_per_centroid = _TRAINING_POINTS_PER_LIST
    if gpus:
        lists.clustering_index = flat_on_gpus(dimension, gpus)
    progress("train", 0.0)
    index.train(_sample(vectors, max(256, nlist) * _TRAINING_POINTS_PER_LIST))
    for start in range(0, count, _ADD_ROWS):
        progress("add", start / count)
        index.add(vectors[start : start + _ADD_ROWS])
    return index


def _sample(vectors: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    if len(vectors) <= count:
        return vectors
    rows = np.random.default_rng(0).choice(len(vectors), count, replace=False)
    return vectors[np.sort(rows)]


def tune(index: Any, target: float, progress: Progress) -> Tuning | None:
    """The cheapest effort whose recall@10 reaches `target`, for queries from the gallery that do not count themselves.

    None when no effort reaches it.
    """
    count, dimension = index.ntotal, index.d
    flat: Any = faiss.downcast_index(index.refine_index)
    vectors = faiss.rev_swig_ptr(flat.get_xb(), count * dimension).reshape(count, dimension)
    rows = np.random.default_rng(1).choice(count, min(_QUERIES, count), replace=False)
    queries = vectors[rows]
    progress("measure", 0.0)
    scores, found = scan(vectors, queries, MEASURED_K + 1)
    tenth = np.sort(np.where((found == rows[:, None]) | (found < 0), -np.inf, scores), axis=1)[:, -MEASURED_K]
    nlist = faiss.extract_index_ivf(index).nlist
    efforts = sorted(
        itertools.product([2**i for i in range(nlist.bit_length()) if 2**i >= min(nlist, _LEAST_NPROBE)], _K_FACTORS),
        key=lambda effort: effort[0] / nlist * count * _LIST_COST + effort[1] * MEASURED_K * _REFINE_COST,
    )
    for step, (nprobe, k_factor) in enumerate(efforts):
        progress("measure", step / len(efforts))
        tuning = Tuning(f"IVF{nlist},PQ{dimension // 4}x4fs,RFlat", nlist, nprobe, k_factor, 0.0)
        scores, found = index.search(queries, MEASURED_K + 1, params=tuning.parameters(nprobe, k_factor, None))
        good = (scores >= tenth[:, None] - _TIE) & (found >= 0) & (found != rows[:, None])
        recall = float(np.minimum(np.count_nonzero(good, axis=1), MEASURED_K).mean() / MEASURED_K)
        if recall >= target:
            return Tuning(tuning.kind, nlist, nprobe, k_factor, recall)
    return None
