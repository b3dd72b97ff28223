"""What goes into the catalogue and comes out of it."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

MetadataValue = str | float | bool


@dataclass(frozen=True, slots=True)
class Photo:
    """The bytes of a photo's file as they were sent. Width and height are those of the upright image, in pixels."""

    data: bytes = field(repr=False)
    sha256: str  # of `data`, in hexadecimal; the catalogue stores it as given and checks it when the photo is read
    width: int
    height: int
    format: str


@dataclass(frozen=True, slots=True)
class Put:
    """Adds an item, or replaces the item with the same id.

    `photo` None keeps the photo that the item has. `vectors` are the photo's embeddings, float32 of shape (D,), by the
    id of the model that made each; those that the catalogue has already stay. A photo without a vector of some model is
    found by `Catalogue.missing_vectors`.
    """

    id: str
    category: str
    metadata: Mapping[str, MetadataValue]
    photo: Photo | None
    vectors: Mapping[str, NDArray[np.float32]] = field(compare=False, default_factory=dict)


@dataclass(frozen=True, slots=True)
class Delete:
    """Removes an item."""

    id: str


Change = Put | Delete


class Outcome(enum.Enum):
    """What a change did."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Entry:
    """One version of an item, as the index needs it. Never edited: an update makes a new entry with a new `seq`."""

    seq: int
    id: str
    category: str
    metadata: Mapping[str, MetadataValue]
    image_sha256: str


@dataclass(frozen=True, slots=True)
class Applied:
    """A change that is durable.

    `seq` is its place in the order of all changes (of an unchanged item: the place it has). `entry` is the item as it
    is now, None once deleted. `vectors` are the embeddings of its photo, by model: of those models that were asked for,
    and that the put brought vectors of, the ones that the catalogue has.
    """

    seq: int
    outcome: Outcome
    id: str
    entry: Entry | None
    vectors: Mapping[str, NDArray[np.float32]] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class EntryChunk:
    """Some live entries in the order of `seq`, with the vectors that one model made of their photos.

    `present` (n,) says which entries have a vector; `vectors` (m, D) holds those, in the order of the entries.
    """

    entries: list[Entry]
    present: NDArray[np.bool_]
    vectors: NDArray[np.float32]

    def __iter__(self) -> Iterator[tuple[Entry, NDArray[np.float32] | None]]:
        """Each entry with its vector, or None."""
        rows = iter(self.vectors)
        for entry, present in zip(self.entries, self.present, strict=True):
            yield entry, next(rows) if present else None


@dataclass(frozen=True, slots=True)
class StoredItem:
    """All that is known of an item, without its photo's bytes. `updated_at` is in Unix seconds."""

    id: str
    category: str
    metadata: Mapping[str, MetadataValue]
    seq: int
    updated_at: float
    image_sha256: str
    image_bytes: int
    width: int
    height: int
    format: str


@dataclass(frozen=True, slots=True)
class CategoryCount:
    """A category that has items, and how many."""

    name: str
    items: int


@dataclass(frozen=True, slots=True)
class Totals:
    """What the catalogue holds. `categories` are those with items; `last_seq` is the last change, 0 before any."""

    items: int
    categories: int
    photos: int
    photo_bytes: int
    last_seq: int


def encode_metadata(metadata: Mapping[str, MetadataValue]) -> str:
    """The one text of a metadata map: equal maps give equal texts, and 1.0, true and "1" stay three values.

    Errors: ValueError for a number that is not finite, TypeError for a value of another type.
    """
    if not metadata:
        return "{}"
    plain = {key: _plain(value) for key, value in metadata.items()}
    return json.dumps(plain, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def decode_metadata(text: str) -> dict[str, MetadataValue]:
    """Reads what `encode_metadata` wrote."""
    if text == "{}":  # most items of most shops; a hundred thousand calls of the parser are worth saving
        return {}
    decoded: dict[str, MetadataValue] = json.loads(text)
    return decoded


def _plain(value: MetadataValue) -> MetadataValue:
    if isinstance(value, (str, bool)):
        return value
    return float(value)  # an int given by a caller in Python is the same number as what the wire sends


def encode_vector(vector: NDArray[np.float32]) -> bytes:
    """float32 (D,) as little-endian bytes."""
    return np.ascontiguousarray(vector, dtype="<f4").tobytes()


def decode_vector(blob: bytes) -> NDArray[np.float32]:
    """Reads what `encode_vector` wrote; the array is read-only."""
    return np.frombuffer(blob, dtype="<f4")
