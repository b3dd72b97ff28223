"""What is kept of earlier stages, in place of their photos: each category's prototype and how far it has drifted.

A stage's memory is mu^b, its prototypes by the model that learned it, and Delta mu^{b -> i-1}, their drifts to the
latest model (mutual, Eq. 3): 2 x D float32 a category, 4,096 bytes at D = 512, and the category's name. No photo, and
no feature of one photo (unless a category has a single one).

It is one safetensors file beside the model that the drifts lead to. The same memory is the same bytes, which hold their
own SHA-256: one altered bit is found when it is loaded.

| crash at this step          | found so at restart                                                                 |
|-----------------------------|-------------------------------------------------------------------------------------|
| while `save` writes         | the old file, whole, or none; and a `.staging-*` file, which nobody reads           |
| after its rename            | the new file, whole; before the folder's fsync and after power loss, maybe the old one |
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from indexer.errors import InvalidField, ModelDamaged
from indexer.files import write_bytes
from trainer.drift import prototype_drift, prototypes

MEMORY = "memory.safetensors"  # its name in a model's folder

_FORMAT = 1
_HEADER = "everlook.memory"  # the only key of the metadata: safetensors keeps several in no fixed order


@dataclass(frozen=True, eq=False)
class StageMemory:
    """One stage: its categories' prototypes by its own model, and their drifts since; float32, on the CPU."""

    stage: int
    categories: tuple[str, ...]  # C names, without repetition
    prototypes: Tensor  # mu^b (C, D)
    drifts: Tensor  # Delta mu^{b -> latest} (C, D)

    def __post_init__(self) -> None:
        shape = tuple(self.prototypes.shape)
        if not self.categories or len(set(self.categories)) != len(self.categories):
            _refuse("categories", f"{len(self.categories)} names", "one or more names, each once")
        if len(shape) != 2 or shape[0] != len(self.categories) or shape[1] < 1:
            _refuse("prototypes", shape, f"({len(self.categories)}, D)")
        if self.drifts.shape != self.prototypes.shape:
            _refuse("drifts", tuple(self.drifts.shape), shape)
        for field, tensor in (("prototypes", self.prototypes), ("drifts", self.drifts)):
            if tensor.dtype != torch.float32 or tensor.device.type != "cpu" or not tensor.isfinite().all():
                _refuse(field, f"{tensor.dtype} on {tensor.device}, or not finite", "finite float32 on the CPU")

    @property
    def prototypes_now(self) -> Tensor:
        """mu^latest (C, D): the prototypes where the latest model would put them."""
        return self.prototypes + self.drifts


@dataclass(frozen=True, eq=False)
class Memory:
    """All earlier stages, as seen from one model. It begins as `Memory(model, dimension)`, without a stage.

    The last stage's drifts are zero, as its own model is the latest: its virtual features are the teacher's features.
    """

    model: str  # the identity of the network that every drift leads to
    dimension: int  # D
    stages: tuple[StageMemory, ...] = ()  # by number, ascending

    def __post_init__(self) -> None:
        numbers = [stage.stage for stage in self.stages]
        if numbers != sorted(set(numbers)):
            _refuse("stages", numbers, "ascending numbers")
        for stage in self.stages:
            if stage.prototypes.shape[1] != self.dimension:
                _refuse("dimension", stage.prototypes.shape[1], self.dimension)

    def after_stage(
        self,
        stage: int,
        categories: Sequence[str],
        labels: Tensor,
        *,
        model: str,
        features: Tensor,
        features_before: Tensor,
        features_of: Mapping[int, Tensor] | None = None,
    ) -> Memory:
        """The memory once `stage` is learned, from its own M photos; all of it before the next stage trains.

        labels (M)              indices into `categories`, each of which has a photo
        model, features (M, D)  the model that has just learned the stage, and its features of the photos
        features_before (M, D)  the same photos by `self.model`
        features_of             the same photos by the model of an earlier stage b, (M, D), for the b that are at hand

        The drift of a stage in `features_of` is Eq. 3 as it stands. Any other's is its drift so far plus Eq. 3 from
        `self.model` to `model`, for prototypes moved to `self.model`: no old model is needed, but errors add up.

        Departs from the paper: it has every old model, and no chain. For the stage before this one the two are equal.
        """
        for tensor in (features, features_before, *(features_of or {}).values()):
            if tuple(tensor.shape) != (len(labels), self.dimension):
                _refuse("features", tuple(tensor.shape), (len(labels), self.dimension))
        present, means = prototypes(features.float(), labels)
        if present.tolist() != list(range(len(categories))):
            _refuse("labels", f"{len(present)} of them", f"every index below {len(categories)}, and no other")
        earlier = [_moved(old, features, features_before, (features_of or {}).get(old.stage)) for old in self.stages]
        latest = StageMemory(stage, tuple(categories), means.cpu(), torch.zeros_like(means, device="cpu"))
        return Memory(model, self.dimension, (*earlier, latest))

    def to_bytes(self) -> bytes:
        """The content of its file."""
        unsealed = self._serialised(seal="")
        return self._serialised(seal=hashlib.sha256(unsealed).hexdigest())

    def _serialised(self, seal: str) -> bytes:
        header = {
            "format": _FORMAT,
            "model": self.model,
            "dimension": self.dimension,
            "stages": [[stage.stage, stage.categories] for stage in self.stages],
            "sha256": seal,
        }
        empty = [torch.zeros(0, self.dimension)]
        tensors = {
            "prototypes": torch.cat(empty + [stage.prototypes for stage in self.stages]),
            "drifts": torch.cat(empty + [stage.drifts for stage in self.stages]),
        }
        return safetensors.torch.save(tensors, {_HEADER: json.dumps(header)})


def save(memory: Memory, path: Path) -> None:
    """Replaces the file at `path` in one step. Errors: OSError."""
    write_bytes(path, memory.to_bytes())


def load(path: Path, *, model: str, dimension: int) -> Memory:
    """The memory at `path`, which must lead to the network `model` with embeddings of `dimension`.

    Errors: ModelDamaged when it is missing, altered, or of another format version; InvalidField when it is another
    network's.
    """
    try:
        memory = _parse(path)
        altered = memory.to_bytes() != path.read_bytes()
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError, InvalidField) as error:
        raise ModelDamaged(
            f"{path} is missing, or no memory: {error}", got=error, expected="a memory's file"
        ) from error
    if altered:
        raise ModelDamaged(f"{path} was altered", got="other bytes", expected="the bytes that were saved")
    for field, got, expected in (("dimension", memory.dimension, dimension), ("model", memory.model, model)):
        if got != expected:
            raise InvalidField(
                f"{path} is the memory of another network: its {field} is {got}, not {expected}",
                field=field,
                got=got,
                expected=expected,
            )
    return memory


def _moved(stage: StageMemory, features: Tensor, features_before: Tensor, features_b: Tensor | None) -> StageMemory:
    if features_b is not None:
        drifts = _drift(features_b, features, stage.prototypes)
    else:
        drifts = stage.drifts + _drift(features_before, features, stage.prototypes_now)
    return replace(stage, drifts=drifts)


def _drift(features_b: Tensor, features_now: Tensor, prototypes_b: Tensor) -> Tensor:
    return prototype_drift(features_b.float(), features_now.float(), prototypes_b.to(features_b.device)).cpu()


def _parse(path: Path) -> Memory:
    with safe_open(path, framework="pt") as file:
        header: Any = json.loads((file.metadata() or {})[_HEADER])
        if header["format"] != _FORMAT:
            raise ValueError(f"its format is {header['format']}, not {_FORMAT}")
        kept, drifts = file.get_tensor("prototypes"), file.get_tensor("drifts")
    sizes = [len(categories) for _, categories in header["stages"]]
    parts = zip(header["stages"], torch.split(kept, sizes), torch.split(drifts, sizes), strict=True)
    stages = (StageMemory(number, tuple(names), *tensors) for (number, names), *tensors in parts)
    return Memory(header["model"], header["dimension"], tuple(stages))


def _refuse(field: str, got: object, expected: object) -> NoReturn:
    raise InvalidField(f"{field} of a memory: got {got}, expected {expected}", field=field, got=got, expected=expected)
