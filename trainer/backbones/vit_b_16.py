"""ViT-B/16 (Dosovitskiy et al., ICLR 2021), torchvision's; the feature is the class token: 85.8 million parameters."""

from __future__ import annotations

from collections import OrderedDict
from typing import cast

from torch import nn

from trainer.backbones import _torchvision
from trainer.backbones._backbone import Backbone, State, drop_prefixes
from trainer.torchvision_compat import torchvision_models

_PATCH = 16
_POSITIONS = "encoder.pos_embedding"


def _build(image_size: int) -> nn.Module:
    network = _torchvision.untrained("vit_b_16", image_size=image_size)
    network.heads = nn.Identity()
    return cast("nn.Module", network)


def _without_classifier(state: State, image_size: int) -> State:
    """For another image size than the weights' own, position embeddings are interpolated, as the paper's 3.2 has it."""
    state = drop_prefixes(state, ("heads.",))
    if _POSITIONS not in state:  # another network's weights, which the check of names reports
        return state
    resize = torchvision_models().vision_transformer.interpolate_embeddings
    return cast("State", resize(image_size, _PATCH, OrderedDict(state)))


BACKBONE = Backbone(
    build=_build,
    pretrained=lambda: _torchvision.published("vit_b_16"),
    without_classifier=_without_classifier,
    width=768,
    mean=_torchvision.IMAGENET_MEAN,
    std=_torchvision.IMAGENET_STD,
    size_step=_PATCH,
)
