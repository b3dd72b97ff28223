"""Which index for how many vectors, and when is exact search the better answer? Speed and recall@10, side by side.

    python -m tests.bench.index_types [--sizes 20000 100000] [--data NAME=DIR ...]

Clustered synthetic vectors of 512 numbers, and the embeddings of every data directory that `--data` names. Queries are
gallery vectors with a little noise. Each condition is measured exactly and approximately in the same run, by one
thread; speed is queries per second of that thread's own processor time, so that other programs on the machine disturb
it little. tests/bench/results/index_types.json holds the figures that FLAT_BELOW, EXACT_BELOW and the batch threshold
of faiss rest on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from indexer.catalogue import Catalogue
from indexer.datadir import DataDir
from indexer.generation import live_number, load_info
from indexer.index import Segment
from indexer.index.rows import RowSet
from indexer.index.scan import faiss_threads
from tests.bench.machine import store
from tests.indexer.vectors import clustered, unit

DIMENSION = 512
CATEGORY_SIZE = 50
K = 10
RECALL_QUERIES = 200
BATCHES = (1, 8, 64)
SECONDS = 0.3  # of measuring, each figure
CONDITIONS = {
    "all rows": 1.0,
    "10 % tombstones": 0.9,
    "filter 50 %": 0.5,
    "filter 15 %": 0.15,
    "filter 5 %": 0.05,
    "filter 0.5 %": 0.005,
}


def per_second(work: Callable[[], object], queries: int) -> float:
    """Queries per second of the thread's processor time, warmed up."""
    work()
    done, began, until = 0, time.thread_time(), time.thread_time() + SECONDS
    while time.thread_time() < until:
        work()
        done += queries
    return done / (time.thread_time() - began)


def recall(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Share of the K true neighbours among the first K found."""
    shares = [
        len(set(row[:K].tolist()) & set(true[:K].tolist())) / len(true[:K])
        for row, true in zip(found, truth, strict=True)
    ]
    return float(np.mean(shares))


def measure(name: str, segment: Segment) -> Iterator[dict[str, Any]]:
    """One row of figures for each condition, batch size and way of searching."""
    rng = np.random.default_rng(1)
    count = len(segment)
    noise = 0.3 * unit(rng.standard_normal((RECALL_QUERIES, segment.dimension)))
    queries = unit(segment.vectors[rng.integers(0, count, RECALL_QUERIES)] + noise)
    for condition, share in CONDITIONS.items():
        keep = None if share == 1.0 else RowSet.of(rng.random(count) < share)
        _, truth = segment.search(queries, K, keep=keep, exact=True)
        for exact in (True, False) if segment.tuning else (True,):
            _, found = segment.search(queries, K, keep=keep, exact=exact)
            for batch in BATCHES:

                def search(batch: int = batch, exact: bool = exact, keep: RowSet | None = keep) -> None:
                    segment.search(queries[:batch], K, keep=keep, exact=exact)

                yield {
                    "vectors": name,
                    "count": count,
                    "rows_that_count": count if keep is None else keep.count,
                    "index": "exact" if exact else segment.kind,
                    "condition": condition,
                    "batch": batch,
                    "queries_per_second": round(per_second(search, batch), 1),
                    "recall_at_10": round(recall(found, truth), 4),
                }


def batch_threshold(vectors: NDArray[np.float32]) -> Iterator[dict[str, Any]]:
    """Exact search with faiss's own choice of kernel, and with ours."""
    ours = faiss.cvar.distance_compute_blas_threshold
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors)
    for threshold in (128_000, ours):
        faiss.cvar.distance_compute_blas_threshold = threshold
        for batch in (1, 2, 4, 8, 16, 64, 256):

            def search(batch: int = batch) -> None:
                with faiss_threads(1):
                    flat.search(vectors[:batch], K)

            yield {
                "count": len(vectors),
                "distance_compute_blas_threshold": threshold,
                "batch": batch,
                "queries_per_second": round(per_second(search, batch), 1),
            }
    faiss.cvar.distance_compute_blas_threshold = ours


def embeddings(folder: Path) -> NDArray[np.float32]:
    """The vectors of all items of a data directory, by its live model."""
    data = DataDir(folder)
    number = live_number(data)
    assert number is not None, f"{folder} serves nothing"
    with Catalogue.open(data.catalogue_url) as catalogue:
        chunks = catalogue.entries_with_vectors(load_info(data, number).model, 0)
        return np.array([vector for chunk in chunks for _, vector in chunk], np.float32)


def build(vectors: NDArray[np.float32]) -> tuple[Segment, dict[str, Any]]:
    """An approximate segment whatever the size, and what building it took on one thread."""
    began = time.thread_time()
    segment = Segment.build(vectors, np.arange(1, len(vectors) + 1, dtype=np.uint64), flat_below=1000)
    took = time.thread_time() - began
    tuning = segment.tuning
    return segment, {
        "count": len(vectors),
        "index": segment.kind,
        "build_cpu_s": round(took, 1),
        "recall_at_10": segment.recall,
        "nprobe": tuning.nprobe if tuning else None,
        "k_factor": tuning.k_factor if tuning else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[5_000, 20_000, 100_000])
    parser.add_argument("--data", nargs="*", default=[], metavar="NAME=DIR")
    options = parser.parse_args()
    sets = {f"synthetic {size}": clustered(size, DIMENSION, size // CATEGORY_SIZE) for size in options.sizes}
    named = (pair.split("=", 1) for pair in options.data)
    sets |= {f"embeddings of {name}": embeddings(Path(folder)) for name, folder in named}
    builds, searches = [], []
    for name, vectors in sets.items():
        segment, built = build(vectors)
        print({"vectors": name, **built})
        builds.append({"vectors": name, **built})
        for row in measure(name, segment):
            print(row)
            searches.append(row)
    kernels = list(batch_threshold(next(iter(sets.values()))))
    print(store("index_types", {"builds": builds, "searches": searches, "kernels": kernels}))


if __name__ == "__main__":
    main()
