"""Folders of small photos, a folder for each category."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from tests.indexer.image_files import saved


def photo(seed: int, width: int = 40, height: int = 30) -> bytes:
    """A JPEG of coarse noise, another for each seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return saved(Image.fromarray(noise).resize((width, height)), "JPEG")


def make(folder: Path, counts: Mapping[str, int]) -> Path:
    """So many photos in each category."""
    for number, (category, count) in enumerate(counts.items()):
        (folder / category).mkdir(parents=True)
        for i in range(count):
            (folder / category / f"{category}_{i:03d}.jpg").write_bytes(photo(1000 * number + i))
    return folder
