"""What apps hand to the client and get back: plain, frozen values, free of the wire's types."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clients.errors import EverlookClientError

# A photo: the bytes of its file, the path of its file, or pixels, which are sent as PNG: a Pillow image, or an array of
# uint8 of shape (H, W, 3), (H, W, 4) or (H, W).
ImageLike = bytes | Path | Image.Image | NDArray[np.uint8]

# Text, a finite number, or a truth value. The type counts: 1 is not "1" and not True.
MetadataValue = str | float | bool


@dataclass(frozen=True)
class Item:
    """One catalogue entry: an id that you choose, what makes two items the same, and anything to filter by."""

    id: str
    category: str
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)


@dataclass(frozen=True)
class Embedding:
    """The vector of a photo, float32 of shape (D,) and unit length, and the id of the model that made it."""

    values: NDArray[np.float32]
    model: str


@dataclass(frozen=True)
class Range:
    """A number within these bounds, both included; None is open."""

    min: float | None = None
    max: float | None = None


@dataclass(frozen=True, init=False)
class AnyOf:
    """One of these values: `AnyOf("red", "blue")`."""

    values: tuple[MetadataValue, ...]

    def __init__(self, *values: MetadataValue) -> None:
        object.__setattr__(self, "values", values)


@dataclass(frozen=True)
class Filter:
    """Which items a search considers: those for which every condition that is set holds.

    categories: any of these; exclude_categories: none of these; where: by metadata key, a value, `AnyOf` or `Range`.
    An item that lacks a key of `where` does not match.
    """

    categories: Sequence[str] = ()
    exclude_categories: Sequence[str] = ()
    where: Mapping[str, MetadataValue | AnyOf | Range] = field(default_factory=dict)


@dataclass(frozen=True)
class Query:
    """One search. Exactly one of `image`, `vector` and `item_id` says what to look for.

    k: hits at most; None leaves it to the server (10). exact: compare with every item instead of through the
    approximate index. min_score: only hits with at least this cosine similarity.
    """

    image: ImageLike | None = None
    vector: Embedding | None = None
    item_id: str | None = None
    k: int | None = None
    filter: Filter | None = None
    exact: bool = False
    min_score: float | None = None
    include_metadata: bool = False


@dataclass(frozen=True)
class GenerationRef:
    """The generation that answered: its number, and the id of its model."""

    number: int
    model: str


@dataclass(frozen=True)
class Timing:
    """Where the time of one query went, in seconds."""

    queue_s: float
    decode_s: float
    encode_s: float
    search_s: float


@dataclass(frozen=True)
class Hit:
    """One item found. `score` is the cosine similarity of query and item; `seq` is higher for what is newer."""

    id: str
    score: float
    category: str
    seq: int
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)


@dataclass(frozen=True)
class SearchResult:
    """Hits, best first, the one generation that made them, and where the time went."""

    hits: tuple[Hit, ...]
    generation: GenerationRef
    timing: Timing


class Outcome(StrEnum):
    """What a write changed. An item that had to be sent twice may be UNCHANGED although the first sending wrote it."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"


@dataclass(frozen=True)
class Acknowledgement:
    """How one item ended: written (`seq`, `outcome`, `generation`), or refused (`error`, and nothing was changed)."""

    id: str
    seq: int | None = None
    outcome: Outcome | None = None
    generation: GenerationRef | None = None
    error: EverlookClientError | None = None


@dataclass(frozen=True)
class StoredItem:
    """What the server holds of an item, without the photo itself; sizes in bytes and pixels."""

    id: str
    category: str
    metadata: Mapping[str, MetadataValue]
    seq: int
    updated_at: datetime.datetime
    image_sha256: str
    image_bytes: int
    width: int
    height: int
    format: str


@dataclass(frozen=True)
class StoredImage:
    """A photo as it was sent."""

    data: bytes
    media_type: str
    sha256: str


class CategoryState(StrEnum):
    """How far the model is with a category."""

    NEW = "new"
    TRAINING = "training"
    TRAINED = "trained"


@dataclass(frozen=True)
class Category:
    """A category, how many items it has, and the stage that taught it to the model once it is TRAINED."""

    name: str
    items: int
    state: CategoryState
    cohort: int | None = None
