"""Imports torchvision also where its compiled operators cannot be loaded.

torchvision's wheels on PyPI are built for CUDA. Beside a CPU build of torch their compiled operators do not load, and
`import torchvision` then fails, because it registers shape functions for `nms` and `qnms`. Declaring the two schemas
first is enough for its models and transforms; no operator is provided, and its image decoders stay unavailable.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import torch


def torchvision_models() -> ModuleType:
    """The module `torchvision.models`."""
    try:
        return importlib.import_module("torchvision.models")
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision.models")
