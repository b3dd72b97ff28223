"""The photos that the demo tells its story with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
HOLD_OUT_EVERY = 5  # every fifth photo of a category is kept back as a query
_FIRST_SHARE = 0.6  # of the categories come first, the others are new ones


@dataclass(frozen=True)
class Photo:
    """A photo on disk and what it shows."""

    path: Path
    category: str

    @property
    def id(self) -> str:
        return f"{self.category}/{self.path.name}"


@dataclass(frozen=True)
class Group:
    """Categories that come together: photos for the gallery, and photos kept back as queries."""

    name: str
    gallery: Sequence[Photo]
    queries: Sequence[Photo]

    @property
    def categories(self) -> int:
        return len({photo.category for photo in self.gallery})


def read_folder(folder: Path) -> list[Photo]:
    """The photos of a folder that has one folder per category. Errors: ValueError when there are none."""
    photos = [
        Photo(path, path.parent.name)
        for path in sorted(folder.glob("*/*"))
        if path.suffix.lower() in SUFFIXES and path.is_file()
    ]
    if not photos:
        raise ValueError(f"{folder} holds no photos: one folder per category is expected, with image files in it")
    return photos


def hold_out(photos: Sequence[Photo]) -> tuple[list[Photo], list[Photo]]:
    """Splits into gallery and queries: every fifth photo of a category is a query."""
    seen: Counter[str] = Counter()
    gallery: list[Photo] = []
    queries: list[Photo] = []
    for photo in photos:
        seen[photo.category] += 1
        (gallery if seen[photo.category] % HOLD_OUT_EVERY else queries).append(photo)
    return gallery, queries


def first_and_new(photos: Sequence[Photo]) -> tuple[Group, Group]:
    """The categories that are there at first, and those that come later, in the order of their names.

    Errors: ValueError when either would have fewer than two categories, or none with a photo to keep back.
    """
    names = sorted({photo.category for photo in photos})
    count = round(_FIRST_SHARE * len(names))
    groups = []
    for name, chosen in (("first categories", set(names[:count])), ("new categories", set(names[count:]))):
        group = Group(name, *hold_out([photo for photo in photos if photo.category in chosen]))
        if len(chosen) < 2 or not group.queries:
            raise ValueError(
                f"the {name} are {len(chosen)}, with {len(group.queries)} photos to keep back: the demo needs two"
                f" categories each, of {HOLD_OUT_EVERY} photos"
            )
        groups.append(group)
    return groups[0], groups[1]
