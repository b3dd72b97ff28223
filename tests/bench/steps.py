"""What a training step of each method costs, against the passes over its network that it cannot do without.

    python -m tests.bench.steps [--store]       minutes; wants a machine that does nothing else
    python -m tests.bench.steps --quick         seconds: small photos and few rounds, to see that it runs

EfficientNet-Lite0 at 128 px, batches of 16 x 5 photos, on a GPU where there is one, with torch's own number of threads.

A step is that of `trainer.stage`: batch to the device, losses, backward, Adam; a thread makes the next batch meanwhile,
and is waited for. Its ceiling is the sum of the passes that its `Learner` names: for each student the features of a
batch and the backward pass of their sum, and for each of `forwards` the features without gradient.

Everything that is compared takes turns, in an order drawn anew for each round. A ratio is the median over rounds of the
quotient of two times of one round, with its quartiles beside it.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final
from unittest import mock

import torch
from torch import Tensor, nn

from indexer.allocator import keep_freed_memory
from tests.bench import machine
from tests.bench.stages import memory_of
from tests.trainer import photo_folders
from trainer import methods, stage
from trainer.augment import Augmentation
from trainer.backbones import efficientnet_lite0
from trainer.loader import Loader
from trainer.methods import Init, Start
from trainer.network import EmbeddingNetwork, create_network
from trainer.sampling import PKSampler
from trainer.stage import Schedule
from trainer.training_data import TrainingStage

BACKBONE: Final = "efficientnet_lite0"
METHODS: Final = ("finetune", "fecd", "mutual")  # a step of `joint` is one of `finetune`; `initial` has none
AIM: Final = {"mutual": 1.25}  # at most so many times its ceiling

PHOTO: Final = 256  # pixels of a side
WARM_UP: Final = 2  # turns that are not counted

Work = Callable[[], object]
Ratio = dict[str, float]


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    image_size: int = 128
    p: int = 16
    k: int = 5
    earlier: tuple[int, ...] = (1, 5, 20, 100)  # stages of 25 categories before the teacher's own
    rounds: int = 21
    process_rounds: int = 11  # of each pair of processes


QUICK: Final = Size(image_size=64, p=4, k=2, earlier=(1, 100), rounds=3, process_rounds=2)


class Setup:
    """The network and the batches that are worked on, in this process."""

    def __init__(self, size: Size) -> None:
        self._size = size
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._network = create_network(BACKBONE, size.image_size, seed=0).to(self._device).train()
        photos = _drawn(size)
        sampler = PKSampler(photos.labels, seed=0, p=size.p, k=size.k)
        pinned = self._device.type == "cuda"
        self._loader = Loader(photos, sampler, Augmentation(size.image_size), seed=0, pin_memory=pinned)
        self._maker = ThreadPoolExecutor(1)
        self._batch = self._loader.batch(0)
        self._images = self._batch.images.to(self._device)

    def student(self) -> None:
        """Forward and backward."""
        with self._autocast():
            total = self._network.features(self._images).sum()
        torch.autograd.backward(total)
        self._network.zero_grad(set_to_none=True)
        self._wait()

    @torch.no_grad()
    def teacher(self) -> None:
        """Forward without gradient."""
        with self._autocast():
            self._network.features(self._images)
        self._wait()

    def step(self, method: str, earlier: int) -> tuple[Work, int, int]:
        """A whole step with so many earlier stages; how many students it has, and forwards beside theirs."""
        memory = memory_of(earlier + 1, torch.Generator().manual_seed(0))  # the last one is the teacher's own
        learner = methods.find(method).begin(Start(self._network, memory, self._fresh, 0, self._device))
        students = nn.ModuleDict(dict(learner.students)).train()
        rate, decay = Schedule().learning_rate, Schedule().weight_decay
        optimizer = torch.optim.Adam(students.parameters(), lr=rate, weight_decay=decay, fused=True)
        numbers = itertools.count()

        def work() -> None:
            number = next(numbers)
            made = self._maker.submit(self._loader.batch, number + 1)
            images, labels = (
                tensor.to(self._device, non_blocking=True) for tensor in (self._batch.images, self._batch.labels)
            )
            stage.step(learner, optimizer, images, labels, number)
            self._batch = made.result()
            self._wait()

        return work, len(learner.students), learner.forwards

    def peak_memory_mib(self) -> float:
        """The most that this process has held: of the GPU's memory where there is one."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 2**20
        status = Path("/proc/self/status")
        if status.exists():  # getrusage would count the parent's peak too
            (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
            return int(line.split()[1]) / 2**10
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)

    def _fresh(self, init: Init) -> EmbeddingNetwork:
        return create_network(BACKBONE, self._size.image_size, seed=1, init=init).to(self._device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda")

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _drawn(size: Size) -> TrainingStage:
    """A stage of drawn photos: more categories and photos than a batch takes."""
    categories, each = size.p + 4, size.k + 1
    photos = tuple(photo_folders.photo(i, PHOTO, PHOTO) for i in range(categories * each))
    names = tuple(f"category {i}" for i in range(categories))
    return TrainingStage(0, names, photos, tuple(i // each for i in range(len(photos))))


def with_plain_layers(work: Work) -> Work:
    """The same work with each BatchNorm as a layer of its own."""

    def plain(conv: nn.Module, norm: nn.Module, x: Tensor) -> Any:
        return norm(conv(x))

    def patched() -> None:
        with mock.patch.object(efficientnet_lite0, "normed", plain):
            work()

    return patched


def in_turns(
    works: Mapping[str, Work], rounds: int, order: random.Random, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each work in each round. Every round does all of them once, in another order."""
    for work in works.values():
        for _ in range(WARM_UP):
            work()
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name in order.sample(list(works), len(works)):
            started = clock()
            works[name]()
            taken[name].append(clock() - started)
    return taken


def ratio(above: Sequence[float], below: Sequence[float]) -> Ratio:
    """Of two works that took turns: the median of their quotients, and the quartiles."""
    quotients = [a / b for a, b in zip(above, below, strict=True)]
    low, median, high = statistics.quantiles(quotients, n=4, method="inclusive")
    return {"median": round(median, 3), "lower_quartile": round(low, 3), "upper_quartile": round(high, 3)}


def ceiling(student: Sequence[float], teacher: Sequence[float], students: int, forwards: int) -> list[float]:
    """Seconds of a step's passes in each round."""
    return [students * both + forwards * forward for both, forward in zip(student, teacher, strict=True)]


def compare_works(size: Size) -> dict[str, Any]:
    """Steps and passes, all in this process."""
    setup, first = Setup(size), size.earlier[0]
    steps = {method: setup.step(method, first) for method in METHODS}
    steps |= {_many(count): setup.step("mutual", count) for count in size.earlier[1:]}
    works: dict[str, Work] = {"student": setup.student, "teacher": setup.teacher}
    works |= {name: work for name, (work, _, _) in steps.items()}
    plain = ("student", "teacher", "finetune")
    works |= {_plain(name): with_plain_layers(works[name]) for name in plain}
    taken = in_turns(works, size.rounds, random.Random(0))

    def over_ceiling(name: str) -> Ratio:
        _, students, forwards = steps[name]
        return ratio(taken[name], ceiling(taken["student"], taken["teacher"], students, forwards))

    return {
        "step_over_ceiling": {name: over_ceiling(name) for name in steps},
        "many_stages_over_one": {str(count): ratio(taken[_many(count)], taken["mutual"]) for count in size.earlier[1:]},
        "plain_layers_over_fused": {name: ratio(taken[_plain(name)], taken[name]) for name in plain},
        "median_s": {name: round(statistics.median(seconds), 4) for name, seconds in taken.items()},
    }


def _many(count: int) -> str:
    return f"mutual, {count} earlier stages"


def _plain(name: str) -> str:
    return f"{name}, plain layers"


class OwnProcess:
    """One method's steps in a process of their own, which does one whenever it is called."""

    def __init__(self, method: str, size: Size, *, keeps: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, method, size, keeps), daemon=True)
        self._process.start()
        theirs.close()  # so that its end is noticed here
        self.keeps: bool = self._pipe.recv()  # whether it keeps freed memory, once it is ready

    def __call__(self) -> None:
        self._pipe.send("step")
        self._pipe.recv()

    def end(self) -> float:
        """Its peak memory, in MiB."""
        self._pipe.send("end")
        peak: float = self._pipe.recv()
        self._process.join()
        return peak


def _serve(pipe: Connection, method: str, size: Size, keeps: bool) -> None:
    kept = keeps and keep_freed_memory()
    setup = Setup(size)
    work, _, _ = setup.step(method, size.earlier[0])
    pipe.send(kept)
    while pipe.recv() == "step":
        work()
        pipe.send(None)
    pipe.send(setup.peak_memory_mib())


def compare_processes(method: str, size: Size) -> dict[str, Any]:
    """One method's steps with freed memory kept and given back, and the peak memory of both."""
    kept, given_back = OwnProcess(method, size, keeps=True), OwnProcess(method, size, keeps=False)
    taken = in_turns({"kept": kept, "given back": given_back}, size.process_rounds, random.Random(0))
    gain = ratio(taken["given back"], taken["kept"]) if kept.keeps else None  # None: this system has no such choice
    return {"gain": gain, "peak_memory_mib": {"kept": round(kept.end()), "given back": round(given_back.end())}}


def measure(size: Size) -> dict[str, Any]:
    """All figures, ratios first."""
    processes = {}
    for method in METHODS:
        print(f"{method}, in two processes", file=sys.stderr)
        processes[method] = compare_processes(method, size)
    print("all steps and passes, in one process", file=sys.stderr)
    keeps_freed_memory = keep_freed_memory()
    works = compare_works(size)
    return {
        "aim": AIM,
        "step_over_ceiling": works["step_over_ceiling"],
        "many_stages_over_one": works["many_stages_over_one"],
        "plain_layers_over_fused": works["plain_layers_over_fused"],
        "memory_given_back_over_kept": {method: row["gain"] for method, row in processes.items()},
        "peak_memory_mib": {method: row["peak_memory_mib"] for method, row in processes.items()},
        "median_s": works["median_s"],
        "backbone": BACKBONE,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "keeps_freed_memory": keeps_freed_memory,
        "size": asdict(size),
    }


def table(figures: dict[str, Any]) -> str:
    """The ratios as Markdown."""
    lines = ["| ratio | median | quartiles |", "|---|---:|---|"]

    def add(what: str, row: Ratio | None) -> None:
        if row is not None:
            lines.append(
                f"| {what} | {row['median']:.2f} | {row['lower_quartile']:.2f} to {row['upper_quartile']:.2f} |"
            )

    for name, row in figures["step_over_ceiling"].items():
        add(f"{name}: a step over its passes", row)
    for count, row in figures["many_stages_over_one"].items():
        add(f"mutual: {count} earlier stages over {figures['size']['earlier'][0]}", row)
    for name, row in figures["plain_layers_over_fused"].items():
        add(f"{name}: plain layers over fused", row)
    for name, row in figures["memory_given_back_over_kept"].items():
        add(f"{name}: freed memory given back over kept", row)
    lines += ["", "| peak memory, MiB | kept | given back |", "|---|---:|---:|"]
    lines += [
        f"| {name} | {row['kept']:,} | {row['given back']:,} |" for name, row in figures["peak_memory_mib"].items()
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.steps", description=(__doc__ or "").split("\n")[0])
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="small and few: shows that it runs, and nothing else")
    how.add_argument("--store", action="store_true", help="keep the figures in tests/bench/results/steps.json")
    options = parser.parse_args()
    figures = measure(QUICK if options.quick else Size())
    print(table(figures))
    if options.store:
        print(machine.store("steps", figures).name)


if __name__ == "__main__":
    main()
