"""The photos that a stage's training may read: its own, and no others (promise 5)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image

from indexer.errors import ImageUnreadable, InvalidField, InvalidInput
from indexer.images import ACCEPTED, open_rgb

Source: TypeAlias = bytes | Path  # an encoded photo, or the file that holds one


@dataclass(frozen=True, slots=True)
class TrainingStage:
    """The only photos handed to a method: those of one stage's categories.

    It holds names, numbers, bytes and paths, each rebuilt here as the plain built-in type, and nothing else: no
    catalogue, no protocol, no function that could lead to the photos of another stage.

    Errors: InvalidField when there are fewer than two categories or a category has fewer than two photos, since then
    there are no negatives or no positives.
    """

    number: int  # of the stage, 0 for the first
    categories: tuple[str, ...]  # C names
    photos: tuple[Source, ...] = field(repr=False)  # N
    labels: tuple[int, ...] = field(repr=False)  # N, each an index into `categories`

    def __post_init__(self) -> None:
        plain = {
            "number": int(self.number),
            "categories": tuple(str(name) for name in self.categories),
            "photos": tuple(bytes(photo) if isinstance(photo, bytes) else Path(photo) for photo in self.photos),
            "labels": tuple(int(label) for label in self.labels),
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        if len(self.labels) != len(self.photos):
            raise ValueError(f"{len(self.photos)} photos have {len(self.labels)} labels")
        if any(not 0 <= label < len(self.categories) for label in self.labels):
            raise ValueError(f"labels must be 0 to {len(self.categories) - 1}, one for each category")
        if len(self.categories) < 2:
            raise InvalidField(
                f"stage {self.number} has too few categories to learn to tell apart",
                field="categories",
                got=self.categories,
                expected="at least 2",
            )
        counts = np.bincount(self.labels, minlength=len(self.categories))
        for category, count in zip(self.categories, counts.tolist(), strict=True):
            if count < 2:
                raise InvalidField(
                    f"category {category!r} has too few photos for training",
                    field="photos",
                    got=count,
                    expected="at least 2",
                )

    def __len__(self) -> int:
        return len(self.photos)

    def name(self, index: int) -> str:
        """What messages call a photo: its file, or its place in the stage."""
        photo = self.photos[index]
        return str(photo) if isinstance(photo, Path) else f"photo {index} of stage {self.number}"

    def read(self, index: int) -> bytes:
        """The encoded photo. Errors: ImageUnreadable when its file cannot be read."""
        photo = self.photos[index]
        if isinstance(photo, bytes):
            return photo
        try:
            return photo.read_bytes()
        except OSError as error:
            raise ImageUnreadable(
                f"{photo}: {error.strerror}", field="photos", got=error, expected="a file that can be read"
            ) from error

    def image(self, index: int, *, min_side: int | None = None) -> Image.Image:
        """The photo, decoded: upright RGB; see `indexer.images.open_rgb`.

        Errors: ImageUnreadable, ImageTooLarge, with the photo's name.
        """
        data = self.read(index)
        with naming(self.name(index)):
            return open_rgb(data, ACCEPTED, min_side=min_side)[0]


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """Puts a photo's name before the message of what is wrong with it."""
    try:
        yield
    except InvalidInput as error:
        raise type(error)(f"{name}: {error.message}", field="photos", got=error.got, expected=error.expected) from error
