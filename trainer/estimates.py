"""Old features for the correlation loss: what earlier models would have said of a photo, told from the teacher alone.

Each function here makes an `Estimate` from the memory of the stages before. Stage i-1's own features are the teacher's,
so an estimate speaks of the stages before it; with none before it, it adds nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import torch
from torch import Tensor

from indexer.errors import InvalidField
from trainer.drift import MOST_STAGES, sample_stages, virtual_features_of_stages
from trainer.memory import Memory
from trainer.sampling import generator

# (features by the teacher (N, D), step) -> features by B earlier models (B, N, D), and the factor of their losses' sum.
Estimate: TypeAlias = Callable[[Tensor, int], tuple[Tensor, float]]

# FECD's released code multiplies by 1 + u, u uniform between these.
FECD_LEAST: Final = -0.0443
FECD_MOST: Final = 0.2230

_STAGES: Final = 2  # first numbers of the keys of random draws; those of sampling and augmentation are 0 and 1
_SCALES: Final = 3


def virtual(memory: Memory, *, seed: int, device: torch.device, at_most: int = MOST_STAGES) -> Estimate:
    """Virtual features (mutual, Eq. 4), of at most so many stages a step; see `drift.sample_stages`."""
    earlier = memory.stages[:-1]
    now = [stage.prototypes_now.to(device) for stage in earlier]
    drifts = [stage.drifts.to(device) for stage in earlier]

    def estimate(features: Tensor, step: int) -> tuple[Tensor, float]:
        chosen, factor = sample_stages(len(earlier), _torch_generator(seed, _STAGES, step), at_most)
        if not chosen:
            return features.new_zeros(0, *features.shape), factor
        return virtual_features_of_stages(features, [now[b] for b in chosen], [drifts[b] for b in chosen]), factor

    return estimate


def scaled(memory: Memory, *, seed: int, device: torch.device, at_most: int = MOST_STAGES) -> Estimate:
    """The estimate of FECD (Chen et al., 2021), as its released code has it: every element of a feature times 1 + u."""
    earlier = len(memory.stages[:-1])

    def estimate(features: Tensor, step: int) -> tuple[Tensor, float]:
        draw = _torch_generator(seed, _SCALES, step)
        shape = (min(earlier, at_most), *features.shape)
        u = torch.rand(shape, generator=draw) * (FECD_MOST - FECD_LEAST) + FECD_LEAST
        return features * (1 + u.to(device)), earlier / max(1, shape[0])

    return estimate


def none(memory: Memory, *, seed: int, device: torch.device) -> Estimate:
    """The teacher alone: the correlation with F_{i-1} and with no model before it."""
    return lambda features, step: (features.new_zeros(0, *features.shape), 1.0)


_ESTIMATES: Final = {"virtual": virtual, "scaled": scaled, "none": none}


def find(name: str) -> Callable[..., Estimate]:
    """The estimate of that name: called with a memory, `seed` and `device`. Errors: InvalidField."""
    if name not in _ESTIMATES:
        raise InvalidField(
            f"there is no estimate of old features {name!r}", field="old", got=name, expected=", ".join(_ESTIMATES)
        )
    return _ESTIMATES[name]


def _torch_generator(seed: int, *key: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(generator(seed, *key).integers(2**63)))
