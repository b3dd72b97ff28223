"""The papers' equations, literally: loops over lists of Python floats; what tests compare with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Vector = list[float]
Matrix = list[Vector]


def rows(tensor: Tensor) -> Matrix:
    return [[float(value) for value in row] for row in tensor.detach().double()]


def tensor(matrix: Matrix) -> Tensor:
    return torch.tensor(matrix, dtype=torch.float64)


def cosine(a: Vector, b: Vector) -> float:
    dot = length_a = length_b = 0.0
    for x, y in zip(a, b, strict=True):
        dot += x * y
        length_a += x * x
        length_b += y * y
    return dot / math.sqrt(length_a * length_b)


def softmax(row: Vector, temperature: float) -> Vector:
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def correlation(first: Matrix, second: Matrix, temperature: float) -> float:
    """T^2 / N sum KL(sigma(G_first), sigma(G_second)): L_corr of Eq. 1 and 5, with `first` the old model's features."""
    total = 0.0
    for i in range(len(first)):
        p = softmax([cosine(first[i], other) for other in first], temperature)
        q = softmax([cosine(second[i], other) for other in second], temperature)
        for j in range(len(first)):
            total += p[j] * math.log(p[j] / q[j])
    return temperature**2 * total / len(first)


def mutual(a: Matrix, b: Matrix, temperature: float) -> float:
    """Eq. 2."""
    return 0.5 * (correlation(a, b, temperature) + correlation(b, a, temperature))


def triplet(features: Matrix, labels: Sequence[int], margin: float) -> float:
    """The mean over anchors of mean(1 - S of positives kept) + mean(S of negatives kept)."""
    total = 0.0
    for i, anchor in enumerate(features):
        positives, negatives = [], []
        for j, other in enumerate(features):
            if j != i and labels[j] == labels[i]:
                positives.append(cosine(anchor, other))
            if labels[j] != labels[i]:
                negatives.append(cosine(anchor, other))
        if not positives or not negatives:
            continue
        kept_positives = [s for s in positives if s < max(negatives) + margin]
        kept_negatives = [s for s in negatives if s > min(positives) - margin]
        if not kept_positives or not kept_negatives:
            continue
        total += sum(1 - s for s in kept_positives) / len(kept_positives)
        total += sum(kept_negatives) / len(kept_negatives)
    return total / len(features)


def prototypes(features: Matrix, labels: Sequence[int]) -> dict[int, Vector]:
    means = {}
    for category in sorted(set(labels)):
        own = [feature for feature, label in zip(features, labels, strict=True) if label == category]
        means[category] = [sum(column) / len(own) for column in zip(*own, strict=True)]
    return means


def prototype_drift(features_b: Matrix, features_now: Matrix, prototypes_b: Matrix) -> Matrix:
    """Eq. 3, for each prototype."""
    drifts = []
    for prototype in prototypes_b:
        above, below = [0.0] * len(prototype), 0.0
        for before, now in zip(features_b, features_now, strict=True):
            weight = cosine(before, prototype)
            below += weight
            for d in range(len(prototype)):
                above[d] += weight * (now[d] - before[d])
        drifts.append([value / below for value in above])
    return drifts


def virtual_features(features_now: Matrix, prototypes_now: Matrix, drifts: Matrix, least: float = -math.inf) -> Matrix:
    """Eq. 4 and f_hat = f + Delta f, for each photo. A weight is at least `least`: the guard."""
    virtual = []
    for feature in features_now:
        above, below = [0.0] * len(feature), 0.0
        for prototype, drift in zip(prototypes_now, drifts, strict=True):
            weight = max(cosine(feature, prototype), least)
            below += weight
            for d in range(len(feature)):
                above[d] += weight * drift[d]
        virtual.append([feature[d] - above[d] / below for d in range(len(feature))])
    return virtual
