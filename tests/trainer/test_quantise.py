"""Static int8: what becomes of each part of a graph, and that the same photos give the same file."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import ROOT
from trainer import quantise

SIDE, CHANNELS = 32, 16

# In a process of its own, whose sets are in another order.
CHILD = """
import hashlib
from tests.trainer.test_quantise import graph, photos
from trainer import quantise
print(hashlib.sha256(quantise.to_int8(graph(), photos(), reduce_range=True)).hexdigest())
"""


def graph() -> bytes:
    """A convolution, a depthwise one, a pointwise one, and a head, with an input and an output as a model's."""
    draw = np.random.default_rng(0)

    def weight(*shape: int) -> NDArray[np.float32]:
        drawn: NDArray[np.float32] = draw.standard_normal(shape, np.float32) / np.float32(np.sqrt(np.prod(shape[1:])))
        return drawn

    weights = {
        "stem": weight(CHANNELS, 3, 3, 3),
        "depth": weight(CHANNELS, 1, 3, 3),
        "point": weight(CHANNELS, CHANNELS, 1, 1),
        "head": weight(8, CHANNELS),
        "mean": np.float32(127),
        "std": np.float32(64),
        "least": np.float32(0),
        "most": np.float32(6),
        "tiny": np.float32(1e-12),
    }
    node = helper.make_node
    nodes = [
        node("Cast", ["images"], ["floats"], "cast", to=TensorProto.FLOAT),
        node("Sub", ["floats", "mean"], ["centred"], "sub"),
        node("Div", ["centred", "std"], ["scaled"], "div"),
        node("Transpose", ["scaled"], ["planes"], "transpose", perm=[0, 3, 1, 2]),
        node("Conv", ["planes", "stem"], ["a"], "conv_stem", strides=[2, 2]),
        node("Clip", ["a", "least", "most"], ["b"], "clip"),
        node("Conv", ["b", "depth"], ["c"], "conv_depth", group=CHANNELS, pads=[1, 1, 1, 1]),
        node("Conv", ["c", "point"], ["d"], "conv_point"),
        node("Add", ["d", "b"], ["e"], "add"),
        node("GlobalAveragePool", ["e"], ["f"], "pool"),
        node("Flatten", ["f"], ["g"], "flatten"),
        node("Gemm", ["g", "head"], ["h"], "gemm", transB=1),
        node("ReduceL2", ["h"], ["length"], "length", axes=[1]),
        node("Clip", ["length", "tiny"], ["divisor"], "clip_length"),
        node("Div", ["h", "divisor"], ["embeddings"], "normalise"),
    ]
    made = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["N", 8])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model: Any = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


def photos(count: int = 20) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(1).integers(0, 256, (count, 4, 4, 3), np.uint8)
    return coarse.repeat(SIDE // 4, 1).repeat(SIDE // 4, 2)


@pytest.fixture(scope="module", params=[True, False], ids=["7 bits", "8 bits"])
def made(request: pytest.FixtureRequest) -> tuple[bool, bytes]:
    return request.param, quantise.to_int8(graph(), photos(), reduce_range=request.param)


def answers(model: bytes, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (given,), (found,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape[1:]) == ("images", "tensor(uint8)", [SIDE, SIDE, 3])
    assert (found.name, found.type, found.shape[1:]) == ("embeddings", "tensor(float)", [8])
    vectors: NDArray[np.float32] = session.run(["embeddings"], {"images": images})[0]
    return vectors


def test_it_answers_nearly_as_before_for_batches_of_any_size(made: tuple[bool, bytes]) -> None:
    for count in (1, 5):
        images = photos(30)[20 : 20 + count]
        expected, got = answers(graph(), images), answers(made[1], images)
        np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
        assert ((expected * got).sum(1) > 0.995).all()
        assert not np.array_equal(expected, got)


def test_the_convolutions_between_stem_and_head_are_quantised_and_nothing_else(made: tuple[bool, bytes]) -> None:
    model = onnx.load_from_string(made[1])
    by_output = {output: node for node in model.graph.node for output in node.output}

    def inputs(name: str) -> list[str]:
        node = next(node for node in model.graph.node if node.name == name)
        return [by_output[each].op_type if each in by_output else "constant" for each in node.input]

    assert inputs("conv_depth")[:2] == inputs("conv_point")[:2] == ["DequantizeLinear"] * 2
    assert inputs("conv_stem")[:2] == ["Transpose", "constant"]
    assert inputs("gemm")[1] == "constant"
    assert inputs("clip_length") == ["ReduceL2", "constant"]


def test_where_sums_saturate_weights_have_7_bits_but_for_depthwise_ones(made: tuple[bool, bytes]) -> None:
    reduced, content = made
    weights = {each.name: numpy_helper.to_array(each) for each in onnx.load_from_string(content).graph.initializer}
    largest = {name: int(np.abs(weights[f"{name}_quantized"].astype(int)).max()) for name in ("depth", "point")}
    assert largest == {"depth": 127, "point": 64 if reduced else 127}
    assert weights["depth_quantized"].dtype == weights["point_quantized"].dtype == np.int8
    assert weights["point_scale"].shape == (CHANNELS,)


def test_the_same_photos_give_the_same_file_in_another_process() -> None:
    expected = hashlib.sha256(quantise.to_int8(graph(), photos(), reduce_range=True)).hexdigest()
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", CHILD], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [expected]


def test_each_batch_is_told_and_what_is_raised_there_ends_it() -> None:
    told = []

    def tick(done: int, total: int) -> None:
        told.append((done, total))
        if done == 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantise.to_int8(graph(), photos(), reduce_range=False, tick=tick)
    assert told == [(0, 20), (8, 20), (16, 20)]


@pytest.mark.parametrize(
    ("machine", "flags", "saturates"),
    [
        ("x86_64", "avx2 fma", True),
        ("x86_64", "avx2 avx512f avx512_vnni", False),
        ("AMD64", "avx2 avx_vnni", False),
        ("x86_64", None, True),
        ("aarch64", None, False),
        ("arm64", "", False),
    ],
)
def test_sums_saturate_on_x86_without_vnni(
    machine: str, flags: str | None, saturates: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(quantise, "_CPU_INFO", tmp_path / "cpuinfo")
    assert quantise.saturates() is saturates
