"""What faiss does on a GPU where its GPU build and a device are present: k-means, and exact search in batches."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from indexer.index.scan import Found

_UPLOAD_ROWS = 65_536


def flat_on_gpus(dimension: int, gpus: int) -> Any:
    """An empty exact inner-product index over the first `gpus` GPUs, at least one (Devices.index_gpus)."""
    return faiss.index_cpu_to_all_gpus(faiss.IndexFlatIP(dimension), ngpu=gpus)


class GpuScan:
    """Finds the best of all rows on the GPUs. One thread owns the index: faiss's GPU indexes must not be used from two
    at once, not even to read. Holds a copy of the vectors in GPU memory until `close`."""

    def __init__(self, vectors: NDArray[np.float32], gpus: int) -> None:
        """Errors: RuntimeError of faiss when the vectors do not fit."""
        self._owner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="gpu-index")
        self._index: Any = self._owner.submit(self._upload, vectors, gpus).result()

    @staticmethod
    def _upload(vectors: NDArray[np.float32], gpus: int) -> Any:
        index = flat_on_gpus(vectors.shape[1], gpus)
        for start in range(0, len(vectors), _UPLOAD_ROWS):
            index.add(vectors[start : start + _UPLOAD_ROWS])
        return index

    def __call__(self, queries: NDArray[np.float32], k: int) -> Found:
        """The `k` best rows for each of `queries` (Q, D)."""
        scores, rows = self._owner.submit(self._index.search, queries, k).result()
        return scores, rows

    def close(self) -> None:
        """Frees the GPU memory, in the thread that owns it."""

        def drop() -> None:
            self._index = None

        self._owner.submit(drop).result()
        self._owner.shutdown()
