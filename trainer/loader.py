"""Batches for training: drawn, decoded and augmented in threads while the step before runs.

What batch t holds follows from the stage, the settings, the seed and t. How many threads there are, which of them is
first, what is cached, and where training began make no difference to a bit of it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from indexer.images import ACCEPTED, preprocess
from indexer.model import Preprocessing
from trainer.augment import Augmentation
from trainer.lookahead import ahead
from trainer.sampling import PKSampler, generator
from trainer.training_data import TrainingStage, naming

_AUGMENTATION: Final = 1  # the first number of the keys of augmentation
_BYTES_PER_PIXEL: Final = 4  # of an RGB image in Pillow's memory


@dataclass(frozen=True, slots=True)
class Batch:
    """The photos of one step. Networks that need augmentation of their own take a view each."""

    step: int
    views: tuple[Tensor, ...]  # each uint8 (N, S, S, 3), of the same photos
    labels: Tensor  # int64 (N,), indices into the stage's categories

    @property
    def images(self) -> Tensor:
        """The first view: uint8 (N, S, S, 3)"""
        return self.views[0]


class Loader:
    """Makes the batches of one stage.

    Decoded photos, shrunk, are kept in memory up to `cache_bytes`; those beyond it are decoded each time.
    """

    def __init__(
        self,
        stage: TrainingStage,
        sampler: PKSampler,
        augmentation: Augmentation,
        *,
        seed: int,
        views: int = 1,  # random views of each photo in a batch
        cache_bytes: int = 512 << 20,
        pin_memory: bool = False,  # for copies to a GPU that do not wait
    ) -> None:
        if sampler.size != len(stage) or views < 1:
            raise ValueError(f"a sampler of {sampler.size} photos, {views} views, for a stage of {len(stage)} photos")
        self._sampler, self._augmentation, self._seed, self._views = sampler, augmentation, seed, views
        self._labels = torch.tensor(stage.labels)
        self._photos = _ShrunkPhotos(stage, augmentation, cache_bytes)
        self._pin_memory = pin_memory

    def batch(self, step: int) -> Batch:
        """The batch of that step, made at once in the caller's thread; safe to call in several.

        Errors: ImageUnreadable, ImageTooLarge, with the photo's name.
        """
        indices = self._sampler.batch(step)
        images = [self._photos[index] for index in indices.tolist()]
        views = tuple(self._pinned(torch.from_numpy(self._view(images, step, view))) for view in range(self._views))
        return Batch(step, views, self._pinned(self._labels[torch.from_numpy(indices)]))

    def ahead(
        self, steps: Iterable[int], *, workers: int = 2, depth: int = 4
    ) -> contextlib.AbstractContextManager[Iterator[Batch]]:
        """`with loader.ahead(range(begin, end)) as batches:` iterates over the batches of `steps`, in order.

        At most `depth` batches are made ahead, by `workers` threads. Errors: those of `batch`, at its turn.
        """
        return ahead(self.batch, steps, workers=workers, depth=depth)

    def _view(self, images: list[Image.Image], step: int, view: int) -> NDArray[np.uint8]:
        side = self._augmentation.image_size
        pixels = np.empty((len(images), side, side, 3), np.uint8)
        for position, image in enumerate(images):
            draw = generator(self._seed, _AUGMENTATION, step, position, view)
            pixels[position] = self._augmentation.view(image, draw)
        return pixels

    def _pinned(self, tensor: Tensor) -> Tensor:
        return tensor.pin_memory() if self._pin_memory else tensor


def in_order(
    stage: TrainingStage, preprocessing: Preprocessing, *, size: int = 64, workers: int = 2, depth: int = 4
) -> contextlib.AbstractContextManager[Iterator[Batch]]:
    """`with in_order(...) as batches:` iterates over all photos once, as serving sees them, `size` at a time.

    Prototypes come from these. `Batch.step` is the batch's number.

    Errors: ImageUnreadable, ImageTooLarge, with the photo's name.
    """

    def batch(number: int) -> Batch:
        indices = range(number * size, min((number + 1) * size, len(stage)))
        images = np.stack([_centre(stage, index, preprocessing) for index in indices])
        labels = [stage.labels[index] for index in indices]
        return Batch(number, (torch.from_numpy(images),), torch.tensor(labels))

    return ahead(batch, range(-(-len(stage) // size)), workers=workers, depth=depth)


def _centre(stage: TrainingStage, index: int, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    data = stage.read(index)
    with naming(stage.name(index)):
        return preprocess(data, preprocessing, ACCEPTED)[0]


class _ShrunkPhotos:
    """The photos of a stage, decoded and shrunk, by their index. Kept in memory as long as there is room."""

    def __init__(self, stage: TrainingStage, augmentation: Augmentation, cache_bytes: int) -> None:
        self._stage, self._augmentation = stage, augmentation
        self._kept: list[Image.Image | None] = [None] * len(stage)
        self._room = cache_bytes
        self._lock = threading.Lock()  # of what is kept and of the room that is left

    def __getitem__(self, index: int) -> Image.Image:
        """Not to be changed: every step shares it."""
        kept = self._kept[index]
        return kept if kept is not None else self._decoded(index)

    def _decoded(self, index: int) -> Image.Image:
        # Two threads may decode the same photo at the same time, to the same pixels; that is rare, and harmless.
        decoded = self._stage.image(index, min_side=self._augmentation.resize_size)
        image = self._augmentation.shrink(decoded)
        size = image.width * image.height * _BYTES_PER_PIXEL
        with self._lock:
            if self._kept[index] is None and size <= self._room:
                self._kept[index] = image
                self._room -= size
        return image
