"""What torchvision's networks share: their published weights, and the normalisation they were trained with."""

from __future__ import annotations

import socket
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import torch

from indexer.errors import InvalidField
from trainer.backbones._backbone import State
from trainer.torchvision_compat import torchvision_models

# ImageNet's channel statistics, here in units of 0..255.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)

_SILENCE_S = 15.0


def untrained(name: str, **options: Any) -> Any:
    """torchvision's network of that name, without weights."""
    return torchvision_models().get_model(name, weights=None, **options)


def published(name: str) -> State:
    """torchvision's first ImageNet weights of that network (`IMAGENET1K_V1`): from torch's cache, else downloaded.

    The first, not the newest: networks trained with label smoothing and mixing rank higher on ImageNet and lower as
    features for retrieval, and the papers' results stand on the first.

    Errors: InvalidField when they are not in the cache and cannot be downloaded.
    """
    weights = torchvision_models().get_model_weights(name).IMAGENET1K_V1
    file = PurePosixPath(urlsplit(weights.url).path).name
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SILENCE_S)  # torch.hub sets none, and would wait for ever on a network that drops packets
    try:
        state: State = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise InvalidField(
            f"cannot download the weights of {name} ({error}); fetch {file} on a machine with internet, and pass it "
            f"with --weights FILE, or put it into {torch.hub.get_dir()}/checkpoints",
            field="weights",
            got=error,
            expected=f"--weights FILE, where FILE is {file}",
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    return state
