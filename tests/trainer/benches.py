"""Benches of drawn photos, whose steps take milliseconds."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer import photo_folders, tiny_backbones
from trainer import backbones, protocol
from trainer.bench.config import Bench
from trainer.bench.plan import RESULT, Stage, Task, tasks
from trainer.bench.run import Runner
from trainer.protocol import Split
from trainer.stage import Schedule

SPLIT = Split(train=0.7, validation=0.25)  # of a category's 12 photos 6 train, 2 validate and 4 test
METHODS = ("initial", "finetune", "joint", "mutual")
MEASURED = ("seconds", "seconds_per_step", "peak_memory_mib")  # what differs from one time to the next


@contextlib.contextmanager
def tiny_backbone() -> Iterator[None]:
    """There is a backbone `tiny`, and one thread, as the bench's own processes have."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "__path__", [*backbones.__path__, *tiny_backbones.__path__])
        yield
    torch.set_num_threads(threads)


def photos(folder: Path, categories: int = 6) -> Path:
    return photo_folders.make(folder, {f"c{i}": 12 for i in range(categories)})


def bench(folder: Path, sizes: tuple[int, ...] = (2, 2, 2), **changes: Any) -> Bench:
    first, later = (Schedule(steps, learning_rate=1e-3, p=2, k=2) for steps in (3, 4))
    settings: dict[str, Any] = {
        "protocol": protocol.build(folder, sizes, split=SPLIT),
        "photos_digest": "photos",
        "methods": METHODS,
        "seeds": (0,),
        "backbones": ("tiny",),
        "first": first,
        "later": later,
        "image_size": 32,
        "evaluate_every": 2,
    }
    return Bench(**settings | changes)


def task(given: Bench, method: str) -> Task:
    """The one of a method's later stages, with the first seed."""
    return next(task for task in tasks(given) if task[0].run.method == method and task[0].number == 1)


def do_all(given: Bench, out: Path) -> Path:
    """In this process."""
    for each in tasks(given):
        Runner(given, out).do(each)
    return out


def files(out: Path, stage: Stage) -> dict[str, str]:
    """What a stage has left: the files' SHA-256, and its result without what differs from one time to the next."""
    folder = stage.folder(out)
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    result = json.loads((folder / RESULT).read_text())
    return found | {RESULT: json.dumps({name: value for name, value in result.items() if name not in MEASURED})}


def everything(given: Bench, out: Path) -> dict[str, dict[str, str]]:
    """The files of all stages."""
    stages = itertools.chain(*tasks(given))
    return {stage.folder(out).relative_to(out).as_posix(): files(out, stage) for stage in stages}
