"""Pretrained networks without their classifiers, one file each.

A new backbone is one new file here: its name is the backbone's name, and it defines `BACKBONE`.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from torch import nn

from indexer.errors import InvalidField
from trainer.backbones._backbone import Backbone, load_state, read_weights

__all__ = ["Backbone", "check_image_size", "create", "find", "names"]


def names() -> list[str]:
    """The backbones there are, in alphabetical order."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def find(name: str) -> Backbone:
    """The backbone of that name. Only then is its file imported (torchvision takes seconds).

    Errors: InvalidField when there is none.
    """
    known = names()
    if name not in known:
        raise InvalidField(
            f"there is no backbone {name!r}; choose one of {', '.join(known)}",
            field="backbone",
            got=name,
            expected=", ".join(known),
        )
    backbone: Backbone = importlib.import_module(f"{__name__}.{name}").BACKBONE
    return backbone


def create(name: str, image_size: int, weights: Path | None = None) -> nn.Module:
    """The backbone's network, pretrained: from the file `weights`, else with its own weights.

    Errors: InvalidField for an unknown name, an image size it cannot take, weights that cannot be had, or weights of
    another network.
    """
    backbone = check_image_size(name, image_size)
    state = backbone.pretrained() if weights is None else read_weights(weights)
    network = backbone.build(image_size)
    load_state(name, network, backbone.without_classifier(state, image_size))
    return network


def check_image_size(name: str, image_size: int) -> Backbone:
    """The backbone of that name, which takes images of that size. Errors: InvalidField."""
    backbone = find(name)
    if image_size < 32 or image_size % backbone.size_step:
        raise InvalidField(
            f"{name} takes images of a size from 32 that {backbone.size_step} divides, not {image_size}",
            field="image_size",
            got=image_size,
            expected=f"a multiple of {backbone.size_step}, at least 32",
        )
    return backbone
