"""Which photos make a batch: P categories times K photos, drawn from the seed and the step alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from indexer.errors import InvalidField


def generator(seed: int, *key: int) -> np.random.Generator:
    """Random numbers that follow from `seed` and `key` alone.

    With the step in the key, whatever a step draws can be drawn again without the steps before it: training resumes to
    the bit with no state of a generator to keep. Keys of different purposes begin with different numbers.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


class PKSampler:
    """Batches of K photos of each of P categories, as batch-hard losses need (Hermans et al., arXiv:1703.07737).

    Categories are drawn without replacement, and so are a category's photos. A category with fewer than K photos
    repeats them, each as often as any other to within one, so that two photos are always two different ones. Where
    there are fewer than P categories, all of them make a smaller batch.
    """

    def __init__(self, labels: Sequence[int], *, seed: int, p: int = 16, k: int = 5) -> None:
        """`labels` (N,): the category of each photo. Errors: InvalidField."""
        _at_least_two("p", p, "categories, to have negatives")
        _at_least_two("k", k, "photos of a category, to have positives")
        values = np.asarray(labels)
        self._photos = [np.flatnonzero(values == category) for category in np.unique(values)]
        _at_least_two("labels", len(self._photos), "categories, to have negatives")
        self.size = len(values)  # N
        self._seed, self._p, self._k = seed, min(p, len(self._photos)), k

    def batch(self, step: int) -> NDArray[np.int64]:
        """Indices of photos (min(P, categories) * K,), category by category."""
        draw = generator(self._seed, _SAMPLING, step)
        categories = draw.choice(len(self._photos), self._p, replace=False)
        return np.concatenate([self._of(self._photos[category], draw) for category in categories])

    def _of(self, photos: NDArray[np.int64], draw: np.random.Generator) -> NDArray[np.int64]:
        times, rest = divmod(self._k, len(photos))
        return np.concatenate([np.tile(photos, times), draw.choice(photos, rest, replace=False)])


_SAMPLING = 0  # the first number of the sampler's keys


def _at_least_two(field: str, value: int, what: str) -> None:
    if value < 2:
        raise InvalidField(f"{field}: {value} is too few", field=field, got=value, expected=f"at least 2 {what}")
