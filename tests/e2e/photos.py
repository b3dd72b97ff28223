"""Photos for tests that need many different ones, and no catalogue beside the checkout."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image

from tests.indexer.image_files import png_bomb

_CELLS = 8


def upright(seed: int, width: int = 96, height: int = 96) -> Image.Image:
    """Patches of colour, smoothly blended; the same seed gives the same pixels, another seed quite another photo."""
    cells = np.random.default_rng(seed).integers(0, 256, (_CELLS, _CELLS, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)


@functools.cache
def photo(seed: int) -> bytes:
    """`upright(seed)` as the bytes of a JPEG."""
    file = io.BytesIO()
    upright(seed).save(file, "JPEG", quality=90)
    return file.getvalue()


@functools.cache
def slow_photo() -> bytes:
    """A small file of 12 million pixels, within all limits: keeps a worker busy for longer than fifty others do."""
    return png_bomb(3500, 3500)
