"""Joint training: the triplet loss on the photos of every stage so far. It keeps what the others must do without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trainer.methods.finetune import Finetune


@dataclass(frozen=True)
class Joint(Finetune):
    """The upper reference of mutual, Tab. 2 and 3.

    Departs from the paper: it goes on from the model of the stage before, with the photos of all stages, in place of
    one training of all categories from the start. So its steps compare with those of the other methods.
    """

    keeps_photos: ClassVar[bool] = True


METHOD = Joint
