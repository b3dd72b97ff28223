"""Old features, estimated from the teacher and the memory: the values, which stages, and what they follow from."""

from __future__ import annotations

import typing

import pytest
import torch
from torch import Tensor

from indexer.errors import InvalidField
from tests.trainer import literal, tiny
from trainer import estimates
from trainer.drift import LEAST_WEIGHT
from trainer.estimates import FECD_LEAST, FECD_MOST
from trainer.losses import cosines
from trainer.methods.mutual import Mutual

NAMES = ("virtual", "scaled", "none")


def taught(count: int = 6) -> Tensor:
    """Features by the teacher, of both signs."""
    return torch.randn(count, tiny.D, generator=torch.Generator().manual_seed(9))


def estimate(name: str, stages: int, step: int = 0, *, seed: int = 3, **limits: int) -> tuple[Tensor, float]:
    return estimates.find(name)(tiny.memory(stages), seed=seed, device=tiny.CPU, **limits)(taught(), step)


def equation_4(stages: int) -> list[Tensor]:
    """Of each stage before the last."""
    return [
        literal.tensor(
            literal.virtual_features(
                literal.rows(taught()), literal.rows(stage.prototypes_now), literal.rows(stage.drifts), LEAST_WEIGHT
            )
        )
        for stage in tiny.memory(stages).stages[:-1]
    ]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stages", [0, 1], ids=["no stage", "one stage"])
def test_with_no_stage_before_the_teachers_there_is_nothing_to_estimate(name: str, stages: int) -> None:
    old, _ = estimate(name, stages)
    assert old.shape == (0, 6, tiny.D)


@pytest.mark.parametrize("name", NAMES)
def test_no_global_random_numbers_are_drawn(name: str) -> None:
    before = torch.get_rng_state()
    estimate(name, 5, at_most=2) if name != "none" else estimate(name, 5)
    assert torch.equal(torch.get_rng_state(), before)


class TestVirtual:
    def test_it_is_equation_4_for_every_stage_before_the_teachers(self) -> None:
        old, factor = estimate("virtual", 4)
        assert (len(old), factor) == (3, 1.0)
        torch.testing.assert_close(old, torch.stack(equation_4(4)).float(), rtol=1e-4, atol=1e-4)

    def test_the_guard_was_needed_for_that(self) -> None:
        weights = torch.cat([cosines(taught(), stage.prototypes_now) for stage in tiny.memory(4).stages[:-1]], dim=1)
        assert (weights < 0).any()
        assert (weights > 0).any()

    def test_of_many_stages_each_step_takes_some_and_the_factor_makes_up_for_the_others(self) -> None:
        every, seen = torch.stack(equation_4(6)).float(), set()
        for step in range(20):
            old, factor = estimate("virtual", 6, step, at_most=2)
            assert (len(old), factor) == (2, 2.5)
            distances = (old[:, None] - every[None]).abs().amax(dim=(2, 3))
            assert (distances.amin(dim=1) < 1e-4).all()
            chosen = distances.argmin(dim=1).tolist()
            assert len(set(chosen)) == 2
            seen.update(chosen)
        assert seen == set(range(5))

    def test_which_stages_follows_from_the_seed_and_the_step_alone(self) -> None:
        def drawn(seed: int, step: int) -> Tensor:
            return estimate("virtual", 6, step, seed=seed, at_most=2)[0]

        first = [drawn(3, step) for step in range(10)]
        assert all(torch.equal(drawn(3, step), first[step]) for step in reversed(range(10)))
        assert any(not torch.equal(drawn(4, step), first[step]) for step in range(10))


class TestScaled:
    def test_every_element_is_the_teachers_times_a_factor_of_its_own_in_fecds_range(self) -> None:
        old, factor = estimate("scaled", 4)
        assert (old.shape, factor) == ((3, 6, tiny.D), 1.0)
        u = (old / taught() - 1).flatten()
        assert (FECD_LEAST, FECD_MOST) == (-0.0443, 0.2230)
        assert u.min() >= FECD_LEAST - 1e-6
        assert u.max() <= FECD_MOST + 1e-6
        assert len(set(u.tolist())) == len(u)

    def test_the_factors_are_uniform_in_the_range(self) -> None:
        u = torch.cat([(estimate("scaled", 4, step)[0] / taught() - 1).flatten() for step in range(50)])
        counts = torch.histc(u, 10, FECD_LEAST, FECD_MOST)
        assert counts.sum() >= len(u) - 10  # rounding carries a few over the edge
        assert (counts / len(u) - 0.1).abs().max() < 0.02

    def test_they_follow_from_the_seed_and_the_step_alone(self) -> None:
        first = estimate("scaled", 3, step=1)[0]
        assert torch.equal(estimate("scaled", 3, step=1)[0], first)
        assert not torch.isclose(estimate("scaled", 3, step=2)[0], first).any()
        assert not torch.isclose(estimate("scaled", 3, step=1, seed=4)[0], first).any()

    def test_of_many_stages_as_many_as_allowed_are_estimated(self) -> None:
        old, factor = estimate("scaled", 6, at_most=2)
        assert (len(old), factor) == (2, 2.5)


class TestNone:
    def test_it_adds_nothing_to_the_teacher(self) -> None:
        old, _ = estimate("none", 4)
        assert old.shape == (0, 6, tiny.D)


class TestFind:
    def test_an_unknown_estimate_is_refused_with_the_known_ones(self) -> None:
        with pytest.raises(InvalidField) as refused:
            estimates.find("guessed")
        assert (refused.value.field, refused.value.got) == ("old", "guessed")
        assert refused.value.expected == "virtual, scaled, none"

    def test_every_choice_of_mutual_is_an_estimate(self) -> None:
        choices = typing.get_args(typing.get_type_hints(Mutual)["old"])
        assert set(choices) == set(NAMES)
        for name in choices:
            estimates.find(name)
