"""The work that waits in the queue: one query, or one item to write."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from indexer.catalogue import Applied, MetadataValue
from indexer.engine import Serving
from indexer.index import Hits, SearchParams
from server import logs
from server.batching import Lane


@dataclass(frozen=True)
class ImageQuery:
    """Search by the bytes of a photo."""

    data: bytes


@dataclass(frozen=True)
class VectorQuery:
    """Search by a vector that the model `model` made."""

    values: NDArray[np.float32]
    model: str


@dataclass(frozen=True)
class ItemQuery:
    """Search by an item's own vector; the item is left out of the hits."""

    id: str


@dataclass
class Timing:
    """Where the time of one job went, in seconds."""

    queue_s: float = 0.0
    decode_s: float = 0.0
    encode_s: float = 0.0
    search_s: float = 0.0
    commit_s: float = 0.0
    began: dict[str, float] = field(default_factory=dict)
    """`time.perf_counter()` at the beginning of decode, encode, search and commit; of what was done."""


@dataclass(frozen=True)
class Answer:
    """What a query got, and the one serving unit that encoded and answered it (promise 1)."""

    serving: Serving
    vector: NDArray[np.float32]
    """(D,) of unit length."""
    hits: Hits | None
    """None when only the vector was asked for."""
    timing: Timing


@dataclass(frozen=True)
class Written:
    """What a write changed, and the serving unit that finds it from now on."""

    applied: Applied
    serving: Serving


R = TypeVar("R")


@dataclass(eq=False)
class _Job(Generic[R]):
    future: asyncio.Future[R]
    """Resolved on the event loop that made the job."""
    deadline: float | None
    """`time.monotonic()` after which nobody waits for the answer; None waits for ever."""
    enqueued_at: float = field(default_factory=time.monotonic, init=False)
    timing: Timing = field(default_factory=Timing, init=False)
    request: str = field(default_factory=logs.request_id, init=False)
    """The id of the call that it is a part of."""

    @property
    def expired(self) -> bool:
        """Nobody waits for the answer any more."""
        return self.future.cancelled() or (self.deadline is not None and time.monotonic() >= self.deadline)


@dataclass(eq=False)
class QueryJob(_Job[Answer]):
    """One query. `params` None asks for the vector alone."""

    query: ImageQuery | VectorQuery | ItemQuery
    params: SearchParams | None
    lane: Lane = field(default=Lane.QUERY, init=False)

    @property
    def size(self) -> int:
        return len(self.query.data) if isinstance(self.query, ImageQuery) else 0


@dataclass(eq=False)
class IngestJob(_Job[Written]):
    """One item to write, with its photo."""

    id: str
    category: str
    metadata: dict[str, MetadataValue]
    image: bytes
    lane: Lane = field(default=Lane.INGEST, init=False)

    @property
    def size(self) -> int:
        return len(self.image)


Job = QueryJob | IngestJob
