"""The embedding network: a backbone's pooled features, a linear embedding head, and preprocessing inside the graph."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer import backbones, heads
from trainer.backbones import Backbone

DIMENSION = 512  # of the embedding; the papers' too


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that always uses its running statistics, and never updates them, whatever calls `train()`.

    Scale and shift stay parameters.
    """

    def train(self, mode: bool = True) -> Self:
        return super().train(False)


def freeze_batch_norm(module: nn.Module) -> None:
    """Replaces every BatchNorm2d below `module` by a FrozenBatchNorm2d with the same weights and statistics."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features, eps=child.eps)
            frozen.load_state_dict(child.state_dict())
            setattr(module, name, frozen.eval())
        else:
            freeze_batch_norm(child)


class EmbeddingNetwork(nn.Module):
    """uint8 images (N, S, S, 3) -> L2-normalised embeddings (N, D).

    `state_dict()` holds the backbone's and the head's state; how pixels are normalised goes with the backbone's name.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, network: nn.Module, dimension: int = DIMENSION) -> None:
        """`network` is what `backbone.build` made. The head is untrained until `set_head`."""
        super().__init__()
        freeze_batch_norm(network)
        # On CPU this layout is 2 to 6 times as fast, and NHWC pixels have it already.
        self.backbone = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stub omits it
        self.head = nn.Linear(backbone.width, dimension)
        self.register_buffer("mean", torch.tensor(backbone.mean), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std), persistent=False)

    def set_head(self, weight: Tensor, bias: Tensor) -> None:
        """weight (D, width), bias (D)"""
        self.head.load_state_dict({"weight": weight, "bias": bias})

    def pooled(self, images: Tensor) -> Tensor:
        """uint8 images (N, S, S, 3) -> the backbone's pooled features (N, width)"""
        pixels = (images.to(self.mean.dtype) - self.mean) / self.std
        features: Tensor = self.backbone(pixels.permute(0, 3, 1, 2))
        return features

    def features(self, images: Tensor) -> Tensor:
        """uint8 images (N, S, S, 3) -> embeddings (N, D) before normalisation, of which prototypes are means"""
        embedded: Tensor = self.head(self.pooled(images))
        return embedded

    def forward(self, images: Tensor) -> Tensor:
        return functional.normalize(self.features(images), dim=1)


def create_network(
    name: str,
    image_size: int,
    *,
    seed: int,
    init: Literal["pretrained", "random"] = "pretrained",
    weights: Path | None = None,
    dimension: int = DIMENSION,
) -> EmbeddingNetwork:
    """A network with the backbone of that name: pretrained, with an orthogonal head, or all random. `seed` decides.

    Errors: InvalidField for an unknown backbone, an image size it cannot take, or weights that cannot be had.
    """
    backbone = backbones.check_image_size(name, image_size)
    if init == "pretrained":
        network = EmbeddingNetwork(backbone, backbones.create(name, image_size, weights), dimension)
        network.set_head(*heads.orthogonal(backbone.width, dimension, torch.Generator().manual_seed(seed)))
        return network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = EmbeddingNetwork(backbone, backbone.build(image_size), dimension)
        if any(isinstance(module, FrozenBatchNorm2d) for module in network.modules()):
            _keep_scale(network)
        return network


def _keep_scale(network: EmbeddingNetwork) -> None:
    """He's initialisation (He et al., arXiv:1502.01852, fan-in) of the convolutions and the head.

    Frozen at fresh statistics, batch normalisation does not rescale what goes through it. With torch's own default the
    signal shrinks at each layer, until all photos have one and the same feature.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) or module is network.head:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
