"""Model 0: a pretrained backbone with an embedding head that is worked out, not learned."""

from __future__ import annotations

import hashlib
import importlib.metadata
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

import torch
from torch import Tensor

from indexer.errors import InvalidField
from indexer.model import Manifest, Preprocessing, publish_model
from trainer import backbones, export, heads, photos
from trainer.network import DIMENSION, EmbeddingNetwork
from trainer.publishing import publishing

HeadName = Literal["orthogonal", "pca"]
HEADS: Final[tuple[HeadName, ...]] = get_args(HeadName)

# Chosen by recall: docs/models.md.
PCA_EXPONENT = 0.125
PCA_SHRINKAGE = 0.3
PCA_PHOTOS = 1000  # drawn from the folder; with fewer, no clear gain over `orthogonal` was measured
LEAST_PCA_PHOTOS = 256  # fewer were not measured

_PARITY_IMAGES = 16


@dataclass(frozen=True)
class FirstModel:
    """What model 0 is made of."""

    backbone: str = "efficientnet_lite0"
    weights: Path | None = None  # in place of the backbone's own
    image_size: int = 224
    photos: Path | None = None  # a folder of photos like the gallery's
    head: HeadName | None = None  # None: "pca" where `PCA_PHOTOS` photos are given, else "orthogonal"
    seed: int = 0


@dataclass(frozen=True)
class Published:
    """A model in its folder, with the figures of its making."""

    manifest: Manifest
    folder: Path
    parity: float  # least cosine between torch and ONNX Runtime
    seconds: float


def preprocessing(image_size: int) -> Preprocessing:
    """The shorter side is resized to 8/7 of the image: 256 for 224, as the papers do."""
    return Preprocessing(image_size, round(image_size * 8 / 7))


def publish_first_model(models: Path, recipe: FirstModel) -> Published:
    """Makes the model and publishes it below `models`. The same recipe makes the same model.

    Errors: InvalidField for a recipe that cannot be followed; ImageUnreadable or ImageTooLarge for a photo that is not
    one; ModelDamaged when the exported model does not answer as the network does; OSError.
    """
    started = time.monotonic()
    if recipe.head == "pca" and recipe.photos is None:
        raise InvalidField(
            "the head 'pca' is fitted on photos, and no folder of photos was given",
            field="head",
            got="pca, without photos",
            expected="'orthogonal', or a folder of photos too",
        )
    generator = torch.Generator().manual_seed(recipe.seed)
    spec = preprocessing(recipe.image_size)
    backbone = backbones.find(recipe.backbone)
    network = EmbeddingNetwork(
        backbone, backbones.create(recipe.backbone, recipe.image_size, recipe.weights), DIMENSION
    ).eval()
    paths = photos.find(recipe.photos) if recipe.photos else []
    head = recipe.head or ("pca" if len(paths) >= PCA_PHOTOS else "orthogonal")
    if head == "pca":
        description = _fit_pca(network, photos.sample(paths, PCA_PHOTOS, generator), spec)
    else:
        network.set_head(*heads.orthogonal(backbone.width, DIMENSION, generator))
        description = f"orthogonal, seed {recipe.seed}"
    model = export.to_onnx(network, recipe.image_size)
    parity = export.check_parity(network, model, _parity_images(paths, spec, generator))
    with publishing(models):
        manifest = publish_model(
            models,
            export.writer(network, model),
            backbone=recipe.backbone,
            dimension=DIMENSION,
            preprocessing=spec,
            head=description,
            source=_source(recipe, parity),
        )
    return Published(manifest, models / manifest.id[:16], parity, time.monotonic() - started)


def _fit_pca(network: EmbeddingNetwork, paths: list[Path], spec: Preprocessing) -> str:
    if len(paths) < LEAST_PCA_PHOTOS:
        raise InvalidField(
            f"{len(paths)} photos are too few to fit the head 'pca'; give {LEAST_PCA_PHOTOS}, or choose 'orthogonal'",
            field="photos",
            got=len(paths),
            expected=f"at least {LEAST_PCA_PHOTOS}",
        )
    with torch.inference_mode():
        features = torch.cat([network.pooled(batch) for batch in photos.batches(paths, spec)])
    network.set_head(*heads.pca(features, DIMENSION, PCA_EXPONENT, PCA_SHRINKAGE))
    return f"pca, exponent {PCA_EXPONENT}, shrinkage {PCA_SHRINKAGE}, {len(paths)} photos"


def _parity_images(paths: list[Path], spec: Preprocessing, generator: torch.Generator) -> Tensor:
    if not paths:
        return photos.rendered(_PARITY_IMAGES, spec.image_size, generator)
    return torch.cat(list(photos.batches(photos.sample(paths, _PARITY_IMAGES, generator), spec)))


def _source(recipe: FirstModel, parity: float) -> dict[str, str]:
    weights = "the backbone's own"
    if recipe.weights is not None:
        with recipe.weights.open("rb") as file:
            weights = f"{recipe.weights.name}, sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}"
    return {"weights": weights, "torch": importlib.metadata.version("torch"), "parity": f"{parity:.7f}"}
