"""Data directories with a catalogue, a tiny model that is live, and photos that can be told apart by learning."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from indexer.catalogue import Catalogue, Photo, Put
from indexer.datadir import DataDir
from indexer.gates import RecallLimits
from indexer.generation import publish_generation, set_live
from indexer.index import Segment
from indexer.model import Manifest, publish_model
from indexer.probes import is_probe
from indexer.stages import Training, Waiting, begin, waiting
from tests.indexer.image_files import saved
from trainer import export
from trainer.first_model import preprocessing
from trainer.network import DIMENSION, EmbeddingNetwork, create_network
from trainer.recipe import Recipe

SIDE = 32
RECIPE = Recipe(
    steps=12,
    learning_rate=1e-3,
    p=4,
    k=3,
    precision="fp32",
    limits=RecallLimits(most_drop=0.5, floor=0.0),
)


@dataclass
class Shop:
    """A data directory whose live model is `model`."""

    data: DataDir
    catalogue: Catalogue
    model: str
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def fill(self, *categories: str, photos: int = 4, probes: int = 3) -> None:
        """So many items of each category to train on, and so many held out."""
        self.catalogue.apply([each for name in categories for each in self.puts(name, photos, probes)])

    def puts(self, category: str, photos: int, probes: int) -> list[Put]:
        ids = (f"{category}/{number}" for number in self._numbers)
        wanted = {True: probes, False: photos}
        found = []
        while sum(wanted.values()):
            if wanted[is_probe(id := next(ids))]:
                wanted[is_probe(id)] -= 1
                found.append(put(id, category))
        return found

    def begin(self, stage: int = 0, *, learned: tuple[str, ...] = (), request: str = "") -> Training:
        """A training of all that waits."""
        return begin(
            self.data, self.catalogue, self.waiting(learned), stage=stage, base=self.model, reason="", request=request
        )

    def waiting(self, learned: tuple[str, ...] = ()) -> list[Waiting]:
        return waiting(self.catalogue, learned)

    def go_live(self, model: str) -> None:
        """As server and indexer do it, with an index of nothing."""
        set_live(self.data, publish_generation(self.data, model, 0, empty_segment()).number)
        self.model = model


def empty_segment() -> Segment:
    return Segment.build(np.empty((0, DIMENSION), np.float32), np.empty(0, np.uint64))


def open_shop(root: Path) -> Shop:
    """An empty catalogue, and a first model that sees only blue."""
    data = DataDir(root)
    data.create()
    shop = Shop(data, Catalogue.open(data.catalogue_url), "")
    shop.go_live(first_model(data.models, blind()).id)
    return shop


def blind(seed: int = 0) -> EmbeddingNetwork:
    """A network that sees only blue."""
    network = create_network("tiny", SIDE, seed=seed)
    with torch.no_grad():
        network.backbone.get_parameter("0.weight")[:, :2] = 0
    return network


def first_model(models: Path, network: EmbeddingNetwork) -> Manifest:
    return publish_model(
        models,
        export.writer(network, quick_onnx(network, SIDE)),
        backbone="tiny",
        dimension=DIMENSION,
        preprocessing=preprocessing(SIDE),
    )


def put(id: str, category: str, data: bytes | None = None) -> Put:
    """An item with a photo of its own, or these bytes."""
    data = photo(id, category) if data is None else data
    return Put(id, category, {}, Photo(data, hashlib.sha256(data).hexdigest(), 40, 40, "PNG"))


def photo(id: str, category: str) -> bytes:
    """Red and green are the category's, blue is the photo's own, and there is noise."""
    of_category = np.random.default_rng(int.from_bytes(hashlib.sha256(category.encode()).digest()[:4]))
    own = np.random.default_rng(int.from_bytes(hashlib.sha256(id.encode()).digest()[:4]))
    colour = np.array([*of_category.integers(30, 225, 2), own.integers(30, 225)])
    pixels = np.clip(colour + own.normal(0, 12, (40, 40, 3)), 0, 255).astype(np.uint8)
    return saved(Image.fromarray(pixels), "PNG")


def quick_onnx(network: EmbeddingNetwork, image_size: int) -> bytes:
    """What `export.to_onnx` makes of a network with the backbone `tiny`, in milliseconds."""
    state = {name: value.detach().cpu().numpy() for name, value in network.state_dict().items()}
    state |= {"mean": network.mean.cpu().numpy(), "std": network.std.cpu().numpy()}
    norm = [f"backbone.1.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
    node = helper.make_node
    nodes = [
        node("Cast", ["images"], ["floats"], "cast", to=TensorProto.FLOAT),
        node("Sub", ["floats", "mean"], ["centred"], "sub"),
        node("Div", ["centred", "std"], ["scaled"], "div"),
        node("Transpose", ["scaled"], ["planes"], "transpose", perm=[0, 3, 1, 2]),
        node("Conv", ["planes", "backbone.0.weight", "backbone.0.bias"], ["first"], "first", strides=[3, 3]),
        node("BatchNormalization", ["first", *norm], ["normed"], "norm", epsilon=1e-5),
        node("Relu", ["normed"], ["positive"], "relu"),
        node("Conv", ["positive", "backbone.3.weight", "backbone.3.bias"], ["second"], "second", strides=[3, 3]),
        node("GlobalAveragePool", ["second"], ["pooled"], "pool"),
        node("Flatten", ["pooled"], ["flat"], "flatten"),
        node("Gemm", ["flat", "head.weight", "head.bias"], ["turned"], "head", transB=1),
        node("LpNormalization", ["turned"], ["embeddings"], "normalise", axis=1, p=2),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", image_size, image_size, 3])],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["N", DIMENSION])],
        [numpy_helper.from_array(value, name) for name, value in state.items() if "num_batches" not in name],
    )
    model: Any = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content
