"""Photos of a folder, as pixels for a network; and rendered stand-ins for when there are none."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from indexer.errors import InvalidField, InvalidInput
from indexer.images import preprocess
from indexer.model import Preprocessing

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


def find(folder: Path) -> list[Path]:
    """The photos below `folder`, by the endings of their names, in the order of their paths.

    Errors: InvalidField when there is none.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    if not paths:
        raise InvalidField(
            f"no photos below {folder}",
            field="photos",
            got="an empty folder" if folder.is_dir() else "no such folder",
            expected="a folder with photos",
        )
    return paths


def sample(paths: list[Path], count: int, generator: torch.Generator) -> list[Path]:
    """At most `count` of `paths`, drawn at random: a folder's first photos would be all of its first categories."""
    return [paths[i] for i in torch.randperm(len(paths), generator=generator)[:count].tolist()]


def batches(paths: Iterable[Path], preprocessing: Preprocessing, size: int = 32) -> Iterator[Tensor]:
    """uint8 images (N, S, S, 3), N at most `size`.

    Errors: those of `preprocess`, with the file's name; OSError.
    """
    paths = iter(paths)
    while chunk := list(itertools.islice(paths, size)):
        yield torch.stack([_pixels(path, preprocessing) for path in chunk])


def _pixels(path: Path, preprocessing: Preprocessing) -> Tensor:
    try:
        return torch.from_numpy(preprocess(path.read_bytes(), preprocessing)[0])
    except InvalidInput as error:
        raise type(error)(f"{path}: {error.message}", field="photos", got=error.got, expected=error.expected) from error


def rendered(count: int, image_size: int, generator: torch.Generator) -> Tensor:
    """uint8 images (N, S, S, 3) with structure at every scale, as photos have: noise at doubling resolutions, summed"""
    image = torch.zeros(count, 3, image_size, image_size)
    side = 1
    while side < image_size:
        noise = torch.randn(count, 3, side, side, generator=generator)
        image += functional.interpolate(noise, size=(image_size, image_size), mode="bilinear") / side**0.5
        side *= 2
    return (image.sigmoid() * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
