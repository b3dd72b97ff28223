"""Pixels in, vectors out: a published model on ONNX Runtime."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from indexer.devices import CPU, CUDA, TENSORRT, DeviceInfo, Devices
from indexer.errors import ModelDamaged
from indexer.model import ONNX, Manifest, load_manifest

# Images in one run. On a GPU larger batches gain no speed. On a CPU the activations of these pixels stay in a core's
# cache, and more images are slower, each of them (tests/bench/results/encoder.json).
_GPU_BATCH: Final = 32
_CPU_PIXELS: Final = 8 * 128 * 128

# The search for the fastest convolution, repeated for each new size of batch, stalls queries for seconds.
_OPTIONS: Final[dict[str, dict[str, str]]] = {CUDA: {"cudnn_conv_algo_search": "HEURISTIC"}}


class Encoder:
    """One loaded model. `encode` may be called from several threads at once."""

    def __init__(self, manifest: Manifest, session: Any, device: DeviceInfo, alone: Any | None = None) -> None:
        """`alone` is a session with more threads, for one image while nothing else is being encoded."""
        self.manifest = manifest
        self.device = device
        self._session = session
        self._alone = alone
        self._running = 0
        self._counting = threading.Lock()
        side = manifest.preprocessing.image_size
        self._batch = max(1, _CPU_PIXELS // side**2) if device.threads else _GPU_BATCH

    @classmethod
    def load(cls, folder: Path, devices: Devices, threads: int, *, verify: bool = True) -> Self:
        """Loads the model published in `folder`, and runs it once.

        `threads` are the CPU's that one image may take while nothing else is being encoded. Batches, and callers at
        once, run on one thread each: none then waits for a thread that another one has. The price is a second copy of
        the weights in memory.

        Errors: ModelDamaged when a file does not match the manifest (contents are compared unless `verify` is off), or
        the graph does not load, or is not what the manifest says.
        """
        manifest = load_manifest(folder, verify)
        try:
            session = _session(folder / ONNX, devices.encode, 1)
            on_cpu = session.get_providers()[0] == CPU
            alone = _session(folder / ONNX, (CPU,), threads) if on_cpu and threads > 1 else None
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise ModelDamaged(f"{folder / ONNX} does not load", got=error, expected="an ONNX graph") from error
        _check_signature(session, manifest)
        encoder = cls(manifest, session, _device(session, devices, threads), alone)
        encoder._check_output()
        return encoder

    @property
    def providers(self) -> tuple[str, ...]:
        """ONNX Runtime's providers that the session uses, best first."""
        return tuple(self._session.get_providers())

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The vectors (N, D), float32, of unit length, of images (N, S, S, 3), uint8, RGB, as `preprocess` makes them.

        Errors: ValueError for pixels of another type or shape; ModelDamaged when the model gives what is not finite.
        """
        side = self.manifest.preprocessing.image_size
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (side, side, 3):
            raise ValueError(f"expected pixels uint8 (N, {side}, {side}, 3), got {pixels.dtype} {pixels.shape}")
        vectors = np.empty((len(pixels), self.manifest.dimension), np.float32)
        with self._counting:
            self._running += 1
            alone = self._running == 1 and len(pixels) == 1
        try:
            for start in range(0, len(pixels), self._batch):
                vectors[start : start + self._batch] = self.run_once(pixels[start : start + self._batch], alone=alone)
        finally:
            with self._counting:
                self._running -= 1
        if not np.isfinite(vectors).all():
            raise ModelDamaged(f"model {self.manifest.id} gave numbers that are not finite", expected="finite numbers")
        return vectors

    def run_once(self, pixels: NDArray[np.uint8], *, alone: bool = False) -> NDArray[np.float32]:
        """The graph's own output for (N, S, S, 3) in one run, whatever N: neither checked nor split.

        `alone` takes all threads, in place of one.
        """
        session = self._alone if alone and self._alone is not None else self._session
        (vectors,) = session.run(["embeddings"], {"images": np.ascontiguousarray(pixels)})
        result: NDArray[np.float32] = vectors
        return result

    def warm(self) -> None:
        """Runs once with each size of batch that `encode` may use, so that no query pays for what a first run does."""
        side = self.manifest.preprocessing.image_size
        for size in range(1, self._batch + 1):
            pixels = np.zeros((size, side, side, 3), np.uint8)
            self.run_once(pixels)
            self.run_once(pixels[:1], alone=True)

    def _check_output(self) -> None:
        side = self.manifest.preprocessing.image_size
        lengths = np.linalg.norm(self.encode(np.full((2, side, side, 3), 128, np.uint8)), axis=1)
        if not np.allclose(lengths, 1, atol=1e-3):
            raise ModelDamaged(
                f"model {self.manifest.id} does not normalise its vectors",
                got=f"length {lengths[0]}",
                expected="length 1",
            )


def _session(path: Path, providers: tuple[str, ...], threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the cores are shared with decoding
    options.log_severity_level = 3  # errors; what matters of the rest is in `device.note`
    if CUDA in providers:
        onnxruntime.preload_dlls()  # finds CUDA and cuDNN where pip installed them
    named = [(name, _OPTIONS.get(name, {})) for name in providers]
    return onnxruntime.InferenceSession(path, options, providers=named)


def _check_signature(session: Any, manifest: Manifest) -> None:
    side = manifest.preprocessing.image_size
    for nodes, name, kind, shape in (
        (session.get_inputs(), "images", "tensor(uint8)", [side, side, 3]),
        (session.get_outputs(), "embeddings", "tensor(float)", [manifest.dimension]),
    ):
        got = [(node.name, node.type, node.shape) for node in nodes]
        fits = len(nodes) == 1 and nodes[0].name == name and nodes[0].type == kind and nodes[0].shape[1:] == shape
        if not fits or isinstance(nodes[0].shape[0], int):
            raise ModelDamaged(
                f"the graph of model {manifest.id} has other {name} than expected",
                got=got,
                expected=(name, kind, ["N", *shape]),
            )


def _device(session: Any, devices: Devices, threads: int) -> DeviceInfo:
    wanted, used = devices.encode[0], session.get_providers()[0]
    note = devices.encode_note
    if used != wanted:
        note = f"{wanted} is installed and could not be started: its libraries or its GPU are missing"
    return DeviceInfo("encode", used, 0 if used in (CUDA, TENSORRT) else threads, note)
