"""What the engine's work can run on here, looked up at run time: the same code with and without a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
TENSORRT: Final = "TensorrtExecutionProvider"


@dataclass(frozen=True)
class DeviceInfo:
    """What one kind of work runs on, as Status shows it."""

    role: str  # "encode" or "index"
    provider: str  # such as "CPUExecutionProvider" or "faiss-gpu"
    threads: int  # on the CPU; 0 on a GPU
    note: str  # where a faster provider is installed and not used, why; else empty


@dataclass(frozen=True)
class Devices:
    """What may be used. What an encoder came to use in the end is its own `device`."""

    encode: tuple[str, ...]  # ONNX Runtime's providers to try, best first; the last one always works
    encode_note: str
    index_gpus: int  # GPUs that faiss can use
    index_note: str

    def index_device(self, threads: int) -> DeviceInfo:
        """What index building and exact search run on."""
        if self.index_gpus:
            return DeviceInfo("index", "faiss-gpu", 0, self.index_note)
        return DeviceInfo("index", "faiss-cpu", threads, self.index_note)


def detect(*, gpu: bool = True, tensorrt: bool = False) -> Devices:
    """What onnxruntime and faiss, as installed, offer on this machine. With `gpu=False`, only the CPU.

    TensorRT is used when asked for: it compiles the graph anew, for seconds to minutes, for every size of batch that it
    has not seen, and a server sees many.
    """
    import faiss
    import onnxruntime

    return choose(onnxruntime.get_available_providers(), faiss, gpu=gpu, tensorrt=tensorrt)


def choose(available: Sequence[str], faiss: Any, *, gpu: bool, tensorrt: bool) -> Devices:
    """`detect`, of what onnxruntime lists and of the module faiss."""
    wanted = [TENSORRT, CUDA] if tensorrt else [CUDA]
    encode = tuple(provider for provider in wanted if gpu and provider in available)
    listed = [provider for provider in (TENSORRT, CUDA) if provider in available]
    encode_note = "" if gpu or not listed else f"{listed[0]} is installed; GPUs are switched off"
    if gpu and tensorrt and TENSORRT not in available:
        encode_note = f"{TENSORRT} was asked for and is not installed"

    built_for_gpu = hasattr(faiss, "StandardGpuResources")
    seen = int(faiss.get_num_gpus()) if built_for_gpu else 0
    index_note = ""
    if built_for_gpu and not gpu:
        index_note = "faiss-gpu is installed; GPUs are switched off"
    elif built_for_gpu and not seen:
        index_note = "faiss-gpu is installed and sees no GPU"
    return Devices((*encode, CPU), encode_note, seen if gpu else 0, index_note)
