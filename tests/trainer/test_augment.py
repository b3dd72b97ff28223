"""Augmentation."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from indexer.images import preprocess
from indexer.model import Preprocessing
from tests.indexer.image_files import saved
from tests.trainer.photo_folders import photo
from trainer.augment import Augmentation, random_box

SCALE, RATIO = (0.16, 1.0), (3 / 4, 4 / 3)


def image(width: int = 60, height: int = 45) -> Image.Image:
    return Image.open(io.BytesIO(photo(1, width, height))).convert("RGB")


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("width", "height"), [(146, 146), (200, 146), (146, 500), (1, 1), (3, 2000)], ids=str)
def test_a_box_lies_inside_the_photo(width: int, height: int) -> None:
    for seed in range(200):
        left, top, right, bottom = random_box(width, height, SCALE, RATIO, draw(seed))
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height


def test_boxes_have_the_papers_areas_and_ratios() -> None:
    boxes = np.array([random_box(100, 100, SCALE, RATIO, draw(seed)) for seed in range(4000)])
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, ratio = w * h / 10_000, w / h
    assert 0.16 - 1e-9 <= area.min() < 0.17
    assert 0.95 < area.max() <= 1
    assert 3 / 4 - 1e-9 <= ratio.min() < 0.76
    assert 1.31 < ratio.max() <= 4 / 3 + 1e-9
    small = area < 0.5  # none of these is refused for not fitting, so they are uniform
    assert np.quantile(area[small], 0.5) == pytest.approx(0.33, abs=0.02)
    assert np.quantile(np.log(ratio[small]), 0.5) == pytest.approx(0, abs=0.03)
    assert np.corrcoef(boxes[small, 0], boxes[small, 1])[0, 1] == pytest.approx(0, abs=0.15)


@pytest.mark.parametrize(
    ("width", "height", "box"),
    [(1000, 10, (500 - 20 / 3, 0, 500 + 20 / 3, 10)), (10, 1000, (0, 500 - 20 / 3, 10, 500 + 20 / 3))],
    ids=["wide", "tall"],
)
def test_a_photo_that_no_box_fits_gives_the_largest_centred_one(
    width: int, height: int, box: tuple[float, float, float, float]
) -> None:
    assert random_box(width, height, (0.9, 1.0), RATIO, draw()) == pytest.approx(box)


def test_a_view_follows_from_the_photo_and_the_generator_alone() -> None:
    augmentation = Augmentation(32)
    views = [augmentation.view(image(), draw(seed)) for seed in (4, 4, 5)]
    assert views[0].shape == (32, 32, 3)
    assert views[0].dtype == np.uint8
    assert np.array_equal(views[0], views[1])
    assert not np.array_equal(views[0], views[2])


def test_a_flip_mirrors_left_and_right() -> None:
    plain = Augmentation(32, flip=0.0).view(image(), draw(2))
    assert np.array_equal(Augmentation(32, flip=1.0).view(image(), draw(2)), plain[:, ::-1])


def test_half_of_the_views_are_flipped() -> None:
    slope = Image.fromarray(np.tile(np.arange(64, dtype=np.uint8)[None, :, None] * 4, (64, 1, 3)))
    flipped = [
        bool(view[0, 0, 0] > view[0, -1, 0]) for s in range(400) for view in [Augmentation(8).view(slope, draw(s))]
    ]
    assert 160 < sum(flipped) < 240


def test_the_whole_photo_unflipped_is_what_serving_sees() -> None:
    whole = Augmentation(32, resize_size=32, scale=(1, 1), ratio=(1, 1), flip=0)
    square = image(90, 90)
    served, _ = preprocess(saved(square, "PNG"), Preprocessing(32, 32))
    assert np.array_equal(whole.view(whole.shrink(square), draw()), served)


@pytest.mark.parametrize(
    ("size", "shrunk"),
    [((600, 400), (56, 37)), ((400, 600), (37, 56)), ((37, 99), (37, 99)), ((20, 10), (20, 10))],
    ids=["wide", "tall", "as wanted", "smaller"],
)
def test_the_shorter_side_shrinks_to_the_papers_ratio_of_the_crop(
    size: tuple[int, int], shrunk: tuple[int, int]
) -> None:
    assert Augmentation(32).resize_size == 37
    assert Augmentation(32).shrink(image(*size)).size == shrunk


def test_the_papers_sizes_are_the_default() -> None:
    assert (Augmentation().image_size, Augmentation().resize_size) == (224, 256)


@pytest.mark.parametrize(
    "bad",
    [
        {"image_size": 0},
        {"image_size": 64, "resize_size": 32},
        {"scale": (0.0, 1.0)},
        {"scale": (0.5, 0.2)},
        {"scale": (0.5, 1.5)},
        {"ratio": (0.0, 1.0)},
        {"flip": 1.5},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="got"):
        Augmentation(**bad)
