"""The reference windows on the disk: the queries that came first after each model went live.

    watching/<model>.npz    vectors and best scores, in the order in which they came; no photos

They belong to a model, so that a restart neither loses one nor begins it anew, and a rollback finds its own again.

| crash at this step                     | found so at restart                                                     |
|----------------------------------------|-------------------------------------------------------------------------|
| between two savings                    | the reference as it was saved last, which later queries go on to fill   |
| while a file is written                | the file before, whole, or none; `.staging-*`, which is swept           |
| while those of gone models are removed | some of them, which are removed then                                    |
| bytes changed later                    | a file that does not load: the log says so, the reference is begun anew |
"""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from indexer.datadir import DataDir
from indexer.files import sweep, write_bytes

log = logging.getLogger(__name__)

_SUFFIX: Final = ".npz"

Query = tuple[NDArray[np.float32], float]
"""The vector (D,) of a query, and its best score."""


def path_of(data: DataDir, model: str) -> Path:
    """Where the reference of a model is kept, under the name of the model's folder."""
    return data.watching / f"{data.model(model).name}{_SUFFIX}"


def save(data: DataDir, model: str, queries: Sequence[Query]) -> None:
    """Replaces the reference of a model in one step. Errors: OSError."""
    file = io.BytesIO()
    vectors = np.array([vector for vector, _ in queries], np.float32)
    np.savez(file, model=np.array(model), vectors=vectors, scores=np.array([score for _, score in queries]))
    write_bytes(path_of(data, model), file.getvalue())


def load(data: DataDir, model: str) -> list[Query]:
    """The reference of a model, as far as it was saved. One that is damaged, or another model's, is none."""
    path = path_of(data, model)
    if not path.exists():
        return []
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            vectors, scores, of = file["vectors"], file["scores"], str(file["model"])
        if of != model or vectors.ndim != 2 or scores.shape != (len(vectors),):
            raise ValueError("it is of another model, or its parts do not fit")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("the reference window %s cannot be read, and is begun anew: %s", path.name, error)
        return []
    return list(zip(vectors.astype(np.float32), scores.tolist(), strict=True))


def tidy(data: DataDir) -> None:
    """Removes what a killed process left unfinished, and the references of models that are gone. Errors: OSError."""
    sweep(data.watching)
    for path in sorted(data.watching.glob(f"*{_SUFFIX}")):
        if not (data.models / path.stem).exists():
            path.unlink()
