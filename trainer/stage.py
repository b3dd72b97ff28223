"""Training one stage: the loop from a learner's start to its end, which can be broken off anywhere and taken up again.

What step t does follows from the start, the schedule, the seed and t, so a loop that was broken off, at any point and
in any way, ends in the same weights as one that was not: to the bit on one CPU with one number of threads.

| crash at this step            | found so at restart                                                        |
|-------------------------------|----------------------------------------------------------------------------|
| between two checkpoints       | the earlier one; the steps after it are done again, with the same result   |
| while a checkpoint is written | the earlier one, whole, and a `.staging-*` file, which the restart removes |
"""

from __future__ import annotations

import contextlib
import io
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from indexer.errors import InvalidField, ModelDamaged
from indexer.files import sweep, write_bytes
from indexer.model import Preprocessing
from trainer.augment import Augmentation
from trainer.loader import Loader, in_order
from trainer.methods import Learner
from trainer.network import EmbeddingNetwork
from trainer.sampling import PKSampler
from trainer.training_data import TrainingStage

CHECKPOINT_S: Final = 60.0  # at most so much work is done again

_FORMAT: Final = 1


@dataclass(frozen=True)
class Schedule:
    """How a stage is trained; the values are the papers'."""

    steps: int = 5000
    learning_rate: float = 1e-5
    weight_decay: float = 5e-4
    p: int = 16  # categories in a batch
    k: int = 5  # photos of each

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InvalidField("a schedule has steps", field="steps", got=self.steps, expected="at least 1")
        if not (0 < self.learning_rate < 1 and 0 <= self.weight_decay < 1):
            raise InvalidField(
                "the learning rate or the weight decay is out of range",
                field="learning_rate",
                got=f"{self.learning_rate}, {self.weight_decay}",
                expected="between 0 and 1",
            )


@dataclass(frozen=True)
class Progress:
    """One step's end."""

    step: int  # steps done
    steps: int
    losses: Mapping[str, float]  # this step's weighted terms
    seconds: float  # that the step took, waiting for its batch included


class Diverged(ArithmeticError):
    """A loss is no finite number."""


def train(
    learner: Learner,
    stage: TrainingStage,
    schedule: Schedule,
    augmentation: Augmentation,
    *,
    seed: int,
    device: torch.device,
    key: str,
    checkpoint: Path | None = None,
    checkpoint_s: float = CHECKPOINT_S,
    workers: int = 1,
    after_step: Callable[[Progress], None] = lambda progress: None,
) -> EmbeddingNetwork:
    """Trains the learner's students in place, `schedule.steps` steps with Adam; returns the served one, in eval mode.

    checkpoint  a file for what is needed to go on; if it exists, training goes on from it. The caller removes it. No
                other process writes to its folder, which is swept of what a crash has left
    key         names the start, the method and the photos; a checkpoint with another key or schedule is refused
    after_step  hears of every step; the learner's networks are then as that step left them. If it raises, training ends
                there, with a checkpoint

    Errors: InvalidField for a checkpoint of another training, ModelDamaged for one that cannot be read, Diverged when a
    loss is not finite, ImageUnreadable or ImageTooLarge for a photo, OSError when the disk is full.
    """
    students = nn.ModuleDict(dict(learner.students)).to(device)
    optimizer = torch.optim.Adam(
        students.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True
    )
    state = _Checkpoint(checkpoint, f"{key} {schedule} {augmentation} {seed}", students, optimizer, checkpoint_s)
    begin = state.restore()
    sampler = PKSampler(stage.labels, seed=seed, p=schedule.p, k=schedule.k)
    loader = Loader(stage, sampler, augmentation, seed=seed, pin_memory=device.type == "cuda")
    students.train()
    with loader.ahead(range(begin, schedule.steps), workers=workers) as batches, state.kept():
        started = time.monotonic()
        for batch in batches:
            state.whole = False
            images = batch.images.to(device, non_blocking=True)
            losses = step(learner, optimizer, images, batch.labels.to(device, non_blocking=True), batch.step)
            state.done, state.whole = batch.step + 1, True
            now = time.monotonic()
            after_step(Progress(state.done, schedule.steps, losses, now - started))
            state.save_if_due()
            started = time.monotonic()
    students.eval()
    return learner.served


def step(
    learner: Learner, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, number: int
) -> dict[str, float]:
    """One step on a batch: images uint8 (N, S, S, 3), labels (N). Returns the weighted terms. Errors: Diverged.

    On a GPU the networks run in bfloat16; the losses stay in float32.
    """
    with torch.autocast(images.device.type, torch.bfloat16, enabled=images.device.type == "cuda"):
        terms = learner.losses(images, labels, number)
    total = torch.stack(list(terms.values())).sum()
    optimizer.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call] # torch has no type for it
    values = dict(zip(terms, torch.stack(list(terms.values())).tolist(), strict=True))
    if not total.isfinite():
        raise Diverged(f"step {number + 1}: the losses are {values}, not finite numbers")
    optimizer.step()
    return values


@torch.no_grad()
def features(
    network: EmbeddingNetwork,
    stage: TrainingStage,
    preprocessing: Preprocessing,
    device: torch.device,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Tensor, Tensor]:
    """Features (M, D) before normalisation and labels (M) of a stage's photos, as serving sees them; on the CPU.

    `tick` hears how many photos are done; what it raises ends the work.
    """
    network.eval()
    rows, labels, done = [], [], 0
    with in_order(stage, preprocessing) as batches:
        for batch in batches:
            rows.append(network.features(batch.images.to(device)).float().cpu())
            labels.append(batch.labels)
            done += len(batch.labels)
            tick(done, len(stage))
    return torch.cat(rows), torch.cat(labels)


def _parsed(content: bytes) -> dict[str, Any]:
    """What `torch.save` wrote. Errors: anything, when it did not write these bytes."""
    if altered := zipfile.ZipFile(io.BytesIO(content)).testzip():  # torch writes checksums, but does not compare them
        raise ValueError(f"{altered} was altered")
    state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state


@dataclass
class _Checkpoint:
    """The file that training goes on from: the students' weights, Adam's state and the steps done."""

    path: Path | None
    key: str
    students: nn.Module
    optimizer: torch.optim.Optimizer
    every_s: float
    done: int = 0
    whole: bool = True  # False inside a step, whose half is not to be kept
    _saved: int = 0
    _saved_at: float = field(default_factory=time.monotonic)

    def restore(self) -> int:
        """The number of steps that are done, with weights and optimizer as those left them."""
        if self.path is None:
            return 0
        sweep(self.path.parent)
        if not self.path.exists():
            return 0
        content = self.path.read_bytes()
        try:
            state = _parsed(content)
            kept, done = state["key"], int(state["done"])
        except Exception as error:  # the unpickler raises whatever the bytes bring about
            raise ModelDamaged(f"{self.path} is no checkpoint", got=error, expected="a checkpoint") from error
        if (state.get("format"), kept) != (_FORMAT, self.key):
            raise InvalidField(
                f"{self.path} is the checkpoint of another training; remove it to begin anew",
                field="checkpoint",
                got=kept,
                expected=self.key,
            )
        self.students.load_state_dict(state["students"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.done = self._saved = done
        return done

    def save_if_due(self) -> None:
        if time.monotonic() - self._saved_at >= self.every_s:
            self.save()

    def save(self) -> None:
        if self.path is None or self.done == self._saved:
            return
        content = io.BytesIO()
        state = {
            "format": _FORMAT,
            "key": self.key,
            "done": self.done,
            "students": self.students.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        torch.save(state, content)
        write_bytes(self.path, content.getvalue())
        self._saved, self._saved_at = self.done, time.monotonic()

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Saves once more when the block ends, also when it is broken off between two steps."""
        try:
            yield
        except BaseException:
            if self.whole:
                with contextlib.suppress(OSError):  # the error that broke it off says more
                    self.save()
            raise
        self.save()
