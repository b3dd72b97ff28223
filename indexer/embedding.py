"""Embedding photos that the catalogue holds and that have no vector of some model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from indexer.catalogue import Catalogue
from indexer.encoder import Encoder
from indexer.errors import ItemNotFound
from indexer.images import ACCEPTED, preprocess

BATCH: Final = 32

Vectors = dict[str, NDArray[np.float32]]
"""By the SHA-256 of the photo."""


def embed(catalogue: Catalogue, encoder: Encoder, shas: Sequence[str]) -> Vectors:
    """The vectors of these photos; those that no item shows any more are left out.

    Errors: PhotoDamaged when a photo is not what was stored; ImageUnreadable, ImageTooLarge where Pillow decodes no
    longer what it once did.
    """
    pixels = {}
    for sha256 in shas:
        try:
            photo = catalogue.photo(sha256)
        except ItemNotFound:
            continue
        pixels[sha256] = preprocess(photo.data, encoder.manifest.preprocessing, ACCEPTED)[0]
    if not pixels:
        return {}
    return dict(zip(pixels, encoder.encode(np.stack(list(pixels.values()))), strict=True))


def embed_missing(
    catalogue: Catalogue,
    encoder: Encoder,
    store: Callable[[str, Vectors], object],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Embeds all photos that have no vector of this model, and hands them to `store` a batch at a time.

    `progress` hears how many are done, of how many; what it raises ends the work. Returns how many there were.
    """
    missing = list(catalogue.missing_vectors(encoder.manifest.id))
    for start in range(0, len(missing), BATCH):
        progress(start, len(missing))
        store(encoder.manifest.id, embed(catalogue, encoder, missing[start : start + BATCH]))
    return len(missing)
