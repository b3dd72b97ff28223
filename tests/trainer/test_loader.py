"""Batches for training."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from indexer.errors import ImageUnreadable
from indexer.images import preprocess
from indexer.model import Preprocessing
from tests.trainer import photo_folders
from trainer import protocol
from trainer.augment import Augmentation
from trainer.loader import Batch, Loader, in_order
from trainer.sampling import PKSampler
from trainer.training_data import TrainingStage

PHOTOS = tuple(photo_folders.photo(i) for i in range(24))
LABELS = tuple(i // 4 for i in range(24))
STAGE = TrainingStage(0, tuple("abcdef"), PHOTOS, LABELS)


def loader(
    stage: TrainingStage = STAGE, *, seed: int = 1, views: int = 1, cache_bytes: int = 1 << 20, size: int = 16
) -> Loader:
    sampler = PKSampler(stage.labels, seed=seed, p=4, k=3)
    return Loader(stage, sampler, Augmentation(size), seed=seed, views=views, cache_bytes=cache_bytes)


def equal(one: Batch, other: Batch) -> bool:
    same = one.step == other.step and torch.equal(one.labels, other.labels)
    return same and all(torch.equal(a, b) for a, b in zip(one.views, other.views, strict=True))


def test_a_batch_holds_the_sampled_photos_pixels_and_labels() -> None:
    batch = loader().batch(5)
    assert batch.step == 5
    assert (batch.images.shape, batch.images.dtype) == ((12, 16, 16, 3), torch.uint8)
    assert batch.labels.tolist() == [LABELS[i] for i in PKSampler(LABELS, seed=1, p=4, k=3).batch(5)]


@pytest.mark.parametrize(("workers", "depth"), [(1, 1), (2, 4), (6, 9)], ids=str)
def test_threads_change_neither_order_nor_content(workers: int, depth: int) -> None:
    expected = [loader().batch(step) for step in range(12)]
    with loader().ahead(range(12), workers=workers, depth=depth) as batches:
        assert all(equal(a, b) for a, b in zip(batches, expected, strict=True))


def test_training_resumes_at_any_step_to_the_bit() -> None:
    with loader().ahead(range(10)) as batches:
        through = list(batches)
    with loader().ahead(range(6, 10)) as batches:
        assert all(equal(a, b) for a, b in zip(batches, through[6:], strict=True))


@pytest.mark.parametrize("cache_bytes", [0, 3000, 20_000], ids=["nothing", "one photo", "some photos"])
def test_what_is_kept_in_memory_changes_no_bit(cache_bytes: int) -> None:
    bounded, whole = loader(cache_bytes=cache_bytes), loader()
    for step in (*range(4), *range(4)):
        assert equal(bounded.batch(step), whole.batch(step))


@pytest.mark.parametrize(("cache_bytes", "decodes"), [(1 << 20, 24), (0, 24 * 3)], ids=["room", "no room"])
def test_a_photo_that_has_room_is_decoded_once(cache_bytes: int, decodes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    read = TrainingStage.read

    def counted(stage: TrainingStage, index: int) -> bytes:
        reads.append(index)
        return read(stage, index)

    monkeypatch.setattr(TrainingStage, "read", counted)
    everything = Loader(STAGE, PKSampler(LABELS, seed=0, p=6, k=4), Augmentation(16), seed=0, cache_bytes=cache_bytes)
    for step in range(3):
        everything.batch(step)
    assert len(reads) == decodes


def test_views_are_of_the_same_photos_and_differ() -> None:
    both = loader(views=2).batch(0)
    assert len(both.views) == 2
    assert not torch.equal(both.views[0], both.views[1])
    assert torch.equal(both.views[0], loader(views=1).batch(0).images)
    whole = Augmentation(16, scale=(1, 1), ratio=(4 / 3, 4 / 3), flip=0)
    one, other = Loader(STAGE, PKSampler(LABELS, seed=1), whole, seed=1, views=2).batch(0).views
    assert torch.equal(one, other)


def test_a_photo_is_augmented_anew_at_each_place_and_step() -> None:
    few = TrainingStage(0, ("a", "b"), PHOTOS[:2] + PHOTOS[4:6], (0, 0, 1, 1))
    batches = [Loader(few, PKSampler(few.labels, seed=1, k=4), Augmentation(16), seed=1).batch(step) for step in (0, 1)]
    pixels = torch.cat([batch.images.flatten(1) for batch in batches])
    assert len(torch.unique(pixels, dim=0)) == 16


def test_another_seed_gives_other_batches() -> None:
    assert not torch.equal(loader(seed=1).batch(0).images, loader(seed=2).batch(0).images)


def test_a_corrupt_photo_surfaces_at_its_turn_with_its_name_and_ends_the_threads(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(PHOTOS[0][:200])
    stage = TrainingStage(0, ("a", "b"), (*PHOTOS[:3], tmp_path / "bad.jpg"), (0, 0, 1, 1))
    with pytest.raises(ImageUnreadable, match=r"bad\.jpg: "), loader(stage).ahead(range(9), workers=3) as batches:
        list(batches)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


@pytest.mark.parametrize("size", [5, 24, 100], ids=str)
def test_photos_in_order_are_as_serving_sees_them(size: int) -> None:
    spec = Preprocessing(16, 18)
    with in_order(STAGE, spec, size=size) as batches:
        made = list(batches)
    assert [len(batch.labels) for batch in made[:-1]] == [size] * (len(made) - 1)
    assert torch.cat([batch.labels for batch in made]).tolist() == list(LABELS)
    expected = np.stack([preprocess(photo, spec)[0] for photo in PHOTOS])
    assert np.array_equal(torch.cat([batch.images for batch in made]).numpy(), expected)


@pytest.mark.parametrize(
    ("labels", "views"), [(LABELS[:8], 1), (LABELS, 0)], ids=["another stage's sampler", "no view"]
)
def test_parts_that_do_not_fit_are_a_mistake_of_the_caller(labels: tuple[int, ...], views: int) -> None:
    with pytest.raises(ValueError, match="stage of 24 photos"):
        Loader(STAGE, PKSampler(labels, seed=0), Augmentation(16), seed=0, views=views)


def test_real_photos_make_batches(cub: Path) -> None:
    stage = protocol.build(cub, [4, 4]).training(1)
    with loader(stage, size=64).ahead(range(3)) as batches:
        made = list(batches)
    assert all(batch.images.shape == (12, 64, 64, 3) and 20 < batch.images.float().std() < 120 for batch in made)
