"""Heads, against the words of their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from indexer.errors import InvalidField
from trainer import heads


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def features() -> Tensor:
    """(300, 12), correlated, of unequal variances, far from the origin."""
    mixing = torch.randn(12, 12, generator=generator(1)) * torch.logspace(0, 1, 12)
    return torch.randn(300, 12, generator=generator(2)) @ mixing + 30.0


class TestOrthogonal:
    @pytest.mark.parametrize(("width", "dimension"), [(12, 5), (12, 12), (12, 1), (1280, 512)])
    def test_its_rows_are_orthonormal_and_nothing_is_added(self, width: int, dimension: int) -> None:
        weight, bias = heads.orthogonal(width, dimension, generator())
        assert weight.shape == (dimension, width)
        torch.testing.assert_close(weight @ weight.T, torch.eye(dimension), rtol=0, atol=1e-5)
        assert torch.equal(bias, torch.zeros(dimension))

    def test_a_seed_is_a_head(self) -> None:
        assert torch.equal(heads.orthogonal(12, 5, generator(3))[0], heads.orthogonal(12, 5, generator(3))[0])
        assert not torch.equal(heads.orthogonal(12, 5, generator(3))[0], heads.orthogonal(12, 5, generator(4))[0])

    def test_no_direction_is_favoured(self) -> None:
        """Without the correction of signs, QR leaves a bias that the mean over many draws shows."""
        drawn = torch.stack([heads.orthogonal(3, 2, generator(seed))[0] for seed in range(2000)])
        torch.testing.assert_close(drawn.mean(dim=0), torch.zeros(2, 3), rtol=0, atol=0.05)
        torch.testing.assert_close(drawn.square().mean(dim=0), torch.full((2, 3), 1 / 3), rtol=0, atol=0.03)


class TestPca:
    def test_embeddings_of_the_fitted_photos_are_centred(self, features: Tensor) -> None:
        for exponent in (0.0, 0.125, 0.5):
            weight, bias = heads.pca(features, 5, exponent)
            embedded = features @ weight.T + bias
            torch.testing.assert_close(embedded.mean(dim=0), torch.zeros(5), rtol=0, atol=1e-3)

    def test_plain_pca_is_the_singular_vectors_of_centred_features(self, features: Tensor) -> None:
        weight, _ = heads.pca(features, 5)
        centred = features.double().numpy() - features.double().numpy().mean(axis=0)
        _, singular, directions = np.linalg.svd(centred, full_matrices=False)
        for i in range(5):
            assert abs(float(weight[i].double().numpy() @ directions[i])) == pytest.approx(1, abs=1e-5)
        variances = (features @ weight.T).var(dim=0).double().numpy()
        np.testing.assert_allclose(variances, singular[:5] ** 2 / 299, rtol=1e-4)

    def test_plain_pca_has_orthonormal_rows_also_when_shrunk(self, features: Tensor) -> None:
        weight, _ = heads.pca(features, 5, shrinkage=0.3)
        torch.testing.assert_close(weight @ weight.T, torch.eye(5), rtol=0, atol=1e-5)

    def test_whitened_features_have_the_identity_as_covariance(self, features: Tensor) -> None:
        weight, bias = heads.pca(features, 12, exponent=0.5)
        torch.testing.assert_close(torch.cov((features @ weight.T + bias).T), torch.eye(12), rtol=0, atol=1e-3)

    def test_in_part_whitened_variances_are_a_power_of_the_eigenvalues(self, features: Tensor) -> None:
        weight, bias = heads.pca(features, 12, exponent=0.125)
        eigenvalues = np.linalg.eigvalsh(np.cov(features.double().numpy().T))[::-1]
        variances = (features @ weight.T + bias).var(dim=0).numpy()
        np.testing.assert_allclose(variances, eigenvalues**0.75, rtol=1e-3)

    def test_shrinkage_moves_the_covariance_towards_the_identity(self, features: Tensor) -> None:
        """By hand: scale of each row is ((1 - s) * eigenvalue + s * mean eigenvalue) ** -exponent."""
        weight, _ = heads.pca(features, 12, exponent=0.5, shrinkage=0.3)
        eigenvalues = np.linalg.eigvalsh(np.cov(features.double().numpy().T))[::-1]
        expected = (0.7 * eigenvalues + 0.3 * eigenvalues.mean()) ** -0.5
        np.testing.assert_allclose(weight.norm(dim=1).numpy(), expected, rtol=1e-4)

    def test_with_full_shrinkage_every_direction_counts_the_same(self, features: Tensor) -> None:
        weight, _ = heads.pca(features, 12, exponent=0.5, shrinkage=1.0)
        torch.testing.assert_close(weight @ weight.T, torch.eye(12) * weight[0].square().sum(), rtol=0, atol=1e-5)

    def test_the_order_of_the_photos_does_not_matter(self, features: Tensor) -> None:
        shuffled = features[torch.randperm(300, generator=generator())]
        for ours, theirs in zip(heads.pca(features, 5), heads.pca(shuffled, 5), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)

    def test_fewer_photos_than_dimensions_need_shrinkage(self, features: Tensor) -> None:
        with pytest.raises(InvalidField, match="4 photos are too few"):
            heads.pca(features[:4], 5, exponent=0.5)
        weight, bias = heads.pca(features[:4], 5, exponent=0.5, shrinkage=0.3)
        assert weight.isfinite().all()
        assert bias.isfinite().all()


@pytest.mark.parametrize("dimension", [0, 13])
def test_a_head_cannot_have_more_dimensions_than_the_backbone_has_features(dimension: int, features: Tensor) -> None:
    with pytest.raises(InvalidField, match=f"1 to 12 dimensions, not {dimension}"):
        heads.orthogonal(12, dimension, generator())
    with pytest.raises(InvalidField, match=f"1 to 12 dimensions, not {dimension}"):
        heads.pca(features, dimension)
