"""What a request may hold: the limits, and one check for each kind of field.

Each check returns nothing, or raises InvalidField with `field` (the path in the request, such as "item.id"), what was
got and what is expected. The checks read no state and change none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from indexer.catalogue.values import MetadataValue
from indexer.errors import InvalidField, InvalidVector

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")  # the Unicode category Cc


@dataclass(frozen=True)
class Limits:
    """What a request may hold. Bytes are of UTF-8."""

    max_id_bytes: int = 256
    max_category_bytes: int = 256
    max_metadata_keys: int = 64
    max_metadata_key_bytes: int = 128
    max_metadata_value_bytes: int = 2048
    max_k: int = 1000  # hits of one query
    max_batch: int = 64  # queries of one BatchSearch
    max_batch_get: int = 1000  # ids of one BatchGet


def check_id(id: str, limits: Limits, field: str = "id") -> None:
    """Errors: InvalidField when empty, too long, or with control characters."""
    _check_name(id, limits.max_id_bytes, field)


def check_ids(ids: Sequence[str], limits: Limits, field: str = "ids") -> None:
    """The ids of one BatchGet. Errors: InvalidField when they are too many, or one is no id."""
    check_count(len(ids), limits.max_batch_get, field)
    for position, id in enumerate(ids):
        check_id(id, limits, f"{field}[{position}]")


def check_category(category: str, limits: Limits, field: str = "category") -> None:
    """Errors: InvalidField when empty, too long, or with control characters."""
    _check_name(category, limits.max_category_bytes, field)


def check_metadata(metadata: Mapping[str, MetadataValue], limits: Limits, field: str = "metadata") -> None:
    """Errors: InvalidField for too many keys, a bad key, a text too long, a number not finite, or another type."""
    check_count(len(metadata), limits.max_metadata_keys, field)
    for key, value in metadata.items():
        at = f"{field}[{key!r}]"
        _check_name(key, limits.max_metadata_key_bytes, at)
        if isinstance(value, str):
            _check_length(value, limits.max_metadata_value_bytes, at)
        elif not isinstance(value, (bool, int, float)):
            raise InvalidField(
                "a metadata value has the wrong type",
                field=at,
                got=type(value).__name__,
                expected="text, number or bool",
            )
        elif not _is_finite(value):
            raise InvalidField("a metadata number is not finite", field=at, got=value, expected="a finite number")


def check_count(count: int, most: int, field: str) -> None:
    """The length of a list or a map. Errors: InvalidField above `most`."""
    if count > most:
        raise InvalidField(f"{field} has too many elements", field=field, got=count, expected=f"at most {most}")


def check_k(k: int, limits: Limits, field: str = "k") -> None:
    """How many hits. Errors: InvalidField unless 1 to `max_k`."""
    if not 1 <= k <= limits.max_k:
        raise InvalidField(f"{field} is out of range", field=field, got=k, expected=f"1 to {limits.max_k}")


def check_score(score: float, field: str = "min_score") -> None:
    """A cosine similarity. Errors: InvalidField unless -1 to 1."""
    if not -1.0 <= score <= 1.0:
        raise InvalidField(f"{field} is out of range", field=field, got=score, expected="-1 to 1")


def unit_vector(values: ArrayLike, dimension: int, field: str = "vector") -> NDArray[np.float32]:
    """`values` as float32 (dimension,) of unit length. Errors: InvalidVector: another length, NaN, infinity, zeros."""
    vector = np.asarray(values, dtype=np.float64)  # float32 would overflow in the square of a large number
    if vector.shape != (dimension,):
        raise InvalidVector(
            "the vector has the wrong length", field=field, got=vector.size, expected=f"{dimension} numbers"
        )
    if not np.isfinite(vector).all():
        position = int(np.flatnonzero(~np.isfinite(vector))[0])
        raise InvalidVector(
            "the vector has a number that is not finite",
            field=f"{field}[{position}]",
            got=float(vector[position]),
            expected="a finite number",
        )
    largest = float(np.abs(vector).max(initial=0.0))
    if largest == 0.0:
        raise InvalidVector("the vector is all zero", field=field, got="zeros", expected="a direction")
    vector = vector / largest  # neither the squares of the largest doubles nor of the smallest fit
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def _check_name(text: str, max_bytes: int, field: str) -> None:
    if not text:
        raise InvalidField(f"{field} is empty", field=field, got="", expected=f"1 to {max_bytes} bytes")
    _check_length(text, max_bytes, field)
    if found := _CONTROL.search(text):
        raise InvalidField(
            f"{field} has a control character",
            field=field,
            got=f"U+{ord(found.group()):04X} at position {found.start()}",
            expected="no control characters",
        )


def _check_length(text: str, max_bytes: int, field: str) -> None:
    try:
        length = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidField(
            f"{field} is no text in UTF-8",
            field=field,
            got=f"a lone surrogate at position {error.start}",
            expected="UTF-8",
        ) from None
    if length > max_bytes:
        raise InvalidField(
            f"{field} is too long", field=field, got=f"{length} bytes", expected=f"at most {max_bytes} bytes"
        )


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an int beyond the range of doubles
        return False
