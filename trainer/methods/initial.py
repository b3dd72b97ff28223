"""The model of the first stage, for ever: what stays when nothing new is learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trainer.methods.finetune import Finetune


@dataclass(frozen=True)
class Initial(Finetune):
    """ "Initial" of mutual, Tab. 2. The first stage itself is the triplet loss alone."""

    learns: ClassVar[bool] = False


METHOD = Initial
