"""The embedding network."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from trainer import backbones
from trainer.network import EmbeddingNetwork, FrozenBatchNorm2d

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
    for name in ("bn0", "blocks.5.bn1", "bn1"):
        network.backbone.get_submodule(name).register_forward_hook(
            lambda module, given, result: seen.append(result.is_contiguous(memory_format=torch.channels_last))
        )
    network(images)
    assert seen == [True, True, True]
