"""Equations 3 and 4: against literal loops, by hand, and where the true drift is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from tests.trainer import literal
from trainer.drift import (
    LEAST_WEIGHT,
    prototype_drift,
    prototypes,
    sample_stages,
    virtual_features,
    virtual_features_of_stages,
)
from trainer.losses import cosines, gram_kl

D = 16


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def positive(seed: int, *shape: int) -> Tensor:
    """Features between which all cosines are positive, so that the guard has nothing to do."""
    return drawn(seed, *shape).abs()


def same(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


class TestPrototypes:
    def test_they_are_the_means_of_the_categories(self) -> None:
        features, labels = drawn(1, 9, D), torch.tensor([7, 2, 7, 2, 2, 30, 7, 2, 30])
        categories, means = prototypes(features, labels)
        expected = literal.prototypes(literal.rows(features), labels.tolist())
        assert categories.tolist() == list(expected) == [2, 7, 30]
        same(means, literal.tensor(list(expected.values())))

    def test_long_features_weigh_more(self) -> None:
        """Means are of features before normalisation."""
        _, means = prototypes(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]))
        assert means.tolist() == [[1.5, 0.5]]

    def test_the_order_of_the_photos_does_not_matter(self) -> None:
        features, labels, order = drawn(1, 9, D), torch.arange(9) % 4, torch.randperm(9, generator=generator(0))
        same(prototypes(features[order], labels[order])[1], prototypes(features, labels)[1])


class TestEquation3:
    @pytest.mark.parametrize(("photos", "categories"), [(1, 1), (20, 5), (3, 8)])
    def test_it_is_the_literal_loop(self, photos: int, categories: int) -> None:
        before, now, kept = positive(1, photos, D), drawn(2, photos, D), positive(3, categories, D)
        expected = literal.prototype_drift(literal.rows(before), literal.rows(now), literal.rows(kept))
        same(prototype_drift(before, now, kept), literal.tensor(expected))

    def test_by_hand(self) -> None:
        """Weights 1 and 0.6; movements (2, 0) and (0, 1)."""
        before = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
        moved = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        drift = prototype_drift(before, before + moved, torch.tensor([[1.0, 0.0]]))
        torch.testing.assert_close(drift, torch.tensor([[2 / 1.6, 0.6 / 1.6]]))

    def test_the_order_of_the_photos_does_not_matter(self) -> None:
        before, now, kept = drawn(1, 20, D), drawn(2, 20, D), drawn(3, 5, D)
        order = torch.randperm(20, generator=generator(0))
        same(prototype_drift(before[order], now[order], kept), prototype_drift(before, now, kept))

    def test_it_turns_and_grows_with_the_space(self) -> None:
        before, now, kept = drawn(1, 20, D), drawn(2, 20, D), drawn(3, 5, D)
        turned = 2.5 * torch.linalg.qr(drawn(4, D, D))[0]
        same(prototype_drift(before @ turned, now @ turned, kept @ turned), prototype_drift(before, now, kept) @ turned)


class TestEquation4:
    @pytest.mark.parametrize(("photos", "categories"), [(1, 1), (20, 5), (3, 8)])
    def test_it_is_the_literal_loop(self, photos: int, categories: int) -> None:
        now, kept, drifts = positive(1, photos, D), positive(2, categories, D), drawn(3, categories, D)
        expected = literal.virtual_features(literal.rows(now), literal.rows(kept), literal.rows(drifts))
        same(virtual_features(now, kept, drifts), literal.tensor(expected))

    def test_by_hand(self) -> None:
        kept, drifts = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        virtual = virtual_features(torch.tensor([[1.0, 0.0]]), kept, drifts)
        torch.testing.assert_close(virtual, torch.tensor([[1 - 2 / 1.6, -0.6 / 1.6]]))

    def test_without_drift_they_are_the_features(self) -> None:
        now = drawn(1, 20, D)
        assert torch.equal(virtual_features(now, drawn(2, 5, D), torch.zeros(5, D, dtype=torch.float64)), now)

    def test_the_order_of_the_categories_does_not_matter(self) -> None:
        now, kept, drifts = drawn(1, 20, D), drawn(2, 5, D), drawn(3, 5, D)
        order = torch.randperm(5, generator=generator(0))
        same(virtual_features(now, kept[order], drifts[order]), virtual_features(now, kept, drifts))

    def test_autocast_does_not_make_them_coarse(self) -> None:
        now, kept, drifts = drawn(1, 20, D).float(), drawn(2, 5, D).float(), drawn(3, 5, D).float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = virtual_features(now, kept, drifts)
        assert torch.equal(inside, virtual_features(now, kept, drifts))


class TestTheGuard:
    """Where cosines are negative or sum to nearly 0."""

    def test_where_no_cosine_is_positive_the_drift_is_the_plain_mean(self) -> None:
        now = torch.tensor([[1.0, 0.0]])
        kept, drifts = torch.tensor([[-1.0, 0.0], [-0.6, 0.8], [0.0, 1.0]]), torch.eye(3)[:, :2]
        torch.testing.assert_close(virtual_features(now, kept, drifts), now - drifts.mean(dim=0))

    def test_a_category_on_the_other_side_has_no_say(self) -> None:
        now = torch.tensor([[1.0, 0.0]])
        kept, drifts = torch.tensor([[2.0, 0.0], [-1.0, 0.1]]), torch.tensor([[0.5, 0.0], [9.0, 9.0]])
        torch.testing.assert_close(virtual_features(now, kept, drifts), now - drifts[0], rtol=0, atol=1e-4)

    def test_cosines_that_cancel_do_not_throw_the_feature_away(self) -> None:
        """The paper's quotient: cosines 1 and -0.9999 make a movement of 1 into one of 20,000."""
        now = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
        kept = torch.tensor([[1.0, 0.0], [-0.9999, 0.01414]], dtype=torch.float64)
        drifts = torch.tensor([[0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
        raw = literal.tensor(literal.virtual_features(literal.rows(now), literal.rows(kept), literal.rows(drifts)))
        assert (raw - now).norm() > 10_000
        assert (virtual_features(now, kept, drifts) - now).norm() <= 1

    @given(
        seed=st.integers(0, 2**31),
        kept=st.integers(1, 6),
        scale=st.sampled_from([1e-6, 1.0, 1e6]),
        lean=st.sampled_from([-100.0, -1.0, 0.0, 1.0]),
        zeros=st.booleans(),
    )
    @settings(max_examples=100, deadline=None)
    def test_an_estimated_drift_lies_between_those_it_is_drawn_from(
        self, seed: int, kept: int, scale: float, lean: float, zeros: bool
    ) -> None:
        """So it is finite, and no longer than the longest, wherever prototypes and features lie."""
        features = torch.randn(4, 3, generator=generator(seed)) - lean
        around = torch.randn(kept, 3, generator=generator(seed + 1)) + lean
        if zeros:
            features[0], around[0] = 0, 0
        drifts = scale * torch.randn(kept, 3, generator=generator(seed + 2))
        estimated = -virtual_features(features, around, drifts) + features
        slack = 1e-5 * scale + 1e-4
        assert estimated.isfinite().all()
        assert (estimated <= drifts.amax(dim=0) + slack).all()
        assert (estimated >= drifts.amin(dim=0) - slack).all()
        assert (estimated.norm(dim=1) <= drifts.norm(dim=1).max() + 2 * slack).all()
        of_prototypes = prototype_drift(around, around + drifts, features)
        assert (of_prototypes.norm(dim=1) <= drifts.norm(dim=1).max() + 2 * slack).all()

    def test_it_is_continuous_where_the_last_cosine_turns_negative(self) -> None:
        angles = torch.linspace(1.5707, 1.5709, 201, dtype=torch.float64)  # around a right angle
        kept = torch.tensor([[1.0, 0.0], [0.99, -0.1]], dtype=torch.float64)
        now = torch.stack([angles.cos(), angles.sin()], dim=1)
        drifts = -virtual_features(now, kept, torch.eye(2, dtype=torch.float64)) + now
        assert drifts.diff(dim=0).abs().max() < 0.2


@dataclass(frozen=True)
class Space:
    """A feature space seen by an old model, and what became of it: categories of earlier stages, and of two later."""

    old: Tensor  # features by the old model
    now: Tensor  # the same photos by the new one
    labels: Tensor

    EARLIER, PREVIOUS, CURRENT = range(20), range(20, 40), range(40, 60)

    def of(self, categories: range) -> Tensor:
        return (self.labels >= categories.start) & (self.labels < categories.stop)

    def kept(self, features: Tensor) -> Tensor:
        """The earlier categories' prototypes."""
        photos = self.of(self.EARLIER)
        _, means = prototypes(features[photos], self.labels[photos])
        return means


def shifted(old: Tensor) -> Tensor:
    return old + 0.8 * drawn(11, D)


def rotated(old: Tensor) -> Tensor:
    """By about 20 to 40 degrees in every plane of a random basis."""
    skew = drawn(12, D, D)
    turned: Tensor = old @ torch.linalg.matrix_exp(0.07 * (skew - skew.T))
    return turned


def warped(old: Tensor) -> Tensor:
    """Each place moves its own way, smoothly, and not linearly."""
    bent = torch.tanh(old @ drawn(13, D, D) / 6) @ drawn(14, D, D)
    return old + 0.375 * bent


WARPS = [shifted, rotated, warped]
each_warp = pytest.mark.parametrize("warp", WARPS, ids=lambda warp: warp.__name__)
each_layout = pytest.mark.parametrize("centre", [2.0, 0.5, 0.0], ids=["cosines positive", "mixed", "centred on 0"])


def space(warp: Callable[[Tensor], Tensor], centre: float) -> Space:
    labels = torch.arange(60).repeat_interleave(10)
    old = centre + drawn(20, 60, D)[labels] + 0.3 * drawn(21, 600, D)
    return Space(old, warp(old), labels)


def estimate(world: Space) -> tuple[Tensor, Tensor, Tensor]:
    """(virtual, now, old) features of the current stage, by Eq. 3 on the previous stage's photos and Eq. 4."""
    previous, current = world.of(Space.PREVIOUS), world.of(Space.CURRENT)
    kept = world.kept(world.old)
    drifts = prototype_drift(world.old[previous], world.now[previous], kept)
    return virtual_features(world.now[current], kept + drifts, drifts), world.now[current], world.old[current]


class TestWhereTheTrueDriftIsKnown:
    @each_layout
    def test_a_shift_is_undone_exactly(self, centre: float) -> None:
        world = space(shifted, centre)
        virtual, _, old = estimate(world)
        same(virtual, old)
        previous = world.of(Space.PREVIOUS)
        drifts = prototype_drift(world.old[previous], world.now[previous], world.kept(world.old))
        same(world.kept(world.old) + drifts, world.kept(world.now))

    @each_layout
    @pytest.mark.parametrize(
        ("warp", "removed"), [(shifted, 0.999), (rotated, 0.1), (warped, 0.05)], ids=["shifted", "rotated", "warped"]
    )
    def test_virtual_features_are_nearer_to_the_old_ones_than_the_new_are(
        self, warp: Callable[[Tensor], Tensor], removed: float, centre: float
    ) -> None:
        """`removed`: at least this part of the mean cosine distance to the true old feature."""
        virtual, now, old = estimate(space(warp, centre))
        before = 1 - functional.cosine_similarity(now, old).mean()
        after = 1 - functional.cosine_similarity(virtual, old).mean()
        assert after <= (1 - removed) * before

    @pytest.mark.parametrize(
        ("warp", "centre"),
        [(shifted, 2.0), (shifted, 0.5), (shifted, 0.0), (warped, 0.5), (warped, 0.0)],
        ids=["shifted, positive", "shifted, mixed", "shifted, centred", "warped, mixed", "warped, centred"],
    )
    def test_they_are_the_better_teacher_of_old_correlations(
        self, warp: Callable[[Tensor], Tensor], centre: float
    ) -> None:
        """In Gram-KL to the true old features."""
        virtual, now, old = estimate(space(warp, centre))
        assert gram_kl(virtual, old) < gram_kl(now, old)

    @each_layout
    def test_a_rotation_forgets_no_correlation_and_its_correction_spoils_little(self, centre: float) -> None:
        """Nothing to gain here: the new features have the old Gram matrix already. What estimation costs is small
        beside what a warp of that size does."""
        virtual, now, old = estimate(space(rotated, centre))
        assert gram_kl(now, old).abs() < 1e-12
        assert gram_kl(virtual, old) < 1e-3

    def test_far_from_the_origin_nearer_features_can_be_the_worse_teacher(self) -> None:
        """A limit of the method: where one direction is common to all features, the cosine to the old feature is
        mostly about that direction, and the correlations are about the rest."""
        virtual, now, old = estimate(space(warped, 2.0))
        assert functional.cosine_similarity(virtual, old).mean() > 0.97 > functional.cosine_similarity(now, old).mean()
        assert gram_kl(now, old) < gram_kl(virtual, old) < 2e-3

    @each_warp
    def test_where_cosines_are_positive_the_guard_changes_nothing(self, warp: Callable[[Tensor], Tensor]) -> None:
        world = space(warp, 2.0)
        previous, current = world.of(Space.PREVIOUS), world.of(Space.CURRENT)
        kept = world.kept(world.old)
        assert cosines(kept, world.old[previous]).min() > LEAST_WEIGHT
        drifts = literal.prototype_drift(*map(literal.rows, (world.old[previous], world.now[previous], kept)))
        moved = kept + literal.tensor(drifts)
        raw = literal.virtual_features(literal.rows(world.now[current]), literal.rows(moved), drifts)
        same(estimate(world)[0], literal.tensor(raw))

    def test_where_they_are_not_the_raw_quotient_is_worse_than_no_correction(self) -> None:
        world = space(warped, 0.0)
        virtual, now, old = estimate(world)
        previous, kept = world.of(Space.PREVIOUS), world.kept(world.old)
        drifts = literal.prototype_drift(*map(literal.rows, (world.old[previous], world.now[previous], kept)))
        moved = kept + literal.tensor(drifts)
        raw = literal.tensor(literal.virtual_features(literal.rows(now), literal.rows(moved), drifts))
        assert gram_kl(raw, old) > gram_kl(now, old) > gram_kl(virtual, old)


class TestManyStages:
    @pytest.mark.parametrize("sizes", [[1], [5, 5, 5], [100, 1, 25, 3]], ids=str)
    def test_all_at_once_are_each_by_itself(self, sizes: list[int]) -> None:
        now = drawn(1, 8, D)
        kept = [drawn(2 + i, size, D) for i, size in enumerate(sizes)]
        drifts = [drawn(50 + i, size, D) for i, size in enumerate(sizes)]
        at_once = virtual_features_of_stages(now, kept, drifts)
        assert at_once.shape == (len(sizes), 8, D)
        for got, stage, drift in zip(at_once, kept, drifts, strict=True):
            same(got, virtual_features(now, stage, drift))

    @pytest.mark.parametrize("stages", [0, 1, 4, 5])
    def test_up_to_the_bound_all_are_taken_and_nothing_is_drawn(self, stages: int) -> None:
        drawing = generator(0)
        assert sample_stages(stages, drawing, at_most=5) == (list(range(stages)), 1.0)
        assert torch.equal(drawing.get_state(), generator(0).get_state())

    def test_past_the_bound_some_are_drawn_each_once(self) -> None:
        chosen, factor = sample_stages(100, generator(0), at_most=5)
        assert len(set(chosen)) == 5
        assert set(chosen) <= set(range(100))
        assert factor == 20
        assert sample_stages(100, generator(0), at_most=5) == (chosen, factor)

    def test_the_expected_sum_is_that_over_all_stages(self) -> None:
        losses, drawing, draws = torch.tensor([1.0, 10.0, 100.0, 1000.0, 0.5]), generator(0), 20_000
        total = 0.0
        for _ in range(draws):
            chosen, factor = sample_stages(5, drawing, at_most=2)
            total += factor * float(losses[chosen].sum())
        assert total / draws == pytest.approx(float(losses.sum()), rel=0.03)
