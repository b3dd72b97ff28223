"""Vectors for tests of the index."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """The same directions, of unit length."""
    scaled: NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)
    return scaled


def clustered(count: int, dimension: int, clusters: int, seed: int = 0, spread: float = 0.5) -> NDArray[np.float32]:
    """`count` unit vectors around `clusters` random directions, as an embedding of categories gives them."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((clusters, dimension), np.float32)
    noise = rng.standard_normal((count, dimension), np.float32)
    return unit(centres[rng.integers(0, clusters, count)] + spread * noise)
