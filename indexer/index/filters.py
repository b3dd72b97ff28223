"""What a query may ask of an item's category and metadata, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

MetadataValue: TypeAlias = str | float | bool


def kind_of(value: MetadataValue) -> type:
    """The type that counts: bool, str, or float for every number."""
    return type(value) if isinstance(value, bool | str) else float


@dataclass(frozen=True)
class AnyOf:
    """The item's value of `key` is one of `values`. The type counts: 1.0 is neither True nor "1"."""

    key: str
    values: tuple[MetadataValue, ...]
    _kinds: tuple[type, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Compared and hashed with the rest, because 1.0 == True in Python, and equal filters are searched as one.
        object.__setattr__(self, "_kinds", tuple(map(kind_of, self.values)))


@dataclass(frozen=True)
class Range:
    """The item's value of `key` is a number from `min` to `max`, both included; None leaves that end open."""

    key: str
    min: float | None = None
    max: float | None = None


@dataclass(frozen=True)
class Filter:
    """Matches an item when its category is one of `categories` (empty: any) and none of `exclude_categories`, and all
    `conditions` hold. An item without a condition's key does not match."""

    categories: frozenset[str] = frozenset()
    exclude_categories: frozenset[str] = frozenset()
    conditions: tuple[AnyOf | Range, ...] = ()

    def __bool__(self) -> bool:
        """Whether it asks for anything."""
        return bool(self.categories or self.exclude_categories or self.conditions)


EVERYTHING = Filter()
