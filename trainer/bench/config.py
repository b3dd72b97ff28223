"""What a bench runs, and the file that says so beside its results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from indexer.errors import InvalidField
from indexer.files import sha256_file, write_json
from indexer.model import Preprocessing
from trainer import methods
from trainer.augment import Augmentation
from trainer.first_model import preprocessing
from trainer.network import DIMENSION, create_network
from trainer.protocol import Protocol
from trainer.sampling import PKSampler
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
    weights_digest: str = ""  # of what that file holds
    image_size: int = 128
    dimension: int = DIMENSION
    evaluate_every: int = 0  # steps; 0: at the end of a stage only
    device: str = "cpu"

    def check(self) -> dict[str, Mapping[str, Tensor]]:
        """Finds out what is wrong before hours are spent; gives the state of a network of each backbone.

        Errors: InvalidField.
        """
        learned = {name: methods.find(name) for name in self.methods}
        for kind, values in (("methods", learned.values()), ("seeds", self.seeds), ("backbones", self.backbones)):
            if not values or len(set(values)) != len(values):
                got = ", ".join(map(str, getattr(self, kind)))
                raise InvalidField(f"{kind} {got}: one or more, each once", field=kind, got=got, expected="each once")
        for name, value in (("seeds", min(self.seeds)), ("evaluate_every", self.evaluate_every)):
            if value < 0:
                raise InvalidField(f"{name}: {value} is below 0", field=name, got=value, expected="at least 0")
        if self.weights is not None and len(self.backbones) > 1:
            raise InvalidField(
                "a weights file is one backbone's", field="weights", got=self.backbones, expected="one backbone"
            )
        if len(self.protocol.stages) < 2:
            raise InvalidField(
                "one stage leaves nothing to be learned later", field="sizes", got=1, expected="2 or more"
            )
        for schedule in (self.first, self.later):
            PKSampler(self.protocol.training(0).labels, seed=0, p=schedule.p, k=schedule.k)
        return {
            name: create_network(
                name, self.image_size, seed=0, weights=self.weights, dimension=self.dimension
            ).state_dict()
            for name in self.backbones
        }

    def reading(self, photos_digest: str) -> Bench:
        """The same, of files that hold what the digest says. Errors: OSError for the weights."""
        weights_digest = sha256_file(self.weights) if self.weights else ""
        return replace(self, photos_digest=photos_digest, weights_digest=weights_digest)

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
            "weights_digest": self.weights_digest,
            "image_size": self.image_size,
            "augmentation": asdict(self.augmentation),
            "dimension": self.dimension,
            "first": asdict(self.first),
            "later": asdict(self.later),
            "evaluate_every": self.evaluate_every,
            "seeds": list(self.seeds),
            "methods": list(self.methods),
            "settings": {name: vars(methods.find(name)) for name in self.methods},
            "device": self.device,
        }


def keep(bench: Bench, folder: Path) -> None:
    """Writes the configuration into the folder of results, or checks that the one there is the same.

    Errors: InvalidField when results of another configuration are there; it names all that differs.
    """
    path, wanted = folder / CONFIG, json.loads(json.dumps(bench.described()))
    if path.exists():
        here, there = _flat(wanted), _flat(_read(path))
        other = [name for name in here if name in there and name not in _MAY_GROW and here[name] != there[name]]
        if other:
            differences = "; ".join(f"{name} is {there[name]} there, not {here[name]}" for name in other)
            raise InvalidField(
                f"{folder} holds results of another configuration: {differences}; choose another folder",
                field=other[0],
                got=here[other[0]],
                expected=there[other[0]],
            )
    write_json(path, wanted)


def _read(path: Path) -> dict[str, Any]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidField(
            f"{path} is no configuration of a bench: {error}", field="out", got=path.name, expected="a JSON object"
        ) from error
    return kept if isinstance(kept, dict) else {}


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested objects, under names such as `first.steps`."""
    leaves: dict[str, Any] = {}
    for name, each in value.items():
        leaves |= _flat(each, f"{prefix}{name}.") if isinstance(each, dict) else {prefix + name: each}
    return leaves
