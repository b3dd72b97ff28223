"""What a backbone's file defines, and how weights get into its network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from indexer.errors import InvalidField

State = Mapping[str, Tensor]
Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Backbone:
    """A pretrained network without its classifier.

    build               image size S -> network with untrained weights: float (N, 3, S, S) -> pooled features (N, width)
    pretrained          its published weights, classifier included, under their published names
    without_classifier  published weights, image size S -> exactly the state of `build(S)`
    mean, std           of each channel, in units of 0..255: the network's input is (pixel - mean) / std
    size_step           image sizes are multiples of this
    """

    build: Callable[[int], nn.Module]
    pretrained: Callable[[], State]
    without_classifier: Callable[[State, int], State]
    width: int
    mean: Channels
    std: Channels
    size_step: int = 1


def drop_prefixes(state: State, prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """`state` without the entries whose names begin with one of `prefixes`."""
    return {name: value for name, value in state.items() if not name.startswith(prefixes)}


def read_weights(path: Path) -> State:
    """The tensors of a `.safetensors` file, or of a state dict that torch saved (no code in it is run).

    Errors: InvalidField when the file is missing or is neither.
    """

    def refused(got: str) -> InvalidField:
        return InvalidField(
            f"cannot read weights from {path.name}: {got}",
            field="weights",
            got=got,
            expected="a state dict saved by torch, or a .safetensors file",
        )

    if not path.is_file():
        raise refused("no such file")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what bytes that are no weights raise is nearly anything, IndexError too
        raise refused((str(error) or type(error).__name__).splitlines()[0]) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise refused("no mapping of names to tensors")
    return state


def load_state(name: str, network: nn.Module, state: State) -> None:
    """Loads `state` into `network`: every entry is used, none is missing, every shape is the same.

    Errors: InvalidField, with the first few differences, when they are the weights of another network.
    """
    expected = {key: value.shape for key, value in network.state_dict().items()}
    got = {key: value.shape for key, value in state.items()}
    if got != expected:
        differences = [
            *(f"no {key}" for key in expected.keys() - got.keys()),
            *(f"unknown {key}" for key in got.keys() - expected.keys()),
            *(
                f"{key} is {tuple(got[key])}, not {tuple(expected[key])}"
                for key in expected.keys() & got.keys()
                if got[key] != expected[key]
            ),
        ]
        first = "; ".join(sorted(differences)[:3])
        raise InvalidField(
            f"these are not weights of {name}: {len(differences)} of {len(expected)} entries differ ({first})",
            field="weights",
            got=first,
            expected=f"the {len(expected)} entries of {name}",
        )
    network.load_state_dict(state)
