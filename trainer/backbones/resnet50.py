"""ResNet-50 (He et al., CVPR 2016), torchvision's, average-pooled: 23.5 million parameters."""

from __future__ import annotations

from typing import cast

from torch import nn

from trainer.backbones import _torchvision
from trainer.backbones._backbone import Backbone, drop_prefixes


def _build(image_size: int) -> nn.Module:
    network = _torchvision.untrained("resnet50")
    network.fc = nn.Identity()
    return cast("nn.Module", network)


BACKBONE = Backbone(
    build=_build,
    pretrained=lambda: _torchvision.published("resnet50"),
    without_classifier=lambda state, image_size: drop_prefixes(state, ("fc.",)),
    width=2048,
    mean=_torchvision.IMAGENET_MEAN,
    std=_torchvision.IMAGENET_STD,
)
