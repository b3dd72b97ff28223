"""One training: from the photos that it was given to its outcome.

    stages/<n>/schedule.json  how it is done, from its first step on
               checkpoint.pt  what training goes on from
               attempts.json  how often the machine failed it: see `trainer.attempts`
               candidates/    exported models, to be measured

| crash at this step               | found so at restart                                                             |
|----------------------------------|---------------------------------------------------------------------------------|
| before schedule.json             | photos alone: the schedule is made then, by the flags of that start             |
| while it trains                  | schedule and checkpoint: it goes on, as scheduled, whatever the flags are       |
| while it is exported or measured | the checkpoint of the last step: that is done again, with the same result       |
| while the model is published     | the same, and a `.staging-*` folder among the models, which is swept            |
| after that, before its outcome   | a model that names this training: its outcome is what its gates say             |
| after the outcome                | a training that has ended: see `indexer.stages`                                 |
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import itertools
import logging
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import torch

from indexer import stages
from indexer.catalogue import Catalogue
from indexer.datadir import DataDir
from indexer.errors import (
    CatalogueDamaged,
    Damaged,
    EverlookError,
    GenerationDamaged,
    InvalidField,
    ModelDamaged,
    NotServing,
    Overloaded,
)
from indexer.files import write_json
from indexer.gates import GATES, failures, load_gates, passed, to_json
from indexer.generation import live_model
from indexer.lineage import LINEAGE, Lineage, load_lineage
from indexer.model import ONNX, Manifest, load_manifest, publish_model
from indexer.stages import Outcome, Training
from trainer import attempts, export, methods, probing, recipe
from trainer import memory as memories
from trainer.augment import Augmentation
from trainer.candidate import Candidate, Measure
from trainer.export import WEIGHTS
from trainer.memory import MEMORY, Memory
from trainer.methods import Init, Learner, Start
from trainer.network import EmbeddingNetwork, create_network
from trainer.publishing import publishing
from trainer.recipe import Recipe
from trainer.sampling import generator
from trainer.stage import Progress, Schedule, features, train
from trainer.stopping import Cancelled
from trainer.training_data import TrainingStage

log = logging.getLogger(__name__)

CHECKPOINT: Final = stages.CHECKPOINT
CANDIDATES: Final = "candidates"
FP32: Final = "fp32.onnx"  # beside model.onnx, where that is int8
FACTS: Final = ("steps", "training_s", "parity", "probes", "int8_speedup", "int8_recall_change")
LEAST_STEPS: Final = 50  # that a budget of time becomes
MOST_STEPS: Final = 5000  # the papers'

# What the next start may find in order, or only an operator can put there: nothing is said of the training.
TRY_AGAIN: Final = (OSError, Overloaded, NotServing, CatalogueDamaged, GenerationDamaged)

_MEASURED_STEPS: Final = 8
_MEASURED_S: Final = 30.0
_OLD_MODELS: Final = 4  # whose own features of the new photos are taken; each costs a pass over them


class Watcher(Protocol):
    """Follows a training."""

    def check(self) -> None:
        """Raises Stopped or Cancelled when it is to end."""

    def tell(
        self, phase: str, done: int, total: int, *, remaining_s: float = 0.0, losses: Mapping[str, float] | None = None
    ) -> None:
        """Hears of "training", with the weighted terms of each step, "exporting" and "gates". Raises as `check`."""

    def gently(self) -> contextlib.AbstractContextManager[None]:
        """In here nothing but `check` and `tell` end it."""


@dataclass(frozen=True)
class Place:
    """Where a training runs; another place gives the same but for rounding."""

    device: torch.device
    threads: int
    checkpoint_s: float


@dataclass(frozen=True, eq=False)
class Base:
    """The model that is taught."""

    manifest: Manifest
    lineage: Lineage
    network: EmbeddingNetwork
    memory: Memory


class _Shape(NamedTuple):
    """What networks of one structure have in common. Methods are handed it, so nothing in it leads to a photo."""

    backbone: str
    image_size: int
    dimension: int


def check(wanted: Recipe, device: str) -> None:
    """What can be known before a stage begins. Errors: InvalidField."""
    find_device(device)
    for field, method in (("first_method", methods.find(wanted.first_method)), ("method", methods.find(wanted.method))):
        if method.keeps_photos:
            raise InvalidField(
                f"{field}: it learns from old photos, and none are kept", field=field, got=getattr(wanted, field)
            )
    if not methods.find(wanted.method).learns:
        raise InvalidField("method: it learns nothing after the first stage", field="method", got=wanted.method)


def prepare(device: str, threads: int, checkpoint_s: float) -> Place:
    """Has torch use so many threads. Errors: InvalidField for a device that is not there."""
    torch.set_num_threads(threads)
    return Place(find_device(device), threads, checkpoint_s)


def find_device(name: str) -> torch.device:
    """`auto` is a GPU where there is one. Errors: InvalidField for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda") or (device.type == "cuda" and not _has_gpu(device)):
        raise InvalidField(f"there is no device {name}", field="device", got=name, expected="auto, cpu, cuda or cuda:N")
    return device


def _has_gpu(device: torch.device) -> bool:
    return (device.index or 0) < torch.cuda.device_count()


def teach(
    data: DataDir, catalogue: Catalogue, training: Training, flags: Recipe, place: Place, watcher: Watcher
) -> Outcome:
    """Does a training, or what is left of it; the caller records its outcome.

    What goes wrong with this training is its outcome: the same would go wrong again. Errors: `TRY_AGAIN`, which the
    machine's faults become a few times in a row (`attempts`), and what `watcher` raises but Cancelled; the next call,
    in a process of its own, goes on.
    """
    try:
        published = _published(data, training)
        if published is None:
            watcher.check()  # before anything that could end the process each time
            published = _Teaching(data, catalogue, training, flags, place, watcher).do()
        return _outcome(data, training, published)
    except Cancelled as error:
        return Outcome("cancelled", str(error))
    except TRY_AGAIN:
        raise
    except Exception as error:
        words = (str(error) or type(error).__name__).splitlines()[0]
        if attempts.of_the_machine(error):
            if (number := attempts.count(data.stage(training.number))) < attempts.MOST:
                again = f"the next start goes on (attempt {number} of {attempts.MOST})"
                raise Overloaded(f"training {training.number}: {words}; {again}") from error
            words += f", {number} times with no new checkpoint between"
        log.exception("training %d failed", training.number)
        return Outcome("failed", words)


def load_base(data: DataDir, training: Training) -> Base:
    """The model that a training starts from. Errors: ModelDamaged, InvalidField."""
    folder = data.model(training.base)
    network, manifest, lineage = export.load_network(folder), load_manifest(folder, verify=False), load_lineage(folder)
    if len(lineage.cohorts) != training.stage:
        raise ModelDamaged(
            f"{folder} has learned {len(lineage.cohorts)} stages", got=len(lineage.cohorts), expected=training.stage
        )
    weights = manifest.files[WEIGHTS]
    if lineage.cohorts:
        memory = memories.load(folder / MEMORY, model=weights, dimension=manifest.dimension)
    else:
        memory = Memory(weights, manifest.dimension)
    return Base(manifest, lineage, network, memory)


def training_stage(folder: Path, training: Training) -> TrainingStage:
    """All that training can read: the files of its own photos (promise 5). Errors: InvalidField."""
    paths = tuple(folder / stages.PHOTOS / sha256 for sha256, _ in training.photos)
    return TrainingStage(training.stage, training.categories, paths, tuple(label for _, label in training.photos))


def begin(base: Base, spec: str, seed: int, device: torch.device) -> Learner:
    """The networks and losses of a stage. Errors: InvalidField."""
    shape = _Shape(base.manifest.backbone, base.manifest.preprocessing.image_size, base.manifest.dimension)
    fresh = partial(_fresh, shape, seed, device)
    return methods.find(spec).begin(Start(base.network.to(device), base.memory, fresh, seed, device))


def _fresh(shape: _Shape, seed: int, device: torch.device, init: Init) -> EmbeddingNetwork:
    return create_network(shape.backbone, shape.image_size, seed=seed, init=init, dimension=shape.dimension).to(device)


def steps_within(budget_s: float, step_s: float) -> int:
    """The steps that a budget of time allows, of `step_s` seconds each."""
    return max(LEAST_STEPS, min(MOST_STEPS, int(budget_s / step_s)))


class _Teaching:
    """The phases of one training, in their order."""

    def __init__(
        self, data: DataDir, catalogue: Catalogue, training: Training, flags: Recipe, place: Place, watcher: Watcher
    ) -> None:
        self._data, self._catalogue, self._training = data, catalogue, training
        self._flags, self._place, self._watcher = flags, place, watcher
        self._folder = data.stage(training.number)

    def do(self) -> Manifest:
        """Publishes the candidate."""
        self._check_base()
        began, training = time.monotonic(), self._training
        base, stage = load_base(self._data, training), training_stage(self._folder, training)
        kept = self._recipe(base, stage)
        served = self._train(base, stage, kept)
        trained_s = time.monotonic() - began
        memory, weights = self._remember(base, stage, served)
        lineage = lineage_of(training, base.lineage)
        candidate = self._measure(base, stage, lineage, kept).candidate(served)
        self._watcher.tell("gates", 1, 1)
        self._check_base()
        facts = candidate.facts | {"training_s": trained_s}
        return self._publish(base, kept, candidate, lineage, memory, weights, facts)

    def _recipe(self, base: Base, stage: TrainingStage) -> Recipe:
        kept = recipe.kept(self._folder)
        if kept is None:
            steps = self._flags.steps
            if self._training.stage == 0 and self._flags.first_steps is not None:
                steps = self._flags.first_steps
            if steps is None:
                steps = steps_within(self._flags.budget_s, self._step_s(base, stage))
            rate = self._flags.learning_rate or recipe.rate_for(steps)
            kept = replace(self._flags, steps=steps, learning_rate=rate)
            recipe.keep(kept, self._folder)
        return kept

    def _step_s(self, base: Base, stage: TrainingStage) -> float:
        """What a step takes here, in seconds: the median of a few, of a learner that is thrown away."""
        seconds: list[float] = []

        class Enough(Exception):
            pass

        def after_step(progress: Progress) -> None:
            seconds.append(progress.seconds)
            self._watcher.tell("training", 0, 0)
            if len(seconds) > 1 and sum(seconds) > _MEASURED_S:
                raise Enough

        with contextlib.suppress(Enough):
            self._run(base, stage, replace(self._flags, steps=_MEASURED_STEPS), None, after_step)
        return statistics.median(seconds[1:])  # the first also waits for the first photos

    def _train(self, base: Base, stage: TrainingStage, kept: Recipe) -> EmbeddingNetwork:
        seconds = deque[float](maxlen=50)

        def after_step(progress: Progress) -> None:
            seconds.append(progress.seconds)
            remaining_s = statistics.median(seconds) * (progress.steps - progress.step)
            done, steps, losses = progress.step, progress.steps, progress.losses
            self._watcher.tell("training", done, steps, remaining_s=remaining_s, losses=losses)

        self._watcher.tell("training", 0, kept.steps or 0)
        with self._watcher.gently():
            return self._run(base, stage, kept, self._folder / CHECKPOINT, after_step)

    def _run(
        self,
        base: Base,
        stage: TrainingStage,
        kept: Recipe,
        checkpoint: Path | None,
        after_step: Callable[[Progress], None],
    ) -> EmbeddingNetwork:
        training = self._training
        # A stage that is tried again, since it failed a gate, is drawn anew.
        seed = int(generator(kept.seed, training.stage, training.number).integers(2**31))
        spec, steps = _method(kept, training), kept.steps or _MEASURED_STEPS
        return train(
            begin(base, spec, seed, self._place.device),
            stage,
            Schedule(steps, kept.learning_rate or recipe.rate_for(steps), kept.weight_decay, kept.p, kept.k),
            Augmentation(base.manifest.preprocessing.image_size),
            seed=seed,
            device=self._place.device,
            key=hashlib.sha256(repr((training.base, spec, training.photos)).encode()).hexdigest(),
            checkpoint=checkpoint,
            checkpoint_s=self._place.checkpoint_s,
            after_step=after_step,
        )

    def _remember(self, base: Base, stage: TrainingStage, served: EmbeddingNetwork) -> tuple[Memory, bytes]:
        """The memory, and the weights that it leads to. What the photos show of old models is of no use later."""
        older = _ancestors(self._data, base.lineage)
        passes, total, device = itertools.count(), (2 + len(older)) * len(stage), self._place.device

        def of(network: EmbeddingNetwork) -> torch.Tensor:
            before = next(passes) * len(stage)

            def tick(done: int, of_stage: int) -> None:
                self._watcher.tell("exporting", before + done, total)

            tick(0, len(stage))
            return features(network.to(device), stage, base.manifest.preprocessing, device, tick)[0]

        found = [of(served), of(base.network)]
        features_of = {}
        for number, folder in older.items():
            with contextlib.suppress(Damaged):
                features_of[number] = of(export.load_network(folder))
        weights = export.weights(served.cpu())
        memory = base.memory.after_stage(
            stage.number,
            stage.categories,
            torch.tensor(stage.labels),
            model=hashlib.sha256(weights).hexdigest(),
            features=found[0],
            features_before=found[1],
            features_of=features_of,
        )
        return memory, weights

    def _measure(self, base: Base, stage: TrainingStage, lineage: Lineage, kept: Recipe) -> Measure:
        return Measure(
            catalogue=self._catalogue,
            served=base.manifest,
            models=self._data.models,
            stage=stage,
            probes=probing.choose(self._catalogue, lineage.cohort_of(), _trained_on(self._data)),
            precision=kept.precision,
            limits=kept.limits,
            folder=self._folder / CANDIDATES,
            workers=self._place.threads,
            tell=self._watcher.tell,
        )

    def _check_base(self) -> None:
        """Errors: Cancelled."""
        if live_model(self._data) != self._training.base:
            raise Cancelled(stages.OVERTAKEN)

    def _publish(
        self,
        base: Base,
        kept: Recipe,
        candidate: Candidate,
        lineage: Lineage,
        memory: Memory,
        weights: bytes,
        facts: dict[str, float],
    ) -> Manifest:
        def write(folder: Path) -> None:
            (folder / ONNX).write_bytes(candidate.onnx)
            if candidate.fp32 is not None:
                (folder / FP32).write_bytes(candidate.fp32)
            (folder / WEIGHTS).write_bytes(weights)
            memories.save(memory, folder / MEMORY)
            (folder / LINEAGE).write_text(lineage.to_json(), encoding="utf-8")
            write_json(folder / GATES, to_json(candidate.gates))

        names = ("steps", "learning_rate", "weight_decay", "p", "k", "seed")
        told = {"base": base.manifest.id, "method": _method(kept, self._training)}
        told |= {name: str(getattr(kept, name)) for name in names} | {name: repr(facts[name]) for name in facts}
        with publishing(self._data.models):
            manifest = publish_model(
                self._data.models,
                write,
                backbone=base.manifest.backbone,
                dimension=base.manifest.dimension,
                preprocessing=base.manifest.preprocessing,
                precision="fp32" if candidate.fp32 is None else "int8",
                stages=len(lineage.cohorts),
                head=base.manifest.head,
                source=told | {"torch": importlib.metadata.version("torch")},
            )
        if load_lineage(self._data.model(manifest.id)) != lineage:
            raise InvalidField("the training ended in a model that is there already", field="steps", got=kept.steps)
        return manifest


def lineage_of(training: Training, base: Lineage) -> Lineage:
    """What the model will have learned that comes of a training."""
    return Lineage(training.base, training.number, (*base.cohorts, training.categories))


def _method(kept: Recipe, training: Training) -> str:
    return kept.method if training.stage else kept.first_method


def _published(data: DataDir, training: Training) -> Manifest | None:
    """The model that a training has published, where it was ended before that could be recorded."""
    for folder in sorted(data.models.glob("[!.]*")):
        with contextlib.suppress(Damaged):
            lineage = load_lineage(folder)
            if lineage == lineage_of(training, replace(lineage, cohorts=lineage.cohorts[:-1])):
                return load_manifest(folder)
    return None


def _outcome(data: DataDir, training: Training, manifest: Manifest) -> Outcome:
    """What the published model says of itself: the same however often it is asked."""
    gates = load_gates(data.model(manifest.id))
    facts = {name: float(manifest.source[name]) for name in FACTS if name in manifest.source}
    facts |= {"photos": float(len(training.photos)), "categories": float(len(training.categories))}
    if passed(gates):
        return Outcome("published", f"it met its {len(gates)} gates", manifest.id, gates, facts)
    return Outcome("rejected", failures(gates), manifest.id, gates, facts)


def _trained_on(data: DataDir) -> set[str]:
    """The photos of all trainings, whatever came of them."""
    found = set[str]()
    for number in stages.numbers(data):
        with contextlib.suppress(EverlookError):
            found.update(sha256 for sha256, _ in stages.load(data, number)[0].photos)
    return found


def _ancestors(data: DataDir, lineage: Lineage) -> dict[int, Path]:
    """Those of the models before the base that are still there, the latest first, by the last stage of each."""
    found: dict[int, Path] = {}
    with contextlib.suppress(Damaged):
        while lineage.base and len(found) < _OLD_MODELS:
            folder, later = data.model(lineage.base), lineage
            lineage = load_lineage(folder)
            if not lineage.cohorts or lineage.cohorts != later.cohorts[:-1]:
                break
            found[len(lineage.cohorts) - 1] = folder
    return found
