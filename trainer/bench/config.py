"""What a bench runs, and the file that says so beside its results."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from indexer.errors import InvalidField
from indexer.files import write_json
from indexer.model import Preprocessing
from trainer import backbones, methods
from trainer.augment import Augmentation
from trainer.first_model import preprocessing
from trainer.network import DIMENSION, create_network
from trainer.protocol import Protocol
from trainer.stage import Schedule

CONFIG: Final = "config.json"
_MAY_GROW: Final = ("methods", "seeds", "backbones")  # a bench can be taken up again with more of these


@dataclass(frozen=True)
class Bench:
    """Every method learns the same stages, from the same first model, for each seed and backbone."""

    protocol: Protocol = field(repr=False)
    photos_digest: str  # of what the files hold
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    backbones: tuple[str, ...]
    first: Schedule  # of the first stage
    later: Schedule  # of the others
    weights: Path | None = None  # of the only backbone, in place of its own
    image_size: int = 128
    dimension: int = DIMENSION
    evaluate_every: int = 0  # steps; 0: at the end of a stage only
    device: str = "cpu"

    def check(self) -> None:
        """Everything that can be found out before hours are spent. Errors: InvalidField."""
        for kind, values in (("methods", self.methods), ("seeds", self.seeds), ("backbones", self.backbones)):
            if not values or len(set(values)) != len(values):
                raise InvalidField(f"{kind}: one or more, each once", field=kind, got=values, expected="each once")
        if self.weights is not None and len(self.backbones) > 1:
            raise InvalidField(
                "a weights file is one backbone's", field="weights", got=self.backbones, expected="one backbone"
            )
        if len(self.protocol.stages) < 2:
            raise InvalidField("one stage leaves nothing to be learned later", field="sizes", got=1, expected="2 or more")
        for method in self.methods:
            methods.find(method)
        for backbone in self.backbones:
            backbones.find(backbone)
            create_network(backbone, self.image_size, seed=0, weights=self.weights, dimension=self.dimension)

    def reading(self, photos_digest: str) -> Bench:
        """The same, of files that hold what the digest says."""
        return replace(self, photos_digest=photos_digest)

    @property
    def preprocessing(self) -> Preprocessing:
        return preprocessing(self.image_size)

    @property
    def augmentation(self) -> Augmentation:
        return Augmentation(self.image_size)

    def described(self) -> dict[str, Any]:
        """The whole configuration, for JSON. Where files lie is left out."""
        protocol = self.protocol
        return {
            "photos_digest": self.photos_digest,
            "protocol": {
                "digest": protocol.digest,
                "order": protocol.order,
                "sizes": [len(stage) for stage in protocol.stages],
                "split": asdict(protocol.split),
            },
            "backbones": list(self.backbones),
            "weights": self.weights.name if self.weights else None,
            "image_size": self.image_size,
            "augmentation": asdict(self.augmentation),
            "dimension": self.dimension,
            "first": asdict(self.first),
            "later": asdict(self.later),
            "evaluate_every": self.evaluate_every,
            "seeds": list(self.seeds),
            "methods": list(self.methods),
            "device": self.device,
        }


def keep(bench: Bench, folder: Path) -> None:
    """Writes the configuration into the folder of results, or checks that the one there is the same.

    Errors: InvalidField when results of another configuration are there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, wanted = folder / CONFIG, json.loads(json.dumps(bench.described()))
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        other = [name for name in wanted if name not in _MAY_GROW and kept.get(name) != wanted[name]]
        if other:
            raise InvalidField(
                f"{folder} holds results of another configuration; choose another folder",
                field=other[0],
                got=wanted[other[0]],
                expected=kept.get(other[0]),
            )
    write_json(path, wanted)
