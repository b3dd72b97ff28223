"""What shapes a training's result: what is refused at the start, and the file that a training keeps to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from indexer.errors import EverlookError, InvalidField
from indexer.gates import RecallLimits
from trainer import recipe
from trainer.recipe import Recipe
from trainer.stage import Schedule


def test_the_values_are_the_papers() -> None:
    paper, ours = Schedule(), Recipe()
    assert (ours.learning_rate, recipe.rate_for(paper.steps)) == (None, paper.learning_rate)
    assert (ours.weight_decay, ours.p, ours.k) == (paper.weight_decay, paper.p, paper.k)


@pytest.mark.parametrize(("steps", "rate"), [(1, 1e-4), (500, 1e-4), (1000, 5e-5), (5000, 1e-5), (50_000, 1e-5)])
def test_fewer_steps_are_longer_ones(steps: int, rate: float) -> None:
    assert recipe.rate_for(steps) == pytest.approx(rate)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "telepathy"},
        {"first_method": "telepathy:strength=3"},
        {"steps": 0},
        {"first_steps": 0},
        {"budget_s": 0.0},
        {"budget_s": float("inf")},
        {"budget_s": float("nan")},
        {"learning_rate": 0.0},
        {"learning_rate": 1.0},
        {"weight_decay": -0.1},
        {"weight_decay": float("nan")},
        {"p": 1},
        {"k": 1},
        {"seed": -1},
        {"precision": "fp16"},
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_with_its_name(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidField) as refused:
        Recipe(**changes)
    assert refused.value.field == next(iter(changes))
    assert refused.value.expected


@pytest.mark.parametrize("name", ["most_drop", "least_rise", "floor"])
def test_limits_are_shares(name: str) -> None:
    with pytest.raises(InvalidField, match=f"{name} cannot be 2.0: from 0 to 1"):
        Recipe(limits=RecallLimits(**{name: 2.0}))


def test_what_is_kept_is_read(tmp_path: Path) -> None:
    assert recipe.kept(tmp_path) is None
    wanted = replace(Recipe(), steps=7, method="mutual:old=none", limits=RecallLimits(0.1, 0.2, 0.3))
    recipe.keep(wanted, tmp_path)
    assert recipe.kept(tmp_path) == wanted


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 2}', '{"format": 1, "limits": {}, "speed": 1}'])
def test_another_content_is_refused_with_the_files_name(content: str, tmp_path: Path) -> None:
    (tmp_path / "schedule.json").write_text(content)
    with pytest.raises(EverlookError, match=r"schedule\.json cannot be read"):
        recipe.kept(tmp_path)
