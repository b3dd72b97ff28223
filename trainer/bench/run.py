"""One run of the bench: a method learns the stages one after the other, from the first model of its seed and backbone.

    <out>/runs/<backbone>/seed-<n>/first/                 stage 0, which all methods share
    <out>/runs/<backbone>/seed-<n>/<method>/stage-<i>/    model.safetensors, memory.safetensors, result.json

A stage whose result.json exists is done. One without goes on from its checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import re
import resource
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import safetensors.torch
import torch

from indexer.errors import ModelDamaged
from indexer.files import write_bytes, write_json
from trainer import memory as memories
from trainer import methods
from trainer.bench import evaluate
from trainer.bench.config import Bench
from trainer.memory import MEMORY, Memory
from trainer.methods import Init, Start
from trainer.network import EmbeddingNetwork, create_network
from trainer.sampling import generator
from trainer.stage import Progress, features, train
from trainer.training_data import TrainingStage

MODEL: Final = "model.safetensors"
RESULT: Final = "result.json"
MILESTONES: Final = "milestones.json"
CHECKPOINT: Final = "checkpoint.pt"
FIRST: Final = "initial"  # the method that learns the first stage
LOSSES_EVERY: Final = 10  # steps, of which the mean is kept


@dataclass(frozen=True)
class Run:
    """One method with one seed and backbone; `FIRST` is the first stage alone."""

    method: str
    seed: int
    backbone: str

    def folder(self, out: Path, stage: int) -> Path:
        runs = out / "runs" / self.backbone / f"seed-{self.seed}"
        return runs / "first" if stage == 0 else runs / re.sub(r"[^\w.=,-]", "-", self.method) / f"stage-{stage}"


# What is told while a run trains: the run, the stage, and how far it is.
Tell = Callable[[Run, int, Progress], None]


class Runner:
    """Does the runs of one bench, in this process. Test and validation photos are decoded once."""

    def __init__(self, bench: Bench, out: Path, tell: Tell = lambda run, stage, progress: None) -> None:
        self._bench, self._out, self._tell = bench, out, tell
        self._device = torch.device(bench.device)
        self._photos = {part: evaluate.read(bench.protocol, part, bench.preprocessing) for part in evaluate.PARTS}

    def first(self, seed: int, backbone: str) -> None:
        """Trains the first stage, unless that is done."""
        self._stage(Run(FIRST, seed, backbone), 0)

    def later(self, run: Run) -> None:
        """Trains all stages after the first, those that are not done."""
        for stage in range(1, len(self._bench.protocol.stages)):
            self._stage(run, stage)

    def _stage(self, run: Run, number: int) -> None:
        folder = run.folder(self._out, number)
        if (folder / RESULT).exists():
            return
        folder.mkdir(parents=True, exist_ok=True)
        before, memory = self._before(run, number)
        method = methods.find(run.method)
        recorder = _Recorder(folder, lambda network: self._recalls(network, number), self._bench.evaluate_every)
        if number > 0 and not method.learns:
            recorder.milestone(0, before)
            served, steps = before, 0
        else:
            schedule = self._bench.later if number else self._bench.first
            seed = _seed(run.seed, number)
            learner = method.begin(
                Start(before, memory, lambda init: self._fresh(run, init, seed), seed, self._device)
            )

            def after_step(progress: Progress) -> None:
                recorder.after_step(progress, learner.served)
                self._tell(run, number, progress)

            served, steps = (
                train(
                    learner,
                    self._training(number, method.keeps_photos),
                    schedule,
                    self._bench.augmentation,
                    seed=seed,
                    device=self._device,
                    key=self._key(run, number),
                    checkpoint=folder / CHECKPOINT,
                    after_step=after_step,
                ),
                schedule.steps,
            )
        self._keep(run, number, before, memory, served)
        write_json(folder / RESULT, self._result(run, number, steps, recorder))
        for name in (CHECKPOINT, MILESTONES):
            (folder / name).unlink(missing_ok=True)

    def _training(self, number: int, joint: bool) -> TrainingStage:
        protocol = self._bench.protocol
        return protocol.joint_training(number) if joint else protocol.training(number)

    def _fresh(self, run: Run, init: Init, seed: int) -> EmbeddingNetwork:
        bench = self._bench
        return create_network(
            run.backbone, bench.image_size, seed=seed, init=init, weights=bench.weights, dimension=bench.dimension
        ).to(self._device)

    def _before(self, run: Run, number: int) -> tuple[EmbeddingNetwork, Memory]:
        """The served network and the memory that a stage starts from."""
        if number == 0:
            return self._fresh(run, "pretrained", _seed(run.seed, 0)), Memory("", self._bench.dimension)
        folder = run.folder(self._out, number - 1)
        network = self._load(run, folder)
        return network, memories.load(folder / MEMORY, model=_identity(folder), dimension=self._bench.dimension)

    def _load(self, run: Run, folder: Path) -> EmbeddingNetwork:
        network = self._fresh(run, "random", 0)
        try:
            network.load_state_dict(safetensors.torch.load_file(folder / MODEL))
        except (OSError, RuntimeError, safetensors.SafetensorError) as error:
            raise ModelDamaged(f"{folder / MODEL} is missing, or not this network's", got=error) from error
        return network.eval()

    def _keep(self, run: Run, number: int, before: EmbeddingNetwork, memory: Memory, served: EmbeddingNetwork) -> None:
        """Writes the model, and the memory with what this stage's photos say of all drifts (Eq. 3, by every old model)."""
        folder, bench = run.folder(self._out, number), self._bench
        state = {name: value.cpu().contiguous() for name, value in served.state_dict().items()}
        write_bytes(folder / MODEL, safetensors.torch.save(state))
        stage = bench.protocol.training(number)

        def of(network: EmbeddingNetwork) -> torch.Tensor:
            return features(network, stage, bench.preprocessing, self._device)[0]

        old = {b: of(self._load(run, run.folder(self._out, b))) for b in range(number - 1)}
        updated = memory.after_stage(
            number,
            stage.categories,
            torch.tensor(stage.labels),
            model=_identity(folder),
            features=of(served),
            features_before=of(before),
            features_of=old,
        )
        memories.save(updated, folder / MEMORY)

    def _recalls(self, network: EmbeddingNetwork, number: int) -> dict[str, Any]:
        network.eval()
        found = {}
        for part, photos in self._photos.items():
            seen = photos.until(number)
            found[part] = evaluate.recalls(evaluate.embed(network, seen.pixels, self._device), seen, number)
        network.train()
        return found

    def _key(self, run: Run, number: int) -> str:
        bench = self._bench
        content = run, number, bench.photos_digest, bench.protocol.digest, bench.image_size
        return hashlib.sha256(repr(content).encode()).hexdigest()

    def _result(self, run: Run, number: int, steps: int, recorder: _Recorder) -> dict[str, Any]:
        return {
            "method": run.method,
            "seed": run.seed,
            "backbone": run.backbone,
            "stage": number,
            "steps": steps,
            "threads": torch.get_num_threads(),
            "peak_memory_mib": round(_peak_memory_bytes(self._device) / 2**20, 1),
            "memory_bytes": (run.folder(self._out, number) / MEMORY).stat().st_size,
            **recorder.state,
        }


class _Recorder:
    """What a stage's training has shown so far, kept in a file so that an interruption loses none of it."""

    def __init__(self, folder: Path, recalls: Callable[[EmbeddingNetwork], dict[str, Any]], every: int) -> None:
        self._path, self._recalls, self._every = folder / MILESTONES, recalls, every
        self.state: dict[str, Any] = {"milestones": [], "losses": [], "seconds": 0.0, "seconds_per_step": 0.0}
        if self._path.exists():
            self.state = json.loads(self._path.read_text(encoding="utf-8"))
        self._sums: dict[str, list[float]] = {}
        self._durations: list[float] = []

    def after_step(self, progress: Progress, network: EmbeddingNetwork) -> None:
        for name, value in progress.losses.items():
            self._sums.setdefault(name, []).append(value)
        self._durations.append(progress.seconds)
        self.state["seconds"] += progress.seconds
        if progress.step % LOSSES_EVERY == 0 or progress.step == progress.steps:
            self._put("losses", {"step": progress.step} | {n: sum(v) / len(v) for n, v in self._sums.items()})
            self._sums = {}
        if progress.step == progress.steps or (self._every and progress.step % self._every == 0):
            # The median, since a first step and a busy machine say little about the others.
            self.state["seconds_per_step"] = sorted(self._durations)[len(self._durations) // 2]
            self.milestone(progress.step, network)

    def milestone(self, step: int, network: EmbeddingNetwork) -> None:
        self._put("milestones", {"step": step} | self._recalls(network))
        write_json(self._path, self.state)

    def _put(self, name: str, entry: dict[str, Any]) -> None:
        """A step that is done again after an interruption replaces what it said before."""
        self.state[name] = [old for old in self.state[name] if old["step"] < entry["step"]] + [entry]


def results(bench: Bench, out: Path) -> Iterator[dict[str, Any]]:
    """The results of all stages that are done, in the order of the configuration."""
    for backbone in bench.backbones:
        for seed in bench.seeds:
            runs = [(Run(FIRST, seed, backbone), 0)]
            runs += [(Run(m, seed, backbone), i) for m in bench.methods for i in range(1, len(bench.protocol.stages))]
            for run, stage in runs:
                path = run.folder(out, stage) / RESULT
                if path.exists():
                    yield json.loads(path.read_text(encoding="utf-8"))


def _identity(folder: Path) -> str:
    return hashlib.sha256((folder / MODEL).read_bytes()).hexdigest()


def _seed(seed: int, stage: int) -> int:
    return int(generator(seed, stage).integers(2**31))


def _peak_memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
