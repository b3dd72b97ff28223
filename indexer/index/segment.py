"""The main segment: an immutable faiss index over the vectors of one moment, saved as part of a generation.

The type follows from the size. Small segments are searched exactly. From FLAT_BELOW vectors on, inverted lists with
4-bit product quantisation find candidates, which are scored again with the full vectors; how many lists to visit is
chosen when the segment is built, so that recall@10 against exact search reaches the target. A segment for which nothing
reaches it is exact too. Either way the full vectors are held once, and exact search reads them where they are.

`save` fills a staging folder (files.publish_folder) and is told here apart from its publishing:

| crash at this step              | found so at restart                                               |
|---------------------------------|-------------------------------------------------------------------|
| while index.faiss is written    | an unpublished staging folder, which is swept                     |
| while seqs.npy is written       | the same                                                          |
| before segment.json is renamed  | the same; a folder without segment.json never loads               |
| after it, before the publishing | the same, with files that nobody reads                            |
| bytes changed or lost later     | `load` compares sizes and SHA-256, and raises GenerationDamaged   |
"""

from __future__ import annotations

import hashlib
import json
import logging
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from indexer.errors import GenerationDamaged
from indexer.files import sha256_file, write_json
from indexer.index.build import MEASURED_K, Tuning, train_index, tune
from indexer.index.gpu import GpuScan
from indexer.index.rows import RowSet
from indexer.index.scan import Found, faiss_threads, scan, selector_of

log = logging.getLogger(__name__)

FLAT_BELOW = 20_000  # vectors below which an exact scan is fast enough (tests/bench/results/index_types.json)
_FORMAT = 1
_INDEX, _SEQS, _MANIFEST = "index.faiss", "seqs.npy", "segment.json"
_MOST_SPARSE = 4.0  # by how much a small share of rows that count multiplies the candidates that are scored again
_CANDIDATES_PER_HIT = 10  # entries that the visited lists hold, at least, for each hit that is asked for


class _Storage:
    """Lends numpy the vectors inside a faiss index, and keeps the index alive while they are used."""

    def __init__(self, flat: Any, owner: Any) -> None:
        self._owner = owner
        borrowed = faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d)
        self.__array_interface__ = {**borrowed.__array_interface__, "shape": (flat.ntotal, flat.d)}


@dataclass(frozen=True)
class _Manifest:
    """segment.json."""

    format: int
    kind: str
    rows: int
    dimension: int
    tuning: dict[str, Any] | None
    files: dict[str, dict[str, Any]]


class Segment:
    """Vectors with their seqs, searchable by any number of threads at once. Row i has the i-th lowest seq."""

    def __init__(self, index: Any, seqs: NDArray[np.uint64], tuning: Tuning | None) -> None:
        """`tuning` is None when `index` is flat."""
        self._index = index
        self._gpu: GpuScan | None = None
        self.tuning = tuning
        self.seqs = seqs
        self.dimension = int(index.d)
        self.vectors = self._borrow_vectors()

    def _borrow_vectors(self) -> NDArray[np.float32]:
        if self._index.ntotal == 0:
            return np.empty((0, self.dimension), np.float32)
        flat = self._index if self.tuning is None else faiss.downcast_index(self._index.refine_index)
        vectors = np.asarray(_Storage(flat, self._index))
        vectors.flags.writeable = False
        return vectors

    def __len__(self) -> int:
        return len(self.seqs)

    @property
    def kind(self) -> str:
        """The index type in faiss's notation, such as "Flat" or "IVF1024,PQ128x4fs,RFlat"."""
        return "Flat" if self.tuning is None else self.tuning.kind

    @property
    def recall(self) -> float | None:
        """Recall@10 against exact search when it was built; None when it is exact."""
        return None if self.tuning is None else self.tuning.recall

    @classmethod
    def build(
        cls,
        vectors: NDArray[np.float32],
        seqs: NDArray[np.uint64],
        *,
        recall_target: float = 0.99,
        threads: int = 1,
        gpus: int = 0,
        flat_below: int = FLAT_BELOW,
        progress: Callable[[str, float], None] = lambda step, done: None,
    ) -> Segment:
        """Indexes unit `vectors` (N, D), whose `seqs` (N,) ascend. N may be 0.

        `progress` is called with a step's name and the share of it that is done; what it raises ends the build.
        Errors: ValueError when the shapes do not fit or the seqs do not ascend.
        """
        vectors = np.ascontiguousarray(vectors, np.float32)
        seqs = np.ascontiguousarray(seqs, np.uint64)
        if vectors.ndim != 2 or seqs.shape != (len(vectors),):
            raise ValueError(f"vectors {vectors.shape} and seqs {seqs.shape} do not fit")
        if not _ascend(seqs):
            raise ValueError("seqs do not ascend")
        with faiss_threads(threads):
            if len(vectors) >= flat_below and vectors.shape[1] % 4 == 0:
                index = train_index(vectors, gpus, progress)
                tuning = tune(index, recall_target, progress)
                if tuning is not None:
                    return cls(index, seqs, tuning)
            flat = faiss.IndexFlatIP(vectors.shape[1])
            flat.add(vectors)
            return cls(flat, seqs, None)

    def use_gpus(self, gpus: int) -> None:
        """Lets exact searches in batches run on `gpus` GPUs (Devices.index_gpus; 0 changes nothing).

        GPU memory is freed with the last reference to the segment, as main memory is. A segment that does not fit stays
        on the CPU.
        """
        if gpus and self._gpu is None and len(self):
            try:
                self._gpu = GpuScan(self.vectors, gpus)
            except RuntimeError as error:
                log.warning("exact search stays on the CPU: %s", error)
            else:
                weakref.finalize(self, self._gpu.close)

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        keep: RowSet | None = None,
        exact: bool = False,
        threads: int = 1,
    ) -> Found:
        """Candidates for the `k` best rows among `keep` (None: all) for each of `queries` (Q, D).

        Returns scores and rows (Q, C), best first by scores that carry float32 noise; row -1 fills up. An exact search
        returns every row that can be among the k best, so C may exceed k.
        """
        with faiss_threads(threads):
            available = len(self) if keep is None else keep.count
            if exact or self.tuning is None or available <= k:
                return scan(self.vectors, queries, k, keep, self._gpu)
            scores, rows = self._approximate(queries, k, keep, available, self.tuning)
            short = rows[:, -1] < 0
            if short.any():  # the visited lists held too few rows of `keep`
                exact_scores, exact_rows = scan(self.vectors, queries[short], k, keep, self._gpu)
                scores[short], rows[short] = exact_scores[:, :k], exact_rows[:, :k]
            return scores, rows

    def _approximate(
        self, queries: NDArray[np.float32], k: int, keep: RowSet | None, available: int, tuning: Tuning
    ) -> Found:
        """Visits more lists for a large `k`, and for a small share of rows that count; scores more candidates again for
        such a share too, because the neighbours left are farther away, where codes rank worse. The effort was chosen
        for MEASURED_K hits, so at least as many are looked for: a smaller `k` would score fewer candidates again."""
        k, wanted = max(k, MEASURED_K), k
        sparser = len(self) / available
        lists = max(tuning.nprobe, _CANDIDATES_PER_HIT * k * tuning.nlist / len(self)) * sparser
        nprobe, k_factor = min(tuning.nlist, int(np.ceil(lists))), tuning.k_factor * min(sparser, _MOST_SPARSE)
        params = tuning.parameters(nprobe, k_factor, selector_of(keep))
        scores, rows = self._index.search(queries, k, params=params)
        return scores[:, :wanted], rows[:, :wanted]

    def save(self, folder: Path) -> None:
        """Writes the segment's files into `folder`; the caller publishes it (files.publish_folder). Errors: OSError."""
        with (folder / _INDEX).open("wb") as file:  # faiss's own writer tells nobody when the disk is full at the end
            faiss.write_index(self._index, faiss.PyCallbackIOWriter(file.write))
        np.save(folder / _SEQS, self.seqs)
        files = {
            name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
            for name in (_INDEX, _SEQS)
        }
        tuning = None if self.tuning is None else asdict(self.tuning)
        manifest = asdict(_Manifest(_FORMAT, self.kind, len(self), self.dimension, tuning, files))
        write_json(folder / _MANIFEST, {**manifest, "sha256": _seal(manifest)})

    @classmethod
    def load(cls, folder: Path, *, verify: bool = True) -> Segment:
        """The segment that was saved in `folder`. `verify=False` compares sizes but no checksums.

        Errors: GenerationDamaged when a file is missing, cut off or altered, or the files do not belong together.
        """
        manifest = _read_manifest(folder / _MANIFEST)
        for name, facts in manifest.files.items():
            _check_file(folder / name, facts, verify)
        try:
            index = faiss.read_index(str(folder / _INDEX))
            seqs = np.load(folder / _SEQS, allow_pickle=False)
            tuning = None if manifest.tuning is None else Tuning(**manifest.tuning)
        except (RuntimeError, ValueError, TypeError, OSError, EOFError) as error:
            raise GenerationDamaged(f"{folder.name} does not load: {error}", field=str(folder.name)) from error
        expected = (manifest.rows, manifest.dimension, (manifest.rows,), "uint64", faiss.METRIC_INNER_PRODUCT)
        got = (index.ntotal, index.d, seqs.shape, str(seqs.dtype), index.metric_type)
        if got != expected or not _ascend(seqs) or isinstance(index, faiss.IndexRefineFlat) != (tuning is not None):
            raise GenerationDamaged(
                "the files of the index do not belong together", field=str(folder.name), got=got, expected=expected
            )
        return cls(index, seqs, tuning)


def _ascend(seqs: NDArray[np.uint64]) -> bool:
    return bool(np.all(seqs[1:] > seqs[:-1]))


def _seal(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _read_manifest(path: Path) -> _Manifest:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("sha256") != _seal(content):
            raise ValueError("it was altered")
        manifest = _Manifest(**content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise GenerationDamaged(f"{path.name} cannot be read: {error}", field=path.name) from error
    if manifest.format != _FORMAT:
        raise GenerationDamaged(
            f"{path.name} has an unknown format", field=path.name, got=manifest.format, expected=_FORMAT
        )
    return manifest


def _check_file(path: Path, facts: dict[str, Any], verify: bool) -> None:
    size = path.stat().st_size if path.is_file() else None
    if size != facts.get("bytes"):
        raise GenerationDamaged(
            f"{path.name} is missing or cut off", field=path.name, got=size, expected=facts.get("bytes")
        )
    if verify and (digest := sha256_file(path)) != facts.get("sha256"):
        raise GenerationDamaged(f"{path.name} was altered", field=path.name, got=digest, expected=facts.get("sha256"))
