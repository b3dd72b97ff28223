"""Where old features have gone: prototypes, their drift, and virtual old features, as pure functions (mutual, Eq. 3-6).

Features are those before normalisation. The paper's letters: f_x^b is a feature of photo x by the model of stage b,
mu_{b,k}^b the prototype of category k of stage b by that model, Delta mu_{b,k}^{b -> i-1} its drift to the model of
stage i-1, S the cosine.

Departs from the paper: its weights S are raw cosines. They can be negative, and can sum to nearly 0: embeddings that
are centred have cosines around 0 between unlike categories, and the quotient is then of any size and sign. Here a
weight is at least LEAST_WEIGHT. So every estimated drift is a convex combination of those it is drawn from: finite, no
longer than the longest of them, and exact when all are equal. Where all cosines are positive it is the paper's value;
where none is, the plain mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.losses import cosines

LEAST_WEIGHT = 1e-6
MOST_STAGES = 20  # per step: tests/bench/results/stages.json has what they cost


def prototypes(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The mean feature of each category: features (M, D), labels (M) -> categories (C), ascending, and means (C, D)."""
    categories, rows, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    sums = features.new_zeros(len(categories), features.shape[1]).index_add(0, rows, features)
    return categories, sums / counts[:, None]


def prototype_drift(features_b: Tensor, features_now: Tensor, prototypes_b: Tensor) -> Tensor:
    """Eq. 3: how far the prototypes of stage b have moved, told from other photos, by two models.

        Delta mu_k = sum_x S(f_x^b, mu_k^b) (f_x^{i-1} - f_x^b) / sum_x S(f_x^b, mu_k^b)

    features_b    f^b (M, D), the photos x of stage i-1 by the model of stage b
    features_now  f^{i-1} (M, D), the same photos by the model of stage i-1
    prototypes_b  mu^b (C, D)

    Returns the drifts (C, D). The prototypes at stage i-1 are `prototypes_b` plus these.
    """
    return _weighted_mean(cosines(prototypes_b, features_b), features_now - features_b)


def virtual_features(features_now: Tensor, prototypes_now: Tensor, drifts: Tensor) -> Tensor:
    """Eq. 4: the features that the model of stage b would have given, told from those of stage i-1.

        f_hat_x^b = f_x^{i-1} - sum_k S(f_x^{i-1}, mu_k^{i-1}) Delta mu_k / sum_k S(f_x^{i-1}, mu_k^{i-1})

    features_now    f^{i-1} (N, D), by the teacher
    prototypes_now  mu^{i-1} (C, D) of the categories k of stage b, moved to stage i-1
    drifts          Delta mu^{b -> i-1} (C, D)

    Returns f_hat^b (N, D).
    """
    return features_now - _weighted_mean(cosines(features_now, prototypes_now), drifts)


def virtual_features_of_stages(
    features_now: Tensor, prototypes_now: Sequence[Tensor], drifts: Sequence[Tensor]
) -> Tensor:
    """Eq. 4 for B stages at once: as `virtual_features`, with one (C_b, D) for each stage. Returns (B, N, D).

    The cosines with all prototypes are one product of matrices. What it returns is `gram_kl`'s teacher for Eq. 6.
    """
    weights = torch.split(
        cosines(features_now, torch.cat(list(prototypes_now))), [len(stage) for stage in drifts], dim=1
    )
    moved = [_weighted_mean(*of_stage) for of_stage in zip(weights, drifts, strict=True)]
    return features_now - torch.stack(moved)


def sample_stages(stages: int, generator: torch.Generator, at_most: int = MOST_STAGES) -> tuple[list[int], float]:
    """Which of the earlier stages one step learns from, so that its cost does not grow with their number.

    Returns min(stages, at_most) indices below `stages`, drawn without replacement, and the factor by which the sum of
    their losses is multiplied, so that its expectation is the sum over all of them (Eq. 6).

    Departs from the paper: it sums over every stage at every step, and has three.
    """
    if stages <= at_most:
        return list(range(stages)), 1.0
    chosen = torch.randperm(stages, generator=generator)[:at_most]
    return sorted(chosen.tolist()), stages / at_most


def _weighted_mean(weights: Tensor, values: Tensor) -> Tensor:
    """(K, M), (M, D) -> (K, D), in float32 at least, with the guard that the module describes."""
    weights = weights.clamp_min(LEAST_WEIGHT)
    with torch.autocast(weights.device.type, enabled=False):
        return (weights / weights.sum(dim=1, keepdim=True)) @ values.to(weights.dtype)
