"""A network, a memory, stages and a start, so small that a step of training takes milliseconds."""

from __future__ import annotations

from functools import cache, partial

import torch
from torch import Tensor, nn

from tests.trainer.photo_folders import photo
from trainer.augment import Augmentation
from trainer.backbones import Backbone
from trainer.memory import Memory, StageMemory
from trainer.methods import Init, Learner, Start
from trainer.network import EmbeddingNetwork
from trainer.stage import Schedule
from trainer.training_data import TrainingStage

CPU = torch.device("cpu")
SIDE, WIDTH, D = 32, 16, 8
SCHEDULE = Schedule(steps=4, learning_rate=1e-2, p=3, k=2)
AUGMENTATION = Augmentation(SIDE)


def _build(image_size: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, WIDTH, 3, stride=3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


# No weights of it are published: "pretrained" is another seed.
BACKBONE = Backbone(_build, dict, lambda state, image_size: state, WIDTH, (127.0,) * 3, (64.0,) * 3)


def network(seed: int) -> EmbeddingNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return EmbeddingNetwork(BACKBONE, BACKBONE.build(SIDE), D)


def _fresh(seed: int, init: Init) -> EmbeddingNetwork:
    return network(seed + {"pretrained": 1000, "random": 2000}[init])


def memory(stages: int) -> Memory:
    """Drawn, with as many categories as the stage's number and 2; cosines with its prototypes are of both signs."""
    draw = torch.Generator().manual_seed(stages)
    return Memory(
        "tiny",
        D,
        tuple(
            StageMemory(
                stage,
                tuple(f"{stage}/{i}" for i in range(stage + 2)),
                torch.randn(stage + 2, D, generator=draw),
                torch.randn(stage + 2, D, generator=draw) * (stage + 1 < stages),
            )
            for stage in range(stages)
        ),
    )


def start(stages: int = 1, *, seed: int = 3) -> Start:
    """As after so many stages."""
    return Start(network(0).eval(), memory(stages), partial(_fresh, seed), seed, CPU)


@cache
def stage(number: int = 1, categories: int = 4, each: int = 3) -> TrainingStage:
    photos = [photo(100 * number + i) for i in range(categories * each)]
    labels = [i // each for i in range(len(photos))]
    return TrainingStage(number, tuple(f"{number}/{i}" for i in range(categories)), tuple(photos), tuple(labels))


def batch(seed: int = 1, categories: int = 3, each: int = 2) -> tuple[Tensor, Tensor]:
    """Images uint8 (N, S, S, 3) of flat colours and noise, and labels (N)."""
    draw, count = torch.Generator().manual_seed(seed), categories * each
    colours = torch.randint(0, 206, (count, 1, 1, 3), generator=draw)
    noise = torch.randint(0, 50, (count, SIDE, SIDE, 3), generator=draw)
    return (colours + noise).to(torch.uint8), torch.arange(categories).repeat_interleave(each)


def weights(module: EmbeddingNetwork | Learner) -> dict[str, Tensor]:
    """A copy of everything that training could change."""
    networks = module.students if isinstance(module, Learner) else {"": module}
    return {
        f"{name}/{key}": value.clone() for name, each in networks.items() for key, value in each.state_dict().items()
    }


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """To the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
