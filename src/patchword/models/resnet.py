"""CLIP's ModifiedResNet (Radford et al. 2021, 2.4; after He et al. 2016, 2019 and Zhang 2019)."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from patchword.config import ResNetConfig
from patchword.nn.pooling import AttentionPool2d
from patchword.nn.taps import NO_TAPS, Taps


def conv_bn(inside: int, outside: int, size: int, stride: int = 1) -> tuple[nn.Conv2d, nn.Module]:
    """A convolution of odd `size` that keeps the grid (but for the stride), and its batch norm."""
    conv = nn.Conv2d(inside, outside, size, stride=stride, padding=size // 2, bias=False)
    return conv, nn.BatchNorm2d(outside)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a residual; strides are average pools, so that nothing aliases."""

    expansion = 4

    def __init__(self, inside: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        outside = planes * self.expansion
        self.conv1, self.bn1 = conv_bn(inside, planes, 1)
        self.conv2, self.bn2 = conv_bn(planes, planes, 3)
        self.conv3, self.bn3 = conv_bn(planes, outside, 1)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or inside != outside:
            self.downsample = nn.Sequential(self.avgpool, *conv_bn(inside, outside, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.avgpool(F.relu(self.bn2(self.conv2(y))))
        y = self.bn3(self.conv3(y))
        return F.relu(y + self.downsample(x))


class Trunk(nn.Module):
    """Three-convolution stem and stages of bottlenecks: (B, 3, H, W) -> (B, C, H / s, W / s).

    The stem strides by 4 and each stage after the first by 2. Taps: "layer{i}" (B, C_i, h, w).
    """

    def __init__(self, width: int, stages: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(3, width // 2, 3, stride=2)
        self.conv2, self.bn2 = conv_bn(width // 2, width // 2, 3)
        self.conv3, self.bn3 = conv_bn(width // 2, width, 3)
        self.avgpool = nn.AvgPool2d(2)
        self.depth = len(stages)
        planes = [width * 2**i for i in range(self.depth)]
        widths = [width, *(p * Bottleneck.expansion for p in planes)]
        for i, (inside, outside) in enumerate(pairwise(widths)):
            first = Bottleneck(inside, planes[i], stride=2 if i else 1)
            rest = [Bottleneck(outside, planes[i]) for _ in range(stages[i] - 1)]
            self.add_module(f"layer{i + 1}", nn.Sequential(first, *rest))
        self.out_width = widths[-1]

    def forward(self, pixels: Tensor, taps: Taps = NO_TAPS) -> Tensor:
        x = F.relu(self.bn1(self.conv1(pixels)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = self.avgpool(F.relu(self.bn3(self.conv3(x))))
        for i in range(1, self.depth + 1):
            x = self.get_submodule(f"layer{i}")(x)
            taps.keep(f"layer{i}", x)
        return x  # type: ignore[no-any-return]


class ModifiedResNet(Trunk):
    """Trunk and attention pooling: pixels (B, 3, H, W) -> features (B, out).

    Taps: "layer{i}", and "attnpool.*" of AttentionPool2d.
    """

    def __init__(self, config: ResNetConfig, out: int) -> None:
        super().__init__(config.width, config.stages)
        self.config = config
        self.attnpool = AttentionPool2d(config.grid, self.out_width, config.heads, out)

    def forward(self, pixels: Tensor, taps: Taps = NO_TAPS) -> Tensor:
        return self.attnpool(super().forward(pixels, taps), taps.inside("attnpool"))  # type: ignore[no-any-return]

    def project(self, tokens: Tensor) -> Tensor:
        """Tokens of the pool's own output (B, N, out) are in the joint space already."""
        return tokens
