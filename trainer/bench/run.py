"""One run of the bench: a method learns the stages one after the other, from the first model of its seed and backbone.

A stage's folder holds model.safetensors, memory.safetensors and result.json; while it is learned, also its checkpoint
and what the training has shown.

| crash at this step                       | found so at restart                                                       |
|------------------------------------------|---------------------------------------------------------------------------|
| while it trains                          | the checkpoint and the record, from which training goes on                |
| before or between model, memory, result  | the checkpoint of the last step; what is there is written again, the same |
| after the result                         | it is done; `tidy` removes what only training needed                      |
"""

from __future__ import annotations

import hashlib
import itertools
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from indexer.errors import InvalidField, ModelDamaged
from indexer.files import sha256_file, sweep, write_bytes, write_json
from trainer import memory as memories
from trainer import methods
from trainer.bench import evaluate
from trainer.bench.config import Bench
from trainer.bench.evaluate import Photos
from trainer.bench.plan import RESULT, Run, Stage, alone, needs, tasks
from trainer.bench.record import MILESTONES, STEPS, Record
from trainer.memory import MEMORY, Memory
from trainer.methods import Init, Start
from trainer.network import EmbeddingNetwork, create_network
from trainer.sampling import generator
from trainer.stage import Progress, features, train

MODEL: Final = "model.safetensors"
CHECKPOINT: Final = "checkpoint.pt"


class News(NamedTuple):
    """How far a stage is."""

    stage: Stage
    step: int = 0  # steps done
    loss: float | None = None  # of the last step; None before it
    step_s: float = 0.0  # median seconds of a step; 0 before one
    evaluation_s: float = 0.0  # seconds of the last measurement of recall; 0 before one
    recalls: Mapping[str, Any] | None = None  # of the last milestone, when the stage is done


class _MilestoneMissed(Exception):
    """The checkpoint is of a step whose recall could not be kept, as when the disk was full: the stage begins anew."""


class _Shape(NamedTuple):
    """What networks of one bench have in common. Methods are handed it, so nothing in it leads to a photo."""

    backbone: str
    image_size: int
    dimension: int
    weights: Path | None


def _network(shape: _Shape, seed: int, device: torch.device, init: Init) -> EmbeddingNetwork:
    return create_network(
        shape.backbone, shape.image_size, seed=seed, init=init, weights=shape.weights, dimension=shape.dimension
    ).to(device)


class Runner:
    """Does the runs of one bench, in this process.

    tell  hears of a stage's begin, of every step and of the end; if it raises, the stage ends there, with a checkpoint
    """

    def __init__(self, bench: Bench, out: Path, tell: Callable[[News], None] = lambda news: None) -> None:
        self._bench, self._out, self._tell = bench, out, tell
        self._device = torch.device(bench.device)

    def do(self, stages: Sequence[Stage]) -> None:
        """Learns those stages of a run that are not done, in their order.

        Errors: those of `trainer.stage.train`; ModelDamaged or InvalidField for files of the stage before.
        """
        protocol, preprocessing, last = self._bench.protocol, self._bench.preprocessing, stages[-1].number
        photos = {part: evaluate.read(protocol, part, preprocessing, last) for part in evaluate.PARTS}
        for stage in stages:
            folder = stage.folder(self._out)
            folder.mkdir(parents=True, exist_ok=True)
            with alone(folder, wait=True):  # a process that outlived its killed bench may be at its last step there
                if not stage.done(self._out):
                    self._learn(stage, {part: of.until(stage.number) for part, of in photos.items()})
                tidy(folder)

    def _learn(self, stage: Stage, photos: Mapping[str, Photos]) -> None:
        folder, evaluation_s = stage.folder(self._out), 0.0
        self._tell(News(stage))
        before, memory = self._before(stage)
        record = Record(folder)

        def measure(step: int, network: EmbeddingNetwork) -> None:
            nonlocal evaluation_s
            started = time.monotonic()
            record.milestone(step, self._recalls(network, photos, stage.number))
            evaluation_s = time.monotonic() - started

        def after_step(progress: Progress, network: EmbeddingNetwork) -> None:
            if self._measures_at(progress.step - 1) and not record.has_milestone(progress.step - 1):
                raise _MilestoneMissed
            record.add(progress, _peak_memory_mib(self._device))
            if self._measures_at(progress.step) and progress.step < progress.steps:
                measure(progress.step, network)
            loss = sum(progress.losses.values())
            self._tell(News(stage, progress.step, loss, record.seconds_per_step, evaluation_s))

        try:
            served = self._train(stage, before, memory, after_step) if stage.steps else before
        except _MilestoneMissed:
            tidy(folder)
            self._learn(stage, photos)
            return
        if not record.has_milestone(stage.steps):
            measure(stage.steps, served)
        self._keep(stage, before, memory, served)
        result = self._result(stage, record)
        write_json(folder / RESULT, result)
        recalls = result["milestones"][-1]
        self._tell(News(stage, stage.steps, None, record.seconds_per_step, evaluation_s, recalls))

    def _measures_at(self, step: int) -> bool:
        return step > 0 and self._bench.evaluate_every > 0 and step % self._bench.evaluate_every == 0

    def _train(
        self,
        stage: Stage,
        before: EmbeddingNetwork,
        memory: Memory,
        after_step: Callable[[Progress, EmbeddingNetwork], None],
    ) -> EmbeddingNetwork:
        (run, number, _), bench = stage, self._bench
        seed, method = _seed(run.seed, number), methods.find(run.method)
        learner = method.begin(
            Start(before, memory, partial(_network, self._shape(run.backbone), seed, self._device), seed, self._device)
        )
        return train(
            learner,
            bench.protocol.joint_training(number) if method.keeps_photos else bench.protocol.training(number),
            bench.later if number else bench.first,
            bench.augmentation,
            seed=seed,
            device=self._device,
            key=self._key(run, number),
            checkpoint=stage.folder(self._out) / CHECKPOINT,
            after_step=lambda progress: after_step(progress, learner.served),
        )

    def _before(self, stage: Stage) -> tuple[EmbeddingNetwork, Memory]:
        """The served network and the memory that a stage starts from."""
        run, number, _ = stage
        if number == 0:
            return self._fresh(run.backbone, "pretrained", _seed(run.seed, 0)), Memory("", self._bench.dimension)
        folder = run.folder(self._out, number - 1)
        return self._load(run, number - 1), _memory(folder, self._bench.dimension)

    def _fresh(self, backbone: str, init: Init, seed: int) -> EmbeddingNetwork:
        return _network(self._shape(backbone), seed, self._device, init)

    def _shape(self, backbone: str) -> _Shape:
        bench = self._bench
        return _Shape(backbone, bench.image_size, bench.dimension, bench.weights)

    def _load(self, run: Run, number: int) -> EmbeddingNetwork:
        """The model that a stage ended with."""
        network, path = self._fresh(run.backbone, "random", 0), run.folder(self._out, number) / MODEL
        try:
            network.load_state_dict(safetensors.torch.load_file(path))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ModelDamaged(f"{path} is missing, or not this network's", got=error) from error
        return network.eval()

    def _keep(self, stage: Stage, before: EmbeddingNetwork, memory: Memory, served: EmbeddingNetwork) -> None:
        """Writes model, and memory with the drifts that this stage's photos show (Eq. 3, of every old model)."""
        (run, number, _), folder = stage, stage.folder(self._out)
        state = {name: value.cpu().contiguous() for name, value in served.state_dict().items()}
        write_bytes(folder / MODEL, safetensors.torch.save(state))
        photos = self._bench.protocol.training(number)

        def of(network: EmbeddingNetwork) -> Tensor:
            return features(network, photos, self._bench.preprocessing, self._device)[0]

        updated = memory.after_stage(
            number,
            photos.categories,
            torch.tensor(photos.labels),
            model=sha256_file(folder / MODEL),
            features=of(served),
            features_before=of(before),
            features_of={b: of(self._load(run, b)) for b in range(number - 1)},
        )
        memories.save(updated, folder / MEMORY)

    def _recalls(self, network: EmbeddingNetwork, photos: Mapping[str, Photos], stage: int) -> dict[str, Any]:
        network.eval()
        found = {
            part: evaluate.recalls(evaluate.embed(network, of.pixels, self._device), of, stage)
            for part, of in photos.items()
        }
        network.train()
        return found

    def _key(self, run: Run, number: int) -> str:
        bench = self._bench
        content = run, number, bench.photos_digest, bench.protocol.digest, bench.image_size
        return hashlib.sha256(repr(content).encode()).hexdigest()

    def _result(self, stage: Stage, record: Record) -> dict[str, Any]:
        run, number, steps = stage
        summary = record.summary()
        peak = max(summary["peak_memory_mib"], _peak_memory_mib(self._device))
        return summary | {
            "method": run.method,
            "seed": run.seed,
            "backbone": run.backbone,
            "stage": number,
            "steps": steps,
            "threads": torch.get_num_threads(),
            "peak_memory_mib": round(peak, 1),
            "memory_bytes": (stage.folder(self._out) / MEMORY).stat().st_size,
        }


def results(bench: Bench, out: Path) -> Iterator[dict[str, Any]]:
    """The results of all stages that are done."""
    for stage in itertools.chain(*tasks(bench)):
        if stage.done(out):
            yield json.loads((stage.folder(out) / RESULT).read_text(encoding="utf-8"))


def check(bench: Bench, out: Path, states: Mapping[str, Mapping[str, Tensor]]) -> None:
    """That the models and memories which unfinished runs go on from are whole, and belong together.

    states  a state of each backbone's network

    Errors: ModelDamaged for a file that is missing or damaged, InvalidField for one of another network.
    """
    for task in tasks(bench):
        begin = next((stage for stage in task if not stage.done(out)), None)
        first = needs(bench, task)
        if begin is None or first is None or not first.done(out):
            continue
        folders = [begin.run.folder(out, number) for number in range(begin.number)]
        for folder in folders:
            _check_model(folder / MODEL, begin.run.backbone, states[begin.run.backbone])
        _memory(folders[-1], bench.dimension)


def tidy(folder: Path) -> None:
    """Removes what only the training of a stage needed, once that is done."""
    for name in (CHECKPOINT, MILESTONES, STEPS):
        (folder / name).unlink(missing_ok=True)
    sweep(folder)


def _check_model(path: Path, backbone: str, state: Mapping[str, Tensor]) -> None:
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelDamaged(f"{path} is missing, or no model: {error}", got=error, expected="a model's file") from error
    if shapes != {name: tuple(value.shape) for name, value in state.items()}:
        raise InvalidField(
            f"{path} is the model of another network than {backbone}", field="out", got=path.name, expected=backbone
        )


def _memory(folder: Path, dimension: int) -> Memory:
    return memories.load(folder / MEMORY, model=sha256_file(folder / MODEL), dimension=dimension)


def _seed(seed: int, stage: int) -> int:
    return int(generator(seed, stage).integers(2**31))


def _peak_memory_mib(device: torch.device) -> float:
    """The most that this process has held at once: of the GPU's memory where it trains there, else of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
