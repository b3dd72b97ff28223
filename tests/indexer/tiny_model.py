"""A real, small model, published as the trainer does: for tests that need vectors and no learning.

The graph averages the photo over a grid, and turns the grid's colours by a seeded projection into a vector of unit
length. Equal photos get equal vectors, similar photos similar ones.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from indexer.gates import GATES, Gate, to_json
from indexer.lineage import LINEAGE, Lineage
from indexer.model import ONNX, Manifest, Preprocessing, publish_model

_GRID = 8


def write_tiny_model(
    parent: Path,
    *,
    dimension: int = 32,
    image_size: int = 32,
    seed: int = 0,
    lineage: Lineage | None = None,
    gates: Sequence[Gate] = (),
) -> Manifest:
    """Publishes the model in `parent`, in its folder `manifest.id[:16]`. The same arguments give the same model.

    With a lineage it is a candidate, as the trainer publishes one.
    """
    graph = tiny_graph(dimension=dimension, image_size=image_size, seed=seed)

    def write(folder: Path) -> None:
        onnx.save(graph, folder / ONNX)
        if lineage is not None:
            (folder / LINEAGE).write_text(lineage.to_json(), encoding="utf-8")
            (folder / GATES).write_text(json.dumps(to_json(gates)), encoding="utf-8")

    return publish_model(
        parent,
        write,
        stages=len(lineage.cohorts) if lineage else 0,
        backbone="tiny",
        dimension=dimension,
        preprocessing=Preprocessing(image_size=image_size, resize_size=image_size),
        head=f"seed {seed}",
    )


def tiny_graph(*, dimension: int, image_size: int, seed: int) -> onnx.ModelProto:
    """The graph: `images` uint8 (N, S, S, 3) in, `embeddings` float32 (N, D) out; S a multiple of 8."""
    if image_size % _GRID:
        raise ValueError(f"image_size must be a multiple of {_GRID}, got {image_size}")
    cell = image_size // _GRID
    projection = np.random.default_rng(seed).standard_normal((_GRID * _GRID * 3, dimension)).astype(np.float32)
    constants = {
        "centre": np.float32(127.5),
        "projection": projection,
        "bias": projection[0] * np.float32(1e-3),  # so that an evenly grey photo has a direction too
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["floats", "centre"], ["centred"]),
        helper.make_node("Transpose", ["centred"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["grid"], kernel_shape=[cell, cell], strides=[cell, cell]),
        helper.make_node("Flatten", ["grid"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "projection", "bias"], ["turned"]),
        helper.make_node("LpNormalization", ["turned"], ["embeddings"], axis=1, p=2),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", image_size, image_size, 3])],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["N", dimension])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
