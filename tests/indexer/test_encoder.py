from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper
from PIL import Image

from indexer.devices import CPU, CUDA, TENSORRT, Devices, choose, detect
from indexer.encoder import Encoder
from indexer.errors import ModelDamaged
from indexer.images import preprocess
from indexer.model import Preprocessing, publish_model
from tests.indexer.tiny_model import tiny_graph, write_tiny_model

CPU_ONLY = detect(gpu=False)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    parent = tmp_path_factory.mktemp("models")
    return Encoder.load(parent / write_tiny_model(parent).id[:16], CPU_ONLY, 1)


def photos(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


def publish(parent: Path, graph: onnx.ModelProto | bytes, *, dimension: int = 32, image_size: int = 32) -> Path:
    def write(folder: Path) -> None:
        (folder / "model.onnx").write_bytes(graph if isinstance(graph, bytes) else graph.SerializeToString())

    manifest = publish_model(
        parent,
        write,
        backbone="tiny",
        dimension=dimension,
        preprocessing=Preprocessing(image_size, image_size),
    )
    return parent / manifest.id[:16]


def renamed(old: str, new: str) -> onnx.ModelProto:
    graph = tiny_graph(dimension=32, image_size=32, seed=0)
    for node in graph.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    for value in [*graph.graph.input, *graph.graph.output]:
        value.name = new if value.name == old else value.name
    return graph


def of_fixed_batch() -> onnx.ModelProto:
    graph = tiny_graph(dimension=32, image_size=32, seed=0)
    for value in [*graph.graph.input, *graph.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    return graph


def of_output(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    """The tiny graph with `nodes` in place of its normalisation, from `turned` to `embeddings`."""
    graph = tiny_graph(dimension=32, image_size=32, seed=0)
    del graph.graph.node[-1]
    graph.graph.node.extend(nodes)
    return graph


def test_vectors_are_float32_of_unit_length_and_equal_for_equal_photos(encoder: Encoder) -> None:
    vectors = encoder.encode(np.concatenate([photos(3), photos(3)]))
    assert vectors.dtype == np.float32
    assert vectors.shape == (6, encoder.manifest.dimension)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(vectors[:3], vectors[3:])
    assert (vectors[0] @ vectors[1]) < 0.99


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 100])
def test_a_batch_of_any_size_gives_each_photo_the_vector_it_gets_alone(encoder: Encoder, count: int) -> None:
    pixels = photos(count)
    vectors = encoder.encode(pixels)
    assert vectors.shape == (count, 32)
    for one, vector in zip(pixels, vectors, strict=True):
        np.testing.assert_allclose(encoder.encode(one[None])[0], vector, atol=1e-5)


def test_pixels_need_not_be_contiguous(encoder: Encoder) -> None:
    pixels = photos(4)
    np.testing.assert_array_equal(encoder.encode(pixels[:, :, ::-1]), encoder.encode(pixels[:, :, ::-1].copy()))


def test_many_threads_may_encode_at_once(encoder: Encoder) -> None:
    batches = [photos(1 + seed % 7, seed) for seed in range(64)]
    expected = [encoder.encode(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        for got, want in zip(pool.map(encoder.encode, batches), expected, strict=True):
            np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize(
    "pixels",
    [
        pytest.param(np.zeros((1, 32, 32, 3), np.float32), id="floats"),
        pytest.param(np.zeros((32, 32, 3), np.uint8), id="one photo without its batch"),
        pytest.param(np.zeros((1, 3, 32, 32), np.uint8), id="planes first"),
        pytest.param(np.zeros((1, 32, 31, 3), np.uint8), id="another size"),
        pytest.param(np.zeros((1, 32, 32, 4), np.uint8), id="with alpha"),
    ],
)
def test_pixels_of_another_type_or_shape_are_refused(encoder: Encoder, pixels: Any) -> None:
    with pytest.raises(ValueError, match=r"expected pixels uint8 \(N, 32, 32, 3\)"):
        encoder.encode(pixels)


@pytest.mark.parametrize(
    ("graph", "dimension", "image_size"),
    [
        pytest.param(tiny_graph(dimension=32, image_size=32, seed=0), 31, 32, id="another dimension"),
        pytest.param(tiny_graph(dimension=32, image_size=32, seed=0), 32, 40, id="another image size"),
        pytest.param(renamed("images", "x"), 32, 32, id="another input name"),
        pytest.param(renamed("embeddings", "y"), 32, 32, id="another output name"),
        pytest.param(of_fixed_batch(), 32, 32, id="a batch of fixed size"),
    ],
)
def test_a_graph_with_another_signature_than_the_manifest_says_is_damage(
    tmp_path: Path, graph: onnx.ModelProto, dimension: int, image_size: int
) -> None:
    folder = publish(tmp_path, graph, dimension=dimension, image_size=image_size)
    with pytest.raises(ModelDamaged, match="than expected"):
        Encoder.load(folder, CPU_ONLY, 1)


@pytest.mark.parametrize(
    "content",
    [b"", b"not a graph", tiny_graph(dimension=32, image_size=32, seed=0).SerializeToString()[:-2000]],
    ids=["empty", "text", "cut off"],
)
def test_a_graph_that_does_not_load_is_damage(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ModelDamaged, match=r"model\.onnx does not load"):
        Encoder.load(publish(tmp_path, content), CPU_ONLY, 1)


def test_a_graph_that_does_not_normalise_is_damage(tmp_path: Path) -> None:
    graph = of_output(helper.make_node("Add", ["turned", "bias"], ["embeddings"]))
    with pytest.raises(ModelDamaged, match="does not normalise"):
        Encoder.load(publish(tmp_path, graph), CPU_ONLY, 1)


def test_a_graph_that_gives_what_is_not_finite_is_damage(tmp_path: Path) -> None:
    zero = helper.make_node("Sub", ["turned", "turned"], ["zero"])
    graph = of_output(zero, helper.make_node("Div", ["zero", "zero"], ["embeddings"]))
    with pytest.raises(ModelDamaged, match="not finite"):
        Encoder.load(publish(tmp_path, graph), CPU_ONLY, 1)


def test_a_model_file_altered_after_publishing_is_damage(tmp_path: Path) -> None:
    folder = publish(tmp_path, tiny_graph(dimension=32, image_size=32, seed=0))
    content = bytearray((folder / "model.onnx").read_bytes())
    content[-200] ^= 0x10
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(ModelDamaged, match="was altered"):
        Encoder.load(folder, CPU_ONLY, 1)


def test_the_tiny_model_is_the_same_for_the_same_arguments(tmp_path: Path) -> None:
    first = write_tiny_model(tmp_path, dimension=16, image_size=64, seed=3)
    assert write_tiny_model(tmp_path, dimension=16, image_size=64, seed=3) == first
    assert write_tiny_model(tmp_path, dimension=16, image_size=64, seed=4).id != first.id
    assert (first.dimension, first.preprocessing.image_size) == (16, 64)


def test_one_image_alone_takes_the_threads_and_gets_the_vector_that_it_gets_in_a_batch(tmp_path: Path) -> None:
    folder = tmp_path / write_tiny_model(tmp_path).id[:16]
    encoder = Encoder.load(folder, Devices((CPU,), "", 0, ""), 2)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    together = encoder.encode(pixels)
    alone = np.concatenate([encoder.encode(pixels[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(alone, together, atol=1e-6)
    np.testing.assert_array_equal(alone, encoder.run_once(pixels[:1], alone=True).tolist() + alone[1:].tolist())


def test_on_a_cpu_the_device_says_so(encoder: Encoder) -> None:
    assert encoder.providers == (CPU,)
    assert (encoder.device.role, encoder.device.provider, encoder.device.threads) == ("encode", CPU, 1)


def test_a_provider_that_is_installed_but_does_not_start_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime then falls back to the CPU by itself, with no more than a line in its log."""
    start = onnxruntime.InferenceSession
    asked: list[Any] = []

    def without_cuda(path: Path, options: Any, providers: list[Any]) -> Any:
        asked.extend(name for name, _ in providers)
        return start(path, options, providers=providers[-1:])

    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", without_cuda)
    folder = tmp_path / write_tiny_model(tmp_path).id[:16]
    encoder = Encoder.load(folder, Devices((CUDA, CPU), "", 0, ""), 2)
    assert asked == [CUDA, CPU, CPU]  # the session for one image alone does not try again
    assert (encoder.device.provider, encoder.device.threads) == (CPU, 2)
    assert CUDA in encoder.device.note


CPU_FAISS = SimpleNamespace(get_num_gpus=lambda: 0)
GPU_FAISS = SimpleNamespace(get_num_gpus=lambda: 1, StandardGpuResources=object)
BLIND_FAISS = SimpleNamespace(get_num_gpus=lambda: 0, StandardGpuResources=object)


@pytest.mark.parametrize(
    ("available", "faiss", "gpu", "tensorrt", "encode", "index", "notes"),
    [
        pytest.param([CPU], CPU_FAISS, True, False, (CPU,), "faiss-cpu", ("", ""), id="cpu"),
        pytest.param([CUDA, CPU], GPU_FAISS, True, False, (CUDA, CPU), "faiss-gpu", ("", ""), id="cuda"),
        pytest.param(
            [TENSORRT, CUDA, CPU],
            GPU_FAISS,
            True,
            False,
            (CUDA, CPU),
            "faiss-gpu",
            ("", ""),
            id="tensorrt not asked for",
        ),
        pytest.param(
            [TENSORRT, CUDA, CPU], GPU_FAISS, True, True, (TENSORRT, CUDA, CPU), "faiss-gpu", ("", ""), id="tensorrt"
        ),
        pytest.param(
            [CUDA, CPU], GPU_FAISS, True, True, (CUDA, CPU), "faiss-gpu", ("not installed", ""), id="tensorrt missing"
        ),
        pytest.param(
            [CUDA, CPU], GPU_FAISS, False, False, (CPU,), "faiss-cpu", ("switched off", "switched off"), id="gpu off"
        ),
        pytest.param([CPU], BLIND_FAISS, True, False, (CPU,), "faiss-cpu", ("", "sees no GPU"), id="faiss sees none"),
    ],
)
def test_the_best_that_is_present_is_chosen_and_what_is_not_used_is_noted(
    available: list[str],
    faiss: Any,
    gpu: bool,
    tensorrt: bool,
    encode: tuple[str, ...],
    index: str,
    notes: tuple[str, str],
) -> None:
    devices = choose(available, faiss, gpu=gpu, tensorrt=tensorrt)
    assert devices.encode == encode
    assert devices.index_device(2).provider == index
    for note, expected in zip((devices.encode_note, devices.index_note), notes, strict=True):
        assert expected in note
        assert bool(note) == bool(expected)


def test_a_photo_finds_itself_through_decoding_and_encoding(encoder: Encoder) -> None:
    def vectors(kind: str) -> NDArray[np.float32]:
        pixels = []
        for one in photos(10):
            file = BytesIO()
            Image.fromarray(one).resize((90, 60)).save(file, kind)
            pixels.append(preprocess(file.getvalue(), encoder.manifest.preprocessing)[0])
        return encoder.encode(np.stack(pixels))

    assert (vectors("JPEG") @ vectors("PNG").T).argmax(axis=1).tolist() == list(range(10))
