"""From a network that has learned a stage to a candidate: exported, in int8 where that is as good, and measured.

What is measured is what would be served: each precision is written as a model, in a folder of the training's own, and
loaded by the engine's encoder.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from indexer.catalogue import Catalogue
from indexer.devices import detect
from indexer.embedding import Vectors
from indexer.encoder import Encoder
from indexer.errors import ItemNotFound, PhotoDamaged
from indexer.gates import Gate, RecallLimits, Z, paired_change, recall_gates
from indexer.images import ACCEPTED, preprocess
from indexer.model import ONNX, Manifest, Preprocessing, publish_model
from trainer import export, probing, quantise
from trainer.network import EmbeddingNetwork
from trainer.probing import Probe, found_by_cohort
from trainer.recipe import Precision
from trainer.training_data import TrainingStage, naming

log = logging.getLogger(__name__)

LEAST_INT8_CHANGE: Final = -0.005  # of Recall@1 on probes
LEAST_SPEEDUP: Final = 1.1  # below which int8 is not worth its rounding

_PARITY_PHOTOS: Final = 32

Tell = Callable[[str, int, int], None]
"""Hears of a phase, "exporting" or "gates", how much of it is done, and of how much; what it raises ends the work."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model that has been measured and not been published."""

    onnx: bytes  # what would be served
    fp32: bytes | None  # the same in float, where that is int8
    gates: tuple[Gate, ...]
    facts: dict[str, float]


@dataclass(frozen=True, eq=False)
class Measure:
    """`candidate` turns a network into a candidate."""

    catalogue: Catalogue
    served: Manifest  # of the model that it was taught from
    models: Path  # where that lies
    stage: TrainingStage
    probes: Sequence[Probe] = field(repr=False)  # of the categories of all cohorts, the new one included
    precision: Precision
    limits: RecallLimits
    folder: Path  # for what is only measured; emptied first
    workers: int
    tell: Tell
    damaged: set[str] = field(default_factory=set, repr=False)  # probes that turned out to be

    def candidate(self, network: EmbeddingNetwork) -> Candidate:
        """Exports and measures a network on the CPU.

        Errors: ModelDamaged when what was exported cannot be served at all; those of `probing.embed`; OSError.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        self.tell("exporting", 0, 1)
        fp32, beside = export.to_onnx(network, self.served.preprocessing.image_size), None
        parity, plain = self._parity(network, fp32), self._encoder(fp32, "fp32")
        served, vectors = self._served_vectors(), self._vectors(plain)
        onnx, gates, facts = fp32, [parity], {"parity": parity.measured}
        if self.precision != "fp32" and (quantised := self._quantised(fp32)) is not None:
            encoder = self._encoder(quantised, "int8")
            in_int8 = self._vectors(encoder)
            gate, ratio = self._int8_gate(vectors, in_int8), probing.speedup(plain, encoder)
            facts |= {"int8_speedup": ratio} | ({"int8_recall_change": gate.measured} if gate else {})
            good = gate is not None and gate.measured >= LEAST_INT8_CHANGE and ratio >= LEAST_SPEEDUP
            if self.precision == "int8" or good:
                onnx, beside, vectors = quantised, fp32, in_int8
                gates += [gate] if gate else []
        before, after = self._found(served, vectors)
        gates += recall_gates(before, after, self.stage.number, self.limits)
        return Candidate(onnx, beside, tuple(gates), facts | {"probes": float(sum(map(len, after.values())))})

    def _parity(self, network: EmbeddingNetwork, model: bytes) -> Gate:
        images = torch.from_numpy(_spread(self.stage, _PARITY_PHOTOS, self.served.preprocessing))
        cosine = export.parity(network, model, images)
        reason = f"least cosine between torch and ONNX Runtime {cosine:.6f}, {len(images)} photos of the stage"
        return Gate("export parity", cosine >= export.LEAST_COSINE, cosine, export.LEAST_COSINE, reason)

    def _quantised(self, fp32: bytes) -> bytes | None:
        """The model in int8; None where it can stay as it is, and there is no quantising it."""
        try:
            return quantise.to_int8(
                fp32,
                self._calibration(),
                reduce_range=quantise.saturates(),
                tick=lambda done, total: self.tell("exporting", done, total),
            )
        except OSError:
            raise
        except Exception as error:  # onnxruntime's share no base class
            if self.precision == "int8":
                raise
            log.warning("the model stays in fp32, since it cannot be quantised: %s", error)
            return None

    def _calibration(self) -> NDArray[np.uint8]:
        """Photos of the stage and of probes, half and half where there are enough: (N, S, S, 3)."""
        own = _spread(self.stage, quantise.CALIBRATION_PHOTOS // 2, self.served.preprocessing)
        others = []
        for probe in self.probes[: quantise.CALIBRATION_PHOTOS - len(own)]:
            try:
                data = self.catalogue.photo(probe.sha256).data
            except (ItemNotFound, PhotoDamaged):
                continue
            others.append(preprocess(data, self.served.preprocessing, ACCEPTED)[0])
        return np.concatenate([own, np.stack(others)]) if others else own

    def _int8_gate(self, fp32: Vectors, int8: Vectors) -> Gate | None:
        """None without a probe that counts."""
        before, after = (np.concatenate([*found.values(), []]).astype(bool) for found in self._found(fp32, int8))
        if not len(before):
            return None
        change, error = paired_change(before, after)
        reason = f"Recall@1 of {len(before)} probes: {before.mean():.3f} in fp32, {after.mean():.3f} in int8"
        kept = change + Z * error >= LEAST_INT8_CHANGE  # as with every gate, few probes condemn nobody
        return Gate("int8 recall", kept, change, LEAST_INT8_CHANGE, reason, probes=len(before))

    def _found(self, *models: Vectors) -> list[dict[int, NDArray[np.bool_]]]:
        """By cohort, for each of these models, of the same probes: items may go, or be found damaged, meanwhile."""
        common = [probe for probe in self.probes if all(probe.sha256 in vectors for vectors in models)]
        return [found_by_cohort(common, vectors) for vectors in models]

    def _served_vectors(self) -> Vectors:
        shas = [probe.sha256 for probe in self.probes]
        found = self.catalogue.vectors(self.served.id, shas)
        if missing := [sha256 for sha256 in shas if sha256 not in found]:
            encoder = Encoder.load(self.models / self.served.id[:16], detect(), 1)
            found |= self._embedded(encoder, missing)
        return found

    def _vectors(self, encoder: Encoder) -> Vectors:
        return self._embedded(encoder, [probe.sha256 for probe in self.probes])

    def _embedded(self, encoder: Encoder, shas: Sequence[str]) -> Vectors:
        return probing.embed(
            self.catalogue,
            encoder,
            shas,
            workers=self.workers,
            damaged=self.damaged,
            tick=lambda done, total: self.tell("gates", done, total),
        )

    def _encoder(self, model: bytes, precision: Precision) -> Encoder:
        def write(folder: Path) -> None:
            (folder / ONNX).write_bytes(model)

        like = self.served
        manifest = publish_model(
            self.folder,
            write,
            backbone=like.backbone,
            dimension=like.dimension,
            preprocessing=like.preprocessing,
            precision=precision,
        )
        return Encoder.load(self.folder / manifest.id[:16], detect(), 1)


def _spread(stage: TrainingStage, count: int, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """At most so many of a stage's photos, from all over it, as serving sees them: (N, S, S, 3)."""
    pixels = []
    for index in sorted({i * len(stage) // count for i in range(count)}):
        with naming(stage.name(index)):
            pixels.append(preprocess(stage.read(index), preprocessing, ACCEPTED)[0])
    return np.stack(pixels)
