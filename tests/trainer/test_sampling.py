"""P x K sampling."""

from __future__ import annotations

import numpy as np
import pytest

from indexer.errors import InvalidField
from trainer.sampling import PKSampler, generator

LABELS = [category for category in range(20) for _ in range(8)]


@pytest.mark.parametrize("step", [0, 1, 1000])
def test_a_batch_is_k_different_photos_of_each_of_p_categories(step: int) -> None:
    batch = PKSampler(LABELS, seed=3, p=6, k=5).batch(step)
    categories, counts = np.unique(np.asarray(LABELS)[batch], return_counts=True)
    assert len(categories) == 6
    assert set(counts) == {5}
    assert len(set(batch.tolist())) == 30


def test_a_categorys_photos_stand_together() -> None:
    labels = np.asarray(LABELS)[PKSampler(LABELS, seed=3, p=6, k=5).batch(0)]
    assert (labels.reshape(6, 5) == labels[::5, None]).all()


@pytest.mark.parametrize(("photos", "k"), [(2, 5), (3, 5), (4, 5), (5, 5), (2, 4), (1, 3)])
def test_a_small_category_repeats_its_photos_evenly(photos: int, k: int) -> None:
    labels = [0] * photos + [1] * 9
    sampler = PKSampler(labels, seed=0, p=2, k=k)
    for step in range(10):
        batch = sampler.batch(step)
        times = np.bincount(batch[batch < photos], minlength=photos)
        assert times.sum() == k
        assert times.max() - times.min() <= 1


def test_fewer_than_p_categories_make_a_smaller_batch_of_all_of_them() -> None:
    labels = np.repeat([7, 8, 9], 6)
    batch = PKSampler(labels.tolist(), seed=0, p=16, k=5).batch(4)
    assert sorted(labels[batch]) == sorted([7, 8, 9] * 5)


def test_every_photo_has_its_turn_and_none_more_than_others() -> None:
    sampler = PKSampler(LABELS, seed=11, p=5, k=2)
    times = np.bincount(np.concatenate([sampler.batch(step) for step in range(3200)]), minlength=160)
    assert abs(times.mean() - 200) < 1e-9
    assert times.min() > 140
    assert times.max() < 260


def test_a_batch_follows_from_seed_and_step_alone() -> None:
    one, other = PKSampler(LABELS, seed=5), PKSampler(LABELS, seed=5)
    in_order = [one.batch(step) for step in range(6)]
    for step in (5, 0, 3):
        assert np.array_equal(other.batch(step), in_order[step])
    assert not np.array_equal(in_order[0], in_order[1])
    assert not np.array_equal(PKSampler(LABELS, seed=6).batch(0), in_order[0])


def test_batches_stay_the_same_from_release_to_release() -> None:
    assert PKSampler([0, 0, 0, 1, 1, 1, 2, 2], seed=1, p=2, k=2).batch(7).tolist() == [4, 5, 2, 1]


@pytest.mark.parametrize("keys", [((0, 1), (1, 0)), ((1,), (1, 0)), ((2, 3), (2, 4))], ids=str)
def test_other_keys_give_other_random_numbers(keys: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    first, second = (generator(9, *key).random(8) for key in keys)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("labels", "sizes", "field"),
    [
        ([0, 0, 0], {}, "labels"),
        ([], {}, "labels"),
        (LABELS, {"p": 1}, "p"),
        (LABELS, {"k": 1}, "k"),
        (LABELS, {"k": -3}, "k"),
    ],
    ids=["one category", "no photo", "one category a batch", "one photo a category", "negative"],
)
def test_batches_without_positives_or_negatives_are_refused(
    labels: list[int], sizes: dict[str, int], field: str
) -> None:
    with pytest.raises(InvalidField) as error:
        PKSampler(labels, seed=0, **sizes)
    assert error.value.field == field
    assert "at least 2" in error.value.expected
