"""The demo's catalogue: product photos rendered from nothing but a seed.

Categories are numbered without end. What category 7 is, and what its photo 3 shows, depends on the seed and on those
two numbers alone: a catalogue can grow by categories and by photos without changing what is there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from clients.demo import goods, vessels
from clients.demo.design import Family, Traits, traits_of
from clients.demo.mesh import Mesh
from clients.demo.photo import take

Progress = Callable[[int, int], None]

_FAMILIES = tuple(family for pair in zip(vessels.FAMILIES, goods.FAMILIES, strict=False) for family in pair)
FAMILIES: tuple[Family, ...] = _FAMILIES + tuple(f for f in vessels.FAMILIES if f not in _FAMILIES)

_TRAITS, _PHOTO, _JPEG = range(3)  # what a number is drawn for, so that no two draws share their seed


def category_name(category: int, seed: int = 0) -> str:
    """The folder of a category: its number, its family, and the colour that one would call it by."""
    family, traits = _product(category, seed)
    colour = next(traits.shade(name) for name in ("body", "filling", "seat", "strap") if name in traits.values)
    return f"{category:03d}-{colour}-{family.name}"


def render_photo(category: int, photo: int, seed: int = 0, *, size: int = 256) -> Image.Image:
    """Photo number `photo` of a category (both from 0, without end), size x size pixels, RGB."""
    if min(category, photo) < 0:
        raise ValueError(f"categories and photos count from 0: got category {category}, photo {photo}")
    family, _ = _product(category, seed)
    return take(_mesh(category, seed), family, np.random.default_rng([seed, _PHOTO, category, photo]), size)


def render_category(out: Path, category: int, photos: range, seed: int = 0, *, size: int = 256) -> list[Path]:
    """Writes the photos of one category to out/<category_name>/<nnn>.jpg; returns the files."""
    folder = out / category_name(category, seed)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for photo in photos:
        file = folder / f"{photo:03d}.jpg"
        quality = int(np.random.default_rng([seed, _JPEG, category, photo]).integers(55, 96))
        render_photo(category, photo, seed, size=size).save(file, quality=quality)
        files.append(file)
    return files


def render_catalogue(
    out: Path,
    *,
    categories: int = 40,
    photos: int = 20,
    size: int = 256,
    seed: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Writes `photos` photos of each of the categories 0 to `categories` - 1 and returns `out`.

    Runs on every core. `progress` is called with the photos written so far and their total. A catalogue that was cut
    off is completed by rendering it again: the same files with the same bytes.
    """
    workers = max(1, min(os.cpu_count() or 1, categories))
    render = partial(_render_numbered, out=out, photos=range(photos), seed=seed, size=size)
    # Fresh processes, not forks: the caller may hold threads and gRPC channels.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for done, _ in enumerate(pool.map(render, range(categories)), start=1):
            if progress is not None:
                progress(done * photos, categories * photos)
    return out


def _render_numbered(category: int, *, out: Path, photos: range, seed: int, size: int) -> int:
    return len(render_category(out, category, photos, seed, size=size))


def _product(category: int, seed: int) -> tuple[Family, Traits]:
    place, number = divmod(category, len(FAMILIES))
    return FAMILIES[number], traits_of(FAMILIES[number], place, [seed, _TRAITS, number])


@lru_cache(maxsize=8)
def _mesh(category: int, seed: int) -> Mesh:
    family, traits = _product(category, seed)
    return Mesh.of(family.build(traits))
