"""Embedding heads for a fresh model: pooled features (N, W) -> embeddings (N, D) before normalisation.

Each function returns the weight (D, W) and the bias (D) of a linear layer, in float32, worked out in float64. Which one
a fresh model gets, and the figures behind that, are in docs/models.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

from indexer.errors import InvalidField

Head = tuple[Tensor, Tensor]


def orthogonal(width: int, dimension: int, generator: torch.Generator) -> Head:
    """A uniformly random projection onto D orthonormal directions; no bias. Needs no photo.

    It keeps angles between features, up to an error that shrinks with D (Johnson and Lindenstrauss).

    Errors: InvalidField when D is more than the backbone's width.
    """
    _check_dimension(width, dimension)
    gaussian = torch.randn(width, dimension, generator=generator, dtype=torch.float64)
    directions, triangle = torch.linalg.qr(gaussian)
    # With R's diagonal made positive, the directions are uniform over all choices (Mezzadri, 2007).
    weight = (directions * triangle.diagonal().sign()).T
    return weight.float().contiguous(), torch.zeros(dimension)


def pca(features: Tensor, dimension: int, exponent: float = 0.0, shrinkage: float = 0.0) -> Head:
    """The D principal directions of features (N, W), with the mean taken away.

    exponent    of the eigenvalue by which each direction is divided: 0 is plain PCA, 0.5 whitens (every direction gets
                the same variance), between them the rare directions are raised in part
    shrinkage   0 to 1: the covariance is moved by this much towards the multiple of the identity that has its trace, so
                that directions which few photos settle are not raised by chance (Ledoit and Wolf, 2004)

    Errors: InvalidField when D is more than W, or when the photos are too few: the covariance of N photos has N - 1
    directions, and without shrinkage all D must be among them.
    """
    count, width = features.shape
    _check_dimension(width, dimension)
    needed = dimension + 1 if shrinkage == 0.0 else 2
    if count < needed:
        raise InvalidField(
            f"{count} photos are too few to fit a head of {dimension} dimensions",
            field="photos",
            got=count,
            expected=f"at least {needed}",
        )
    samples = features.double()
    mean = samples.mean(dim=0)
    covariance = torch.cov(samples.T)
    level = covariance.trace() / width
    covariance = (1 - shrinkage) * covariance + shrinkage * level * torch.eye(width, dtype=torch.float64)
    variances, directions = torch.linalg.eigh(covariance)  # ascending
    variances, directions = variances[-dimension:].flip(0), directions[:, -dimension:].flip(1).T
    # An eigenvector's sign is arbitrary: its largest entry is made positive, so that the same photos give one head.
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    weight = directions * largest.sign() * variances.clamp_min(torch.finfo(torch.float64).tiny).pow(-exponent)[:, None]
    return weight.float().contiguous(), (-weight @ mean).float()


def _check_dimension(width: int, dimension: int) -> None:
    if not 1 <= dimension <= width:
        raise InvalidField(
            f"a head on {width} features has 1 to {width} dimensions, not {dimension}",
            field="dimension",
            got=dimension,
            expected=f"1 to {width}",
        )
