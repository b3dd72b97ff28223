"""Losses: against literal loops, values by hand, their invariances, their limits, and where gradient must not flow."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.trainer import literal
from trainer.losses import cosines, gram, gram_kl, mutual_gram_kl, triplet

N, D = 12, 7
LABELS = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 4])  # the last has no positive


def drawn(seed: int, *shape: int) -> Tensor:
    """float64, of lengths far from 1"""
    return 3 * torch.randn(*(shape or (N, D)), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(seed: int, dimension: int = D) -> Tensor:
    orthogonal: Tensor = torch.linalg.qr(drawn(seed, dimension, dimension))[0]
    return orthogonal


def same(got: Tensor, expected: Tensor | float) -> None:
    torch.testing.assert_close(got, torch.as_tensor(expected, dtype=got.dtype), rtol=1e-9, atol=1e-12)


Loss = Callable[[Tensor], Tensor]
OTHER = drawn(99)
LOSSES: dict[str, Loss] = {  # each as a function of one argument's features
    "triplet": lambda features: triplet(features, LABELS),
    "gram_kl": lambda features: gram_kl(features, OTHER),
    "mutual, first": lambda features: mutual_gram_kl(features, OTHER),
    "mutual, second": lambda features: mutual_gram_kl(OTHER, features),
}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


class TestEveryLoss:
    @each_loss
    def test_the_length_of_a_feature_does_not_matter(self, loss: Loss) -> None:
        same(loss(drawn(1) * drawn(2, N, 1).abs()), loss(drawn(1)))

    @each_loss
    def test_a_rotation_of_all_features_does_not_matter(self, loss: Loss) -> None:
        same(loss(drawn(1) @ rotation(3)), loss(drawn(1)))

    @each_loss
    def test_its_gradient_is_that_of_its_value(self, loss: Loss) -> None:
        assert torch.autograd.gradcheck(loss, drawn(1).requires_grad_())

    @each_loss
    def test_with_weight_0_it_gives_a_gradient_of_zeros(self, loss: Loss) -> None:
        features = drawn(1).requires_grad_()
        torch.autograd.backward(0.0 * loss(features))
        assert features.grad is not None
        assert not features.grad.any()

    @each_loss
    def test_autocast_does_not_make_it_coarse(self, loss: Loss) -> None:
        features = drawn(1).float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = loss(features)
        assert torch.equal(inside, loss(features))

    @each_loss
    def test_features_of_zeros_give_a_finite_value(self, loss: Loss) -> None:
        features = drawn(1)
        features[3] = 0
        assert loss(features).isfinite()


class TestTriplet:
    @pytest.mark.parametrize("margin", [0.0, 0.1, 0.5, 3.0])
    @pytest.mark.parametrize("seed", range(4))
    def test_it_is_its_definition(self, seed: int, margin: float) -> None:
        features = drawn(seed)
        same(
            triplet(features, LABELS, margin=margin),
            literal.triplet(literal.rows(features), LABELS.tolist(), margin),
        )

    def test_by_hand(self) -> None:
        """Cosines: 0-1 0.6 (positives), 0-2 0.8, 1-2 0.96. Anchor 2 has no positive."""
        features = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6]], dtype=torch.float64)
        same(triplet(features, torch.tensor([5, 5, 9])), ((0.4 + 0.8) + (0.4 + 0.96) + 0) / 3)

    def test_easy_pairs_are_left_out(self) -> None:
        """Anchor at 0 degrees; its positives' cosines are 1 and 0.6, its negatives' 0.8 and -1."""
        features = torch.tensor([[1, 0], [1, 0], [0.6, 0.8], [0.8, -0.6], [-1, 0]], dtype=torch.float64)
        loss = triplet(features, torch.tensor([0, 0, 0, 1, 2]))
        # Anchors 0 and 1 keep the positive 0.6 and the negative 0.8. Anchor 2 keeps no negative (0 and -0.6 are below
        # 0.5), nor then a positive. 3 and 4 have no positive.
        same(loss, 2 * (0.4 + 0.8) / 5)

    def test_the_order_of_the_photos_does_not_matter(self) -> None:
        order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
        same(triplet(drawn(1)[order], LABELS[order]), triplet(drawn(1), LABELS))

    def test_what_the_categories_are_called_does_not_matter(self) -> None:
        same(triplet(drawn(1), 1000 - 7 * LABELS), triplet(drawn(1), LABELS))

    @pytest.mark.parametrize(
        "labels",
        [torch.zeros(N, dtype=torch.int64), torch.arange(N), torch.zeros(1, dtype=torch.int64)],
        ids=["one category", "each photo its own category", "one photo"],
    )
    def test_a_batch_without_a_valid_pair_costs_nothing_and_teaches_nothing(self, labels: Tensor) -> None:
        features = drawn(1)[: len(labels)].requires_grad_()
        loss = triplet(features, labels)
        torch.autograd.backward(loss)
        assert loss == 0
        assert features.grad is not None
        assert not features.grad.any()

    def test_categories_apart_by_the_margin_cost_nothing(self) -> None:
        features = torch.eye(3, dtype=torch.float64).repeat_interleave(2, dim=0)
        assert triplet(features, torch.tensor([0, 0, 1, 1, 2, 2])) == 0

    def test_the_same_photo_twice_is_a_positive_of_itself(self) -> None:
        """Only the pair of an index with itself is left out, not every pair with cosine 1."""
        features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
        same(triplet(features, torch.tensor([0, 0, 1])), 2 / 3)  # two anchors: 1 - 1 + 1

    def test_a_step_against_its_gradient_brings_positives_nearer_than_negatives(self) -> None:
        features = drawn(4).requires_grad_()
        for _ in range(200):
            (slope,) = torch.autograd.grad(triplet(features, LABELS), features)
            features = (features - 3 * slope).detach().requires_grad_()
        similarity = gram(features[:11]).fill_diagonal_(-1)
        assert torch.equal(LABELS[similarity.argmax(dim=1)], LABELS[:11])


class TestGramKl:
    @pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
    @pytest.mark.parametrize("seed", range(4))
    def test_it_is_equation_5(self, seed: int, temperature: float) -> None:
        student, teacher = drawn(seed), drawn(seed + 50, N, 5)
        expected = literal.correlation(literal.rows(teacher), literal.rows(student), temperature)
        same(gram_kl(student, teacher, temperature=temperature), expected)

    def test_by_hand(self) -> None:
        """The teacher sees two unlike photos, the student two like ones. At T = 1: sum P log(P / (1/2))."""
        p = math.e / (1 + math.e)
        expected = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
        assert expected == pytest.approx(0.110944, abs=1e-6)
        teacher = torch.eye(2, dtype=torch.float64)
        same(gram_kl(torch.ones_like(teacher), teacher, temperature=1.0), expected)

    def test_its_direction_is_teacher_first(self) -> None:
        a, b = torch.eye(2, dtype=torch.float64), torch.ones(2, 2, dtype=torch.float64)
        assert gram_kl(a, b, temperature=1.0).item() == pytest.approx(0.120115, abs=1e-6)
        assert gram_kl(b, a, temperature=1.0).item() == pytest.approx(0.110944, abs=1e-6)

    def test_the_teacher_gets_no_gradient(self) -> None:
        student, teacher = drawn(1).requires_grad_(), drawn(2).requires_grad_()
        torch.autograd.backward(gram_kl(student, teacher))
        assert teacher.grad is None
        assert student.grad is not None
        assert student.grad.any()

    def test_the_order_of_the_photos_does_not_matter_if_it_is_the_same(self) -> None:
        order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
        same(gram_kl(drawn(1)[order], drawn(2)[order]), gram_kl(drawn(1), drawn(2)))
        assert gram_kl(drawn(1)[order], drawn(2)) != gram_kl(drawn(1), drawn(2))

    def test_a_student_that_agrees_costs_nothing_and_learns_nothing(self) -> None:
        """Agreement is in the angles: a rotated and scaled teacher agrees."""
        student = drawn(1).requires_grad_()
        loss = gram_kl(student, 2 * drawn(1) @ rotation(3))
        (slope,) = torch.autograd.grad(loss, student)
        torch.testing.assert_close(loss, torch.zeros_like(loss), rtol=0, atol=1e-12)
        torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-12)

    @given(seeds=st.tuples(st.integers(0, 9999), st.integers(0, 9999)), photos=st.integers(1, 6))
    @settings(max_examples=50, deadline=None)
    def test_it_is_never_negative(self, seeds: tuple[int, int], photos: int) -> None:
        assert gram_kl(drawn(seeds[0], photos, 3), drawn(seeds[1], photos, 3)) >= -1e-12

    def test_when_hot_it_is_half_the_variance_of_the_differences_within_rows(self) -> None:
        difference = gram(drawn(1)) - gram(drawn(2))
        expected = difference.var(dim=1, correction=0).mean() / 2
        torch.testing.assert_close(gram_kl(drawn(1), drawn(2), temperature=1000.0), expected, rtol=1e-3, atol=0)

    def test_one_photo_says_nothing(self) -> None:
        assert gram_kl(drawn(1, 1, D), drawn(2, 1, D)) == 0

    def test_several_teachers_are_summed(self) -> None:
        """Eq. 6, its value and its gradient."""
        student, teachers = drawn(1).requires_grad_(), drawn(2, 3, N, D)
        at_once = gram_kl(student, teachers)
        one_by_one = torch.stack([gram_kl(student, teacher) for teacher in teachers]).sum()
        same(at_once, one_by_one.detach())
        same(torch.autograd.grad(at_once, student)[0], torch.autograd.grad(one_by_one, student)[0])


class TestMutualGramKl:
    @pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
    def test_it_is_equation_2(self, temperature: float) -> None:
        a, b = drawn(1), drawn(2, N, 5)
        expected = literal.mutual(literal.rows(a), literal.rows(b), temperature)
        same(mutual_gram_kl(a, b, temperature=temperature), expected)

    def test_by_hand(self) -> None:
        a, b = torch.eye(2, dtype=torch.float64), torch.ones(2, 2, dtype=torch.float64)
        assert mutual_gram_kl(a, b, temperature=1.0).item() == pytest.approx((0.120115 + 0.110944) / 2, abs=1e-6)

    def test_it_does_not_matter_who_is_named_first(self) -> None:
        same(mutual_gram_kl(drawn(1), drawn(2)), mutual_gram_kl(drawn(2), drawn(1)))

    def test_each_student_gets_gradient_from_both_directions(self) -> None:
        """A student that is the target of one direction learns from it too, unlike `gram_kl`'s teacher."""
        a, b = drawn(1).requires_grad_(), drawn(2).requires_grad_()
        slopes = torch.autograd.grad(mutual_gram_kl(a, b), (a, b))
        one_sided = torch.autograd.grad(gram_kl(a, b) / 2 + gram_kl(b, a) / 2, (a, b))
        for slope, part in zip(slopes, one_sided, strict=True):
            assert slope.any()
            assert not torch.allclose(slope, part, rtol=1e-2)
        assert torch.autograd.gradcheck(mutual_gram_kl, (a, b))


def test_a_cosine_with_nothing_is_0() -> None:
    assert not cosines(torch.zeros(2, D), torch.ones(3, D)).any()


def test_coarse_features_are_compared_in_float32() -> None:
    features = drawn(1).bfloat16()
    assert torch.equal(gram(features), gram(features.float()))
