"""What earlier stages add to a training step: `python -m tests.bench.stages` writes results/stages.json.

Virtual features of every stage (Eq. 4), then their Gram-KL against the student with its gradient (Eq. 6), for a batch
of P x K = 16 x 5 photos and stages of 25 categories: all of them, and with the bound of `sample_stages`. The measure is
the processor's time on one thread, the least of several runs, which other programs on the machine disturb little.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from tests.bench import machine
from trainer import drift, losses
from trainer.memory import Memory, StageMemory
from trainer.network import DIMENSION

BATCH = 80
CATEGORIES = 25
STAGES = (1, 5, 20, 100)
RUNS = 15


def memory_of(stages: int, generator: torch.Generator) -> Memory:
    def one(number: int) -> StageMemory:
        names = tuple(f"category {number}/{i}" for i in range(CATEGORIES))
        kept, drifts = torch.randn(2, CATEGORIES, DIMENSION, generator=generator)
        return StageMemory(number, names, kept, drifts)

    return Memory("bench", DIMENSION, tuple(map(one, range(stages))))


def step(memory: Memory, teacher: Tensor, student: Tensor, generator: torch.Generator, at_most: int) -> None:
    """The part of a training step that earlier stages add."""
    chosen, factor = drift.sample_stages(len(memory.stages), generator, at_most)
    stages = [memory.stages[i] for i in chosen]
    virtual = drift.virtual_features_of_stages(
        teacher, [stage.prototypes_now for stage in stages], [stage.drifts for stage in stages]
    )
    torch.autograd.backward(factor * losses.gram_kl(student, virtual))


def least_ms(work: Callable[[], None]) -> float:
    taken = []
    for _ in range(RUNS):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return round(1000 * min(taken), 2)


def measure(stages: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    memory = memory_of(stages, generator)
    teacher = torch.randn(BATCH, DIMENSION, generator=generator)
    student = torch.randn(BATCH, DIMENSION, generator=generator, requires_grad=True)
    return {
        "stages": stages,
        "all_ms": least_ms(lambda: step(memory, teacher, student, generator, stages)),
        "bounded_ms": least_ms(lambda: step(memory, teacher, student, generator, drift.MOST_STAGES)),
        "memory_bytes": len(memory.to_bytes()),
        "memory_bytes_a_category": round(len(memory.to_bytes()) / (stages * CATEGORIES), 1),
    }


def main() -> None:
    torch.set_num_threads(1)
    measure(1)  # warm up
    machine.store(
        "stages",
        {
            "batch": BATCH,
            "dimension": DIMENSION,
            "categories_a_stage": CATEGORIES,
            "most_stages": drift.MOST_STAGES,
            "rows": [measure(stages) for stages in STAGES],
        },
    )


if __name__ == "__main__":
    main()
