"""Static int8: the convolutions of an exported network in 8 bits, its beginning and its end in float.

Activations are uint8 and weights int8, a scale for each channel, as ONNX Runtime's CPU kernels take them (QDQ). The
range of each activation is measured on photos like the gallery's. The normalisation of pixels, the first convolution,
the pooling over the whole image, the embedding head and the normalisation of its output stay float.

A processor without VNNI adds pairs of 8-bit products in 16 bits, and large ones saturate. There weights take 7 bits,
but for those of depthwise convolutions, whose products ONNX Runtime adds otherwise.

Docs: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from trainer.export import strip

CALIBRATION_PHOTOS: Final = 256

_BATCH: Final = 8  # photos whose activations are in memory at once
_OPERATORS: Final = ["Conv", "Add", "Clip", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat"]
_HEAD: Final = ("Gemm", "MatMul")
_CPU_INFO: Final = Path("/proc/cpuinfo")


def to_int8(
    model: bytes,
    images: NDArray[np.uint8],
    *,
    reduce_range: bool,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> bytes:
    """The int8 form of an ONNX file that `export.to_onnx` made, with the same input and output.

    images        (N, S, S, 3), RGB, uint8, to measure activations on
    reduce_range  weights of 7 bits; see `saturates`
    tick          hears how many of the photos are done; what it raises ends the work

    The same arguments give the same bytes on the same processor. Errors: ValueError without images.
    """
    with tempfile.TemporaryDirectory(prefix="everlook-int8-") as folder:
        given, prepared, quantised = (Path(folder, f"{name}.onnx") for name in ("given", "prepared", "quantised"))
        given.write_bytes(model)
        quant_pre_process(given, prepared, skip_symbolic_shape=True)
        graph = onnx.load(prepared).graph
        quantize_static(
            prepared,
            quantised,
            _Photos(images, tick),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_OPERATORS,
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[*_first(graph), *_from_head(graph)],
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"TensorQuantOverrides": _depthwise(graph) if reduce_range else {}},
        )
        result = onnx.load(quantised)
    strip(result)
    content: bytes = result.SerializeToString(deterministic=True)
    return content


def saturates() -> bool:
    """Whether sums of 8-bit products can saturate on this processor: x86 without VNNI."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        flags = _CPU_INFO.read_text(encoding="utf-8")
    except OSError:
        return True
    return "avx512_vnni" not in flags and "avx_vnni" not in flags


class _Photos(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Hands the quantiser a batch at a time."""

    def __init__(self, images: NDArray[np.uint8], tick: Callable[[int, int], None]) -> None:
        self._batches = self._in_batches(images, tick)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)

    @staticmethod
    def _in_batches(images: NDArray[np.uint8], tick: Callable[[int, int], None]) -> Iterator[dict[str, Any]]:
        for start in range(0, len(images), _BATCH):
            tick(start, len(images))
            yield {"images": images[start : start + _BATCH]}


def _first(graph: onnx.GraphProto) -> list[str]:
    """The first convolution."""
    return [node.name for node in graph.node if node.op_type == "Conv"][:1]


def _depthwise(graph: onnx.GraphProto) -> dict[str, list[dict[str, Any]]]:
    """The weights of depthwise convolutions, which keep their 8 bits."""
    shapes = {initializer.name: initializer.dims for initializer in graph.initializer}
    weights = [node.input[1] for node in graph.node if node.op_type == "Conv"]
    return {name: [{"axis": 0, "reduce_range": False}] for name in weights if name in shapes and shapes[name][1] == 1}


def _from_head(graph: onnx.GraphProto) -> list[str]:
    """The nodes from the embedding head on: those that lead to the output and lie behind the last product."""
    made_by = {output: node for node in graph.node for output in node.output}
    found, waiting = dict[str, None](), [output.name for output in graph.output]
    while waiting:
        node = made_by.get(waiting.pop())
        if node is not None and node.name not in found:
            found[node.name] = None
            if node.op_type not in _HEAD:
                waiting += node.input
    return list(found)
