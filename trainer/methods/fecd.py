"""FECD: feature-estimation-based correlation distillation (Chen et al., ACM MM 2021), the paper's baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trainer import estimates
from trainer.losses import triplet
from trainer.methods._correlation import correlation
from trainer.methods._method import Learner, Start


@dataclass(frozen=True)
class Fecd:
    """One student, one teacher: L = L_triplet + lambda_2 L_corr, with old features that are scaled at random."""

    learns: ClassVar[bool] = True
    keeps_photos: ClassVar[bool] = False

    correlation: float = 10.0  # lambda_2

    def begin(self, start: Start) -> Learner:
        served, teacher = start.copy(), start.teacher()
        old = estimates.scaled(start.memory, seed=start.seed, device=start.device)

        def losses(images: Tensor, labels: Tensor, step: int) -> dict[str, Tensor]:
            with torch.no_grad():
                taught = teacher.features(images)
            f = served.features(images)
            return {
                "triplet": triplet(f, labels),
                "correlation": self.correlation * correlation(f, taught, *old(taught, step)),
            }

        return Learner({"served": served}, losses, forwards=1)


METHOD = Fecd
