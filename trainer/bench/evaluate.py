"""Recall of a network on the photos that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from indexer.images import preprocess
from indexer.model import Preprocessing
from indexer.recall import leave_one_out
from trainer.lookahead import ahead
from trainer.network import EmbeddingNetwork
from trainer.protocol import Part, Protocol
from trainer.training_data import naming

KS: Final = (1, 2, 4, 8)
PARTS: Final[tuple[Part, ...]] = ("validation", "test")
_BATCH: Final = 64


@dataclass(frozen=True)
class Photos:
    """The photos of one part of a protocol, seen as serving sees them."""

    pixels: NDArray[np.uint8]  # (N, S, S, 3)
    categories: NDArray[np.int64]  # (N,)
    stages: NDArray[np.int64]  # (N,)

    def until(self, stage: int) -> Photos:
        """Those of the stages up to one."""
        kept = self.stages <= stage
        return Photos(self.pixels[kept], self.categories[kept], self.stages[kept])


def read(protocol: Protocol, part: Part, preprocessing: Preprocessing, until: int) -> Photos:
    """Decodes those of the stages up to `until`.

    Errors: ImageUnreadable, ImageTooLarge, with the photo's name; OSError.
    """
    rows = [(path, name, stage) for stage in range(until + 1) for path, name in protocol.photos([stage], part)]
    side = preprocessing.image_size
    pixels = np.empty((len(rows), side, side, 3), np.uint8)

    def decode(path: Path) -> NDArray[np.uint8]:
        with naming(str(path)):
            return preprocess(path.read_bytes(), preprocessing)[0]

    with ahead(decode, [path for path, _, _ in rows]) as decoded:
        for position, image in enumerate(decoded):
            pixels[position] = image
    codes = np.unique([name for _, name, _ in rows], return_inverse=True)[1]
    return Photos(pixels, codes.astype(np.int64), np.array([stage for *_, stage in rows], np.int64))


@torch.no_grad()
def embed(network: EmbeddingNetwork, pixels: NDArray[np.uint8], device: torch.device) -> NDArray[np.float32]:
    """Embeddings (N, D), L2-normalised."""
    batches = (torch.from_numpy(pixels[begin : begin + _BATCH]) for begin in range(0, len(pixels), _BATCH))
    rows = [network(batch.to(device)).float().cpu() for batch in batches]
    return torch.cat(rows).numpy() if rows else np.empty((0, 1), np.float32)


def recalls(embeddings: NDArray[np.float32], photos: Photos, stage: int) -> dict[str, Any]:
    """Recall@1, 2, 4 and 8 after a stage, each photo searched among the others of its group.

    "old" is the group of all categories of earlier stages, None after the first; "new" that of the stage, "all" both,
    and "stages" has each stage's own. A recall is None where no photo of the group has another of its category.
    """
    groups = [_recall(embeddings, photos, [b]) for b in range(stage + 1)]
    return {
        "old": _recall(embeddings, photos, range(stage)) if stage else None,
        "new": groups[stage],
        "all": _recall(embeddings, photos, range(stage + 1)),
        "stages": groups,
    }


def _recall(embeddings: NDArray[np.float32], photos: Photos, stages: Sequence[int]) -> dict[str, float | None]:
    rows = np.isin(photos.stages, list(stages))
    found = leave_one_out(embeddings[rows], photos.categories[rows], KS)
    queries = found[KS[0]].queries
    return {**{str(k): found[k].value if queries else None for k in KS}, "queries": queries}
