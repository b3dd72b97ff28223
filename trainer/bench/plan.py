"""What a bench has to do, and where the files of each stage lie.

    <out>/runs/<backbone>/seed-<n>/first/                 stage 0, which all methods share
    <out>/runs/<backbone>/seed-<n>/<method>/stage-<i>/    the stages after it

A stage whose folder holds result.json is done. One without goes on from what else is there.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from trainer import methods
from trainer.bench.config import Bench

RESULT: Final = "result.json"
FIRST: Final = "initial"  # the method that learns the first stage


@dataclass(frozen=True)
class Run:
    """One method with one seed and backbone. The first stage belongs to the run of `FIRST`."""

    method: str
    seed: int
    backbone: str

    def folder(self, out: Path, stage: int) -> Path:
        runs = out / "runs" / self.backbone / f"seed-{self.seed}"
        return runs / "first" if stage == 0 else runs / re.sub(r"[^\w.=,+-]", "-", self.method) / f"stage-{stage}"


class Stage(NamedTuple):
    """One stage of a run."""

    run: Run
    number: int
    steps: int

    def folder(self, out: Path) -> Path:
        return self.run.folder(out, self.number)

    def done(self, out: Path) -> bool:
        return (self.folder(out) / RESULT).exists()

    def __str__(self) -> str:
        what = f"{self.run.method} stage {self.number}" if self.number else "first stage"
        return f"{what}, seed {self.run.seed}"


# The stages that one process learns, one after the other: the first stage alone, or all later ones of a run.
Task: TypeAlias = tuple[Stage, ...]


def tasks(bench: Bench) -> list[Task]:
    """All there is to do, in the order to begin it: the first stages, then the later ones of each run."""
    pairs = list(itertools.product(bench.backbones, bench.seeds))
    first = [(_first(bench, seed, backbone),) for backbone, seed in pairs]
    return first + [_later(bench, method, seed, backbone) for backbone, seed in pairs for method in bench.methods]


def needs(bench: Bench, task: Task) -> Stage | None:
    """The first stage that a task of later stages begins with; None for the task of a first stage."""
    run, number, _ = task[0]
    return _first(bench, run.seed, run.backbone) if number else None


def _first(bench: Bench, seed: int, backbone: str) -> Stage:
    return Stage(Run(FIRST, seed, backbone), 0, bench.first.steps)


def _later(bench: Bench, method: str, seed: int, backbone: str) -> Task:
    steps = bench.later.steps if methods.find(method).learns else 0
    return tuple(Stage(Run(method, seed, backbone), number, steps) for number in range(1, len(bench.protocol.stages)))


@contextlib.contextmanager
def alone(folder: Path, *, wait: bool) -> Iterator[None]:
    """Holds a folder for this process; the kernel releases it when the process dies.

    Errors: BlockingIOError when another process holds it and this one is not to wait for its end.
    """
    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(fd)
