"""Fine-tuning: the triplet loss on the stage's photos, and nothing that holds on to the old."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from trainer.losses import triplet
from trainer.methods._method import Learner, Start


@dataclass(frozen=True)
class Finetune:
    """The lower reference of mutual, Tab. 2."""

    learns: ClassVar[bool] = True
    keeps_photos: ClassVar[bool] = False

    def begin(self, start: Start) -> Learner:
        served = start.copy()

        def losses(images: Tensor, labels: Tensor, step: int) -> dict[str, Tensor]:
            return {"triplet": triplet(served.features(images), labels)}

        return Learner({"served": served}, losses)


METHOD = Finetune
