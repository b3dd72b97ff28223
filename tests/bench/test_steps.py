"""The bench of training steps: what it compares, and in what order."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.bench import steps
from tests.bench.machine import RESULTS
from tests.bench.steps import QUICK, Setup
from trainer.backbones import efficientnet_lite0


class Clock:
    """Time passes only while a work says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.done: list[str] = []

    def work(self, name: str, seconds: float) -> steps.Work:
        def work() -> None:
            self.done.append(name)
            self.now += seconds

        return work

    def __call__(self) -> float:
        return self.now


def test_every_round_does_each_work_once_and_times_it_alone() -> None:
    clock = Clock()
    works = {name: clock.work(name, seconds) for name, seconds in (("a", 1.0), ("b", 2.0), ("c", 4.0))}
    taken = steps.in_turns(works, 20, random.Random(0), clock)
    assert taken == {"a": [1.0] * 20, "b": [2.0] * 20, "c": [4.0] * 20}
    counted = clock.done[3 * steps.WARM_UP :]
    rounds = ["".join(counted[i : i + 3]) for i in range(0, len(counted), 3)]
    assert {"".join(sorted(each)) for each in rounds} == {"abc"}
    assert len(set(rounds)) > 1


def test_a_ratio_is_of_times_of_the_same_round() -> None:
    """The machine became slower and slower; each quotient is 2 but for one."""
    assert steps.ratio([2, 4, 8, 16, 90], [1, 2, 4, 8, 16]) == {
        "median": 2.0,
        "lower_quartile": 2.0,
        "upper_quartile": 2.0,
    }
    assert steps.ratio([1, 2, 3, 4, 5], [1, 1, 1, 1, 1])["upper_quartile"] == 4.0


def test_a_ceiling_counts_every_student_and_every_teacher() -> None:
    assert steps.ceiling([1.0, 2.0], [0.25, 0.5], students=2, forwards=1) == [2.25, 4.5]


@pytest.fixture(scope="module")
def setup() -> Setup:
    return Setup(replace(QUICK, image_size=32))


@pytest.mark.parametrize(("method", "students", "forwards"), [("finetune", 1, 0), ("fecd", 1, 1), ("mutual", 2, 1)])
def test_the_methods_say_what_passes_they_do(method: str, students: int, forwards: int, setup: Setup) -> None:
    """A learner's own count against the calls of its networks."""
    work, counted, beside = setup.step(method, 1)
    assert (counted, beside) == (students, forwards)
    with_gradient = []
    handle = nn.modules.module.register_module_forward_pre_hook(
        lambda module, _: (
            with_gradient.append(torch.is_grad_enabled())
            if isinstance(module, efficientnet_lite0.EfficientNetLite0)
            else None
        )
    )
    try:
        work()
    finally:
        handle.remove()
    assert (with_gradient.count(True), with_gradient.count(False)) == (students, forwards)


def test_plain_layers_are_there_only_while_they_are_timed() -> None:
    fused, seen = efficientnet_lite0.normed, []
    steps.with_plain_layers(lambda: seen.append(efficientnet_lite0.normed))()
    assert seen != [fused]
    assert efficientnet_lite0.normed is fused


@pytest.mark.skipif(not (RESULTS / "steps.json").exists(), reason="no figures are stored")
def test_the_stored_figures_meet_the_aim() -> None:
    figures = json.loads((RESULTS / "steps.json").read_text(encoding="utf-8"))
    assert figures["aim"] == steps.AIM
    for method, most in steps.AIM.items():
        assert figures["step_over_ceiling"][method]["median"] <= most


@pytest.mark.slow
def test_the_whole_bench_runs() -> None:
    command = [sys.executable, "-m", "tests.bench.steps", "--quick"]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert "| mutual: a step over its passes |" in printed
    assert "| mutual: 100 earlier stages over 1 |" in printed
