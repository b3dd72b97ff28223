"""The seam between the loop that trains a stage and the ways to learn it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from trainer.memory import Memory
from trainer.network import EmbeddingNetwork

Init = Literal["pretrained", "random"]


@dataclass(frozen=True)
class Start:
    """What the training of one stage starts from. Nothing in it leads to a photo."""

    network: EmbeddingNetwork  # F_{i-1}, the served model; methods copy it and never change it
    memory: Memory  # of the stages that it has learned
    fresh: Callable[[Init], EmbeddingNetwork]  # another network of the same structure
    seed: int  # of everything that the method draws
    device: torch.device

    def copy(self) -> EmbeddingNetwork:
        """A network to train, with the weights of F_{i-1}."""
        return copy.deepcopy(self.network).requires_grad_(True).train()

    def teacher(self) -> EmbeddingNetwork:
        """F_{i-1}, frozen."""
        return copy.deepcopy(self.network).requires_grad_(False).eval()


# images uint8 (N, S, S, 3), labels int64 (N), step -> weighted terms; their sum is minimised.
Losses = Callable[[Tensor, Tensor, int], dict[str, Tensor]]


@dataclass(frozen=True)
class Learner:
    """What is trained in one stage, and by what losses.

    students  the networks whose weights change, by name; "served" is the one that goes live
    losses    one step's terms, by name
    forwards  passes without gradient that a step must do beside the students' own, such as the teacher's: a step
              costs at least len(students) x (forward + backward) + forwards x forward
    """

    students: Mapping[str, EmbeddingNetwork]
    losses: Losses
    forwards: int = 0

    @property
    def served(self) -> EmbeddingNetwork:
        return self.students["served"]


class Method(Protocol):
    """One way to learn a stage of new categories: a frozen dataclass whose fields are its settings.

    A file in this package defines it as `METHOD`, and the file's name is the method's.
    """

    learns: ClassVar[bool]  # False: stays as it is after the first stage
    keeps_photos: ClassVar[bool]  # True: handed all photos up to the stage, as a reference only

    def begin(self, start: Start) -> Learner:
        """The networks and losses of one stage."""
        ...
