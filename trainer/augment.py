"""Augmentation as in the papers: shorter side resized, random resized crop, flip."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_FILTER: Final = Image.Resampling.HAMMING  # that of indexer.images.preprocess, so that training sees what serving does
_TRIES: Final = 10


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Random views of photos for training, at `image_size` pixels a side.

    The papers resize the shorter side to 256 and crop 224; other sizes keep that ratio unless `resize_size` is given.
    """

    image_size: int = 224
    resize_size: int = field(default=0)  # pixels of the shorter side; 0: image_size * 256 / 224
    scale: tuple[float, float] = (0.16, 1.0)  # of the photo's area
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width over height
    flip: float = 0.5  # probability

    def __post_init__(self) -> None:
        if not self.resize_size:
            object.__setattr__(self, "resize_size", round(self.image_size * 256 / 224))
        if not 1 <= self.image_size <= self.resize_size:
            raise ValueError(f"image_size must be at least 1 and at most resize_size, got {self}")
        if not (0 < self.scale[0] <= self.scale[1] <= 1 and 0 < self.ratio[0] <= self.ratio[1] and 0 <= self.flip <= 1):
            raise ValueError(f"scale lies in 0 to 1, ratio above 0, both in order, flip in 0 to 1; got {self}")

    def shrink(self, image: Image.Image) -> Image.Image:
        """The photo with a shorter side of `resize_size`; a smaller one as it is, for the crop enlarges it at once.

        This part draws no random numbers, so its result can be kept.
        """
        width, height = image.size
        factor = self.resize_size / min(width, height)
        if factor >= 1:
            return image
        return image.resize((round(width * factor), round(height * factor)), _FILTER, reducing_gap=3.0)

    def view(self, image: Image.Image, draw: np.random.Generator) -> NDArray[np.uint8]:
        """A random view of a photo that `shrink` made: pixels (S, S, 3), RGB, uint8."""
        box = random_box(*image.size, self.scale, self.ratio, draw)
        view = image.resize((self.image_size, self.image_size), _FILTER, box)
        pixels = np.asarray(view)
        return pixels[:, ::-1] if draw.random() < self.flip else pixels


def random_box(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], draw: np.random.Generator
) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a random resized crop (Szegedy et al., arXiv:1409.4842), in pixels.

    The area is uniform in `scale`, the logarithm of width over height uniform in that of `ratio`, the place uniform.
    After ten draws that do not fit: the largest centred box whose ratio is allowed. These are torchvision's rules, but
    for its rounding to whole pixels.
    """
    for _ in range(_TRIES):
        area = width * height * draw.uniform(*scale)
        aspect = math.exp(draw.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if w <= width and h <= height:
            left, top = draw.uniform(0, width - w), draw.uniform(0, height - h)
            return left, top, min(left + w, width), min(top + h, height)
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, height * aspect), min(height, width / aspect)
    left, top = (width - w) / 2, (height - h) / 2
    return left, top, min(left + w, width), min(top + h, height)
