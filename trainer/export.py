"""From an embedding network to a published model: ONNX, checked against torch, beside the weights it came from.

    <data>/models/<id>/model.onnx           what serves
                       weights.safetensors  the network's state, from which training goes on
                       manifest.json

Written through `indexer.model.publish_model`, whose table says what a crash leaves.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import cast

import onnx
import onnxruntime
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from indexer.errors import ModelDamaged
from indexer.model import ONNX, load_manifest
from trainer import backbones
from trainer.network import EmbeddingNetwork

WEIGHTS = "weights.safetensors"
LEAST_COSINE = 0.9999  # between torch's and ONNX Runtime's embedding of one photo


def to_onnx(network: nn.Module, image_size: int) -> bytes:
    """A network as an ONNX file: `images` uint8 (N, S, S, 3) -> `embeddings` float32 (N, D), N free.

    The same network gives the same bytes, on which the model's identity stands: names of files and of versions, which
    the exporter notes beside each operator, are taken out.
    """
    images = torch.zeros(2, image_size, image_size, 3, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the exporter
        program = torch.onnx.export(
            network.eval(),
            (images,),
            input_names=["images"],
            output_names=["embeddings"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            dynamo=True,
            verbose=False,
        )
    model = cast("torch.onnx.ONNXProgram", program).model_proto  # None is only answered without dynamo
    strip(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def strip(model: onnx.ModelProto) -> None:
    """Takes out what does not matter to the answers and can differ between two exports of one network."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("value_info")
    model.producer_name = "everlook"
    model.ClearField("producer_version")


def parity(network: EmbeddingNetwork, model: bytes, images: Tensor) -> float:
    """The least cosine between torch's and ONNX Runtime's embeddings of uint8 images (N, S, S, 3). NaN counts as 0."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    exported = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    with torch.inference_mode():
        own = network.eval()(images)
    return float(functional.cosine_similarity(own, exported).nan_to_num().min().clamp(max=1.0))  # rounding passes 1


def check_parity(network: EmbeddingNetwork, model: bytes, images: Tensor) -> float:
    """As `parity`. Errors: ModelDamaged when it is below `LEAST_COSINE`."""
    cosine = parity(network, model, images)
    if cosine < LEAST_COSINE:
        raise ModelDamaged(
            f"the exported model answers otherwise than the network: least cosine {cosine:.6f}",
            got=f"{cosine:.6f}",
            expected=f"at least {LEAST_COSINE}",
        )
    return cosine


def weights(network: EmbeddingNetwork) -> bytes:
    """The content of weights.safetensors. The same network gives the same bytes."""
    return safetensors.torch.save({name: value.contiguous() for name, value in network.state_dict().items()})


def writer(network: EmbeddingNetwork, model: bytes) -> Callable[[Path], None]:
    """What `publish_model` calls to fill the model's folder."""

    def write(folder: Path) -> None:
        (folder / ONNX).write_bytes(model)
        (folder / WEIGHTS).write_bytes(weights(network))

    return write


def load_network(folder: Path) -> EmbeddingNetwork:
    """The network of a published model, as it was exported.

    Errors: ModelDamaged when a file is missing or altered; InvalidField when its backbone is none of ours.
    """
    manifest = load_manifest(folder)
    backbone = backbones.find(manifest.backbone)
    network = EmbeddingNetwork(backbone, backbone.build(manifest.preprocessing.image_size), manifest.dimension)
    try:
        network.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS))
    except (OSError, RuntimeError) as error:
        raise ModelDamaged(f"{folder / WEIGHTS} is missing, or not this network's", got=error) from error
    return network.eval()
