"""The embedding network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from indexer.errors import InvalidField
from tests.trainer import tiny
from trainer import backbones
from trainer.losses import gram
from trainer.methods import Init
from trainer.network import DIMENSION, EmbeddingNetwork, FrozenBatchNorm2d, create_network

LITE0 = backbones.find("efficientnet_lite0")


@pytest.fixture
def network() -> EmbeddingNetwork:
    torch.manual_seed(0)
    return EmbeddingNetwork(LITE0, backbones.create("efficientnet_lite0", 64), 32)


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_embeddings_are_features_of_unit_length(network: EmbeddingNetwork, images: Tensor) -> None:
    embeddings, features = network(images), network.features(images)
    assert embeddings.shape == (3, 32)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(embeddings, features / features.norm(dim=1, keepdim=True))


def test_pixels_are_normalised_and_laid_out_inside(network: EmbeddingNetwork, images: Tensor) -> None:
    by_hand = torch.stack([(images[..., channel].float() - 127) / 128 for channel in range(3)], dim=1)
    torch.testing.assert_close(network.pooled(images), network.backbone(by_hand.contiguous()), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "wake",
    [lambda n: n.train(), lambda n: n.backbone.train(), lambda n: n.apply(lambda m: m.train())],
    ids=["the network", "its backbone", "each module"],
)
def test_batch_norm_stays_frozen_whatever_calls_train(
    wake: Callable[[EmbeddingNetwork], object], network: EmbeddingNetwork, images: Tensor
) -> None:
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    asleep = network.eval()(images)
    wake(network)
    assert len(norms) == 49
    assert not any(norm.training for norm in norms)
    torch.testing.assert_close(network(images), asleep)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("name", ["googlenet", "resnet50"])
def test_batch_norm_of_torchvisions_networks_is_frozen_too(name: str) -> None:
    backbone = backbones.find(name)
    network = EmbeddingNetwork(backbone, backbone.build(64)).train()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all(isinstance(norm, FrozenBatchNorm2d) and not norm.training for norm in norms)


def test_freezing_changes_no_answer(images: Tensor) -> None:
    plain = backbones.create("efficientnet_lite0", 64).eval()
    pixels = (images.float().permute(0, 3, 1, 2) - 127) / 128
    with torch.inference_mode():
        expected = plain(pixels)
        frozen = EmbeddingNetwork(LITE0, plain)
        torch.testing.assert_close(frozen.pooled(images), expected, rtol=1e-3, atol=1e-4)


def test_scale_and_shift_of_batch_norm_can_still_learn(network: EmbeddingNetwork, images: Tensor) -> None:
    network.train()(images).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_a_batch_of_one_has_the_same_embedding_as_in_company(network: EmbeddingNetwork, images: Tensor) -> None:
    network.train()
    torch.testing.assert_close(network(images[:1]), network(images)[:1], rtol=1e-4, atol=1e-5)


def test_the_state_is_the_backbones_and_the_heads(network: EmbeddingNetwork) -> None:
    names = {name.split(".", 1)[0] for name in network.state_dict()}
    assert names == {"backbone", "head"}


def test_a_layout_is_kept_that_is_fast_on_a_cpu(network: EmbeddingNetwork, images: Tensor) -> None:
    seen: list[bool] = []
    for name in ("blocks.0", "blocks.5", "blocks.15"):
        network.backbone.get_submodule(name).register_forward_hook(
            lambda module, given, result: seen.append(result.is_contiguous(memory_format=torch.channels_last))
        )
    network(images)
    assert seen == [True, True, True]


class TestCreate:
    INITS: tuple[Init, ...] = ("pretrained", "random")

    @staticmethod
    def made(seed: int, init: Init, **options: Any) -> dict[str, Tensor]:
        return tiny.weights(create_network("efficientnet_lite0", 64, seed=seed, init=init, **options))

    def test_pretrained_is_the_backbone_as_published_with_an_orthogonal_head(self) -> None:
        network = create_network("efficientnet_lite0", 64, seed=3)
        published = backbones.create("efficientnet_lite0", 64).state_dict()
        assert all(torch.equal(value, published[name]) for name, value in network.backbone.state_dict().items())
        weight = network.head.weight.detach()
        assert weight.shape == (DIMENSION, LITE0.width)
        torch.testing.assert_close(weight @ weight.T, torch.eye(DIMENSION), rtol=0, atol=1e-5)
        assert not network.head.bias.any()

    @pytest.mark.parametrize("init", INITS)
    def test_the_seed_decides_and_global_random_numbers_have_no_part(self, init: Init) -> None:
        first = self.made(3, init)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(77)
            assert tiny.same(self.made(3, init), first)
        assert not torch.equal(self.made(4, init)["/head.weight"], first["/head.weight"])

    def test_random_weights_are_not_drawn_from_the_global_random_numbers(self) -> None:
        before = torch.get_rng_state()
        self.made(3, "random")
        assert torch.equal(torch.get_rng_state(), before)

    def test_random_weights_see_that_photos_differ(self, images: Tensor) -> None:
        """Features of about the size of a pretrained network's, with cosines that are not all 1."""
        network = create_network("efficientnet_lite0", 64, seed=0, init="random")
        features = network.features(images)
        assert 5 < features.norm(dim=1).mean() < 500
        assert gram(features).min() < 0.99

    def test_random_has_nothing_of_the_published_weights(self) -> None:
        pretrained, random, other = self.made(3, "pretrained"), self.made(3, "random"), self.made(4, "random")
        assert pretrained.keys() == random.keys()
        filters = [name for name in random if "conv" in name or name == "/head.weight"]
        assert len(filters) == 50
        for name in filters:
            assert not torch.isclose(random[name], pretrained[name]).float().mean() > 0.5, name
            assert not torch.equal(random[name], other[name]), name

    @pytest.mark.parametrize("init", INITS)
    def test_both_have_frozen_statistics_and_the_dimension_that_was_asked_for(self, init: Init) -> None:
        network = create_network("efficientnet_lite0", 64, seed=0, init=init, dimension=24).train()
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        assert len(norms) == 49
        assert all(isinstance(norm, FrozenBatchNorm2d) for norm in norms)
        assert network.head.out_features == 24
        assert all(parameter.requires_grad for parameter in network.parameters())

    def test_weights_from_a_file_take_the_place_of_the_published(self, tmp_path: Path) -> None:
        other = LITE0.build(64).state_dict()
        torch.save(other, tmp_path / "other.pth")
        network = create_network("efficientnet_lite0", 64, seed=0, weights=tmp_path / "other.pth")
        assert all(torch.equal(value, other[name]) for name, value in network.backbone.state_dict().items())

    @pytest.mark.parametrize("init", INITS)
    def test_an_unknown_backbone_is_refused(self, init: Init) -> None:
        with pytest.raises(InvalidField) as refused:
            create_network("alexnet", 64, seed=0, init=init)
        assert (refused.value.field, refused.value.got) == ("backbone", "alexnet")

    def test_an_image_size_that_the_backbone_cannot_take_is_refused(self) -> None:
        with pytest.raises(InvalidField) as refused:
            create_network("efficientnet_lite0", 16, seed=0)
        assert refused.value.field == "image_size"

    def test_a_file_that_holds_no_weights_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidField) as refused:
            create_network("efficientnet_lite0", 64, seed=0, weights=tmp_path / "none.pth")
        assert refused.value.field == "weights"
