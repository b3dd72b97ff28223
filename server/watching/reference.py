"""The reference windows: a sample of the queries that came first after each model went live, kept on the disk.

    watching/<model>.npz    vectors and best scores, how many queries they were drawn from, and since when; no photos

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
import math
from dataclasses import dataclass, field
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


@dataclass
class Reference:
    """Queries, and what they were drawn from."""

    queries: list[Query] = field(default_factory=list)
    seen: int = 0
    """How many queries they were drawn from."""
    began: float = math.inf
    """Unix time of the first of those."""

    def draw(self, query: Query, now: float, most: int, rng: np.random.Generator) -> None:
        """Takes one more query: all of the first `most`, then each by chance in the place of another, so that those of
        every moment are as likely to be in (reservoir sampling; J. S. Vitter, ACM TOMS 11 (1985), algorithm R)."""
        self.began = min(self.began, now)  # a clock that was put back must not put off the end
        self.seen += 1
        if len(self.queries) < most:
            self.queries.append(query)
        elif (place := int(rng.integers(self.seen))) < most:
            self.queries[place] = query


def path_of(data: DataDir, model: str) -> Path:
    """Where the reference of a model is kept, under the name of the model's folder."""
    return data.watching / f"{data.model(model).name}{_SUFFIX}"


def save(data: DataDir, model: str, reference: Reference) -> None:
    """Replaces the reference of a model in one step. Errors: OSError."""
    file = io.BytesIO()
    vectors = np.array([vector for vector, _ in reference.queries], np.float32)
    scores = np.array([score for _, score in reference.queries])
    np.savez(file, model=model, vectors=vectors, scores=scores, seen=reference.seen, began=reference.began)
    write_bytes(path_of(data, model), file.getvalue())


def load(data: DataDir, model: str) -> Reference:
    """The reference of a model, as far as it was saved. One that cannot be read, or is another model's, is none."""
    path = path_of(data, model)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Reference()
    except OSError as error:
        return _begun_anew(path, error)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            vectors, scores, of = file["vectors"], file["scores"], str(file["model"])
            seen, began = int(file["seen"]), float(file["began"])
        if of != model or vectors.ndim != 2 or scores.shape != (len(vectors),) or seen < len(vectors):
            raise ValueError("it is of another model, or its parts do not fit")
        queries = list(zip(vectors.astype(np.float32), scores.tolist(), strict=True))
    except Exception as error:  # bytes that have changed make numpy and its readers of archives fail in any way
        return _begun_anew(path, error)
    return Reference(queries, seen, began)


def _begun_anew(path: Path, error: Exception) -> Reference:
    log.warning("the reference window %s cannot be read, and is begun anew: %r", path.name, error)
    return Reference()


def tidy(data: DataDir) -> None:
    """Removes what a killed process left unfinished, and the references of models that are gone. Errors: OSError."""
    sweep(data.watching)
    for path in sorted(data.watching.glob(f"*{_SUFFIX}")):
        if not (data.models / path.stem).exists():
            path.unlink()
