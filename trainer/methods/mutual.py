"""Mutual distillation: two students learn the new categories and from each other, under one frozen teacher.

Online Deep Metric Learning via Mutual Distillation (Liu, Wan-Lei Zhao, Jie Zhao): Eq. 1 and 2 for the first new stage,
with its third term replaced by Eq. 6 from the second one on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from trainer import estimates
from trainer.losses import mutual_gram_kl, triplet
from trainer.methods._correlation import correlation
from trainer.methods._method import Init, Learner, Start


@dataclass(frozen=True)
class Mutual:
    """F_o is the teacher, F_p the served student and F_s the supporting one.

        L = lambda_1 L_triplet(F_p) + lambda_1 L_triplet(F_s) + lambda_2 L_corr(F_o, F_p) + lambda_3 L_mutual(F_s, F_p)

    lambda_1 is 1. `old` says how the features of models before F_o are estimated: "virtual" is the paper's, "scaled"
    makes its "FECD(Mutual)", "none" its "Mutual" (Tab. 5).
    """

    learns: ClassVar[bool] = True
    keeps_photos: ClassVar[bool] = False

    correlation: float = 10.0  # lambda_2
    mutual: float = 8.0  # lambda_3
    supporter: Init = "random"  # how F_s begins, anew at each stage
    old: Literal["virtual", "scaled", "none"] = "virtual"

    def begin(self, start: Start) -> Learner:
        teacher, served, supporter = start.teacher(), start.copy(), start.fresh(self.supporter)
        old = estimates.find(self.old)(start.memory, seed=start.seed, device=start.device)

        def losses(images: Tensor, labels: Tensor, step: int) -> dict[str, Tensor]:
            with torch.no_grad():
                f_o = teacher.features(images)
            f_p, f_s = served.features(images), supporter.features(images)
            return {
                "triplet": triplet(f_p, labels),
                "triplet_supporter": triplet(f_s, labels),
                "correlation": self.correlation * correlation(f_p, f_o, *old(f_o, step)),
                "mutual": self.mutual * mutual_gram_kl(f_s, f_p),
            }

        return Learner({"served": served, "supporter": supporter}, losses, forwards=1)


METHOD = Mutual
