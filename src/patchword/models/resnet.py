"""CLIP's ModifiedResNet (Radford et al. 2021, 2.4; after He et al. 2016, 2019 and Zhang 2019)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchword.config import ResNetConfig
from patchword.errors import UnsupportedError
from patchword.models.dense import Seen, attended
from patchword.models.edits import DenseEdit
from patchword.models.protocols import Pixels, Size, Tokens
from patchword.nn.inference_mode import eager_inference
from patchword.nn.pooling import AttentionPool2d
from patchword.nn.taps import NO_TAPS, Taps


def conv_bn(
    inside: int, outside: int, size: int, stride: int = 1
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """A convolution of odd `size` that keeps the grid (but for the stride), and its batch norm."""
    conv = nn.Conv2d(inside, outside, size, stride=stride, padding=size // 2, bias=False)
    return conv, nn.BatchNorm2d(outside)


def normed(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """norm(conv(x)). Of several images in inference on a CPU, in float32, the norm's scale and
    shift of each channel are brought into the weights, without a pass of their own over the result:
    16 images took 0.86 of the time in RN50, 32 in the stem of a ViT 0.74, as near to float64."""
    if not (_several_on_cpu(x) and _folds(conv, norm)):
        return norm(conv(x))  # type: ignore[no-any-return]
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)  # type: ignore[arg-type, operator]
    shift = norm.bias - norm.running_mean * scale  # type: ignore[operator]
    weight = conv.weight * scale[:, None, None, None]
    return F.conv2d(x, weight, shift, conv.stride, conv.padding)


def _several_on_cpu(x: Tensor) -> bool:
    return eager_inference() and x.is_cpu and len(x) > 1


def _folds(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> bool:
    """Whether they are what they seem: an adapter, a pruned weight, a hook of somebody's is not
    passed over; in bfloat16 the product of weight and scale would be rounded once more."""
    layers = (conv, norm)
    return (
        (type(conv), type(norm)) == (nn.Conv2d, nn.BatchNorm2d)
        and not norm.training
        and not any(each._forward_hooks or each._forward_pre_hooks for each in layers)
        and conv.weight.dtype == norm.weight.dtype == torch.float32
    )


def relu(x: Tensor) -> Tensor:
    """Of what nobody else holds: in inference the numbers are changed where they are."""
    return F.relu(x, inplace=eager_inference())


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
        y = relu(normed(x, self.conv1, self.bn1))
        y = self.avgpool(relu(normed(y, self.conv2, self.bn2)))
        y = normed(y, self.conv3, self.bn3)
        if isinstance(self.downsample, nn.Sequential):
            pool, conv, norm = self.downsample
            x = normed(pool(x), conv, norm)  # type: ignore[arg-type]
        return relu(y.add_(x) if eager_inference() else y + x)


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
        self.channels = widths[-1]

    def forward(self, pixels: Tensor, taps: Taps = NO_TAPS) -> Tensor:
        if _several_on_cpu(pixels):
            # The order in which oneDNN convolves: 16 images took 0.84 to 0.88 of the time.
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        x = relu(normed(pixels, self.conv1, self.bn1))
        x = relu(normed(x, self.conv2, self.bn2))
        x = self.avgpool(relu(normed(x, self.conv3, self.bn3)))
        for i in range(1, self.depth + 1):
            x = self.get_submodule(f"layer{i}")(x)
            taps.keep(f"layer{i}", x)
        return x  # type: ignore[no-any-return]


class ModifiedResNet(Trunk):
    """Trunk and attention pooling: pixels (B, 3, H, W) -> features (B, out).

    Its tokens are those that the pooling attends to: the mean of the feature map, which is the
    query, then the places of the map.

    Taps: "layer{i}", and "attnpool.*" of AttentionPool2d.
    """

    def __init__(self, config: ResNetConfig, out: int) -> None:
        super().__init__(config.width, config.stages)
        self.config = config
        self.attnpool = AttentionPool2d(config.grid, self.channels, config.heads, out)
        self.prefix, self.out_width = 1, out
        self.prefix_names: tuple[str, ...] = ("mean",)
        self.layer_names = tuple(f"layer{i + 1}" for i in range(self.depth))
        self.attention_layers: tuple[str, ...] = ("attnpool",)
        self.pool_layer = "attnpool"

    def forward(self, pixels: Pixels, taps: Taps = NO_TAPS) -> Tensor:
        return self.pool(self.encode(pixels, taps), taps)

    def features(self, pixels: Pixels, taps: Taps = NO_TAPS) -> Tensor:
        return self(pixels, taps)  # type: ignore[no-any-return]

    def encode(self, pixels: Pixels, taps: Taps = NO_TAPS) -> Tokens:
        if not isinstance(pixels, Tensor):
            raise UnsupportedError("this tower takes images of one size; a ViT takes each its own")
        features = super().forward(pixels, taps)
        return Tokens(self.attnpool.tokens(features, taps.inside("attnpool")))

    def pool(self, tokens: Tokens, taps: Taps = NO_TAPS) -> Tensor:
        return self.attnpool(tokens.values, taps.inside("attnpool"))  # type: ignore[no-any-return]

    def project(self, values: Tensor) -> Tensor:
        return self.attnpool.attn.out(self._heads(values)[2])

    def grid(self, size: Size) -> Size:
        return size[0] // self.config.patch_size, size[1] // self.config.patch_size

    def patches(self, size: Size) -> slice:
        rows, columns = self.grid(size)
        return slice(self.prefix, self.prefix + rows * columns)

    def fix_size(self, size: Size) -> None:
        self.attnpool.fix_grid(self.grid(size))
        self.config = replace(self.config, image_size=size)

    def dense(
        self,
        pixels: Tensor,
        edit: DenseEdit,
        project: bool = True,
        semantic: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Of the pooling, see `_attended`. Without `project`: the feature map itself."""
        _check(edit)
        features = super().forward(pixels)
        return self._attended(features, edit) if project else features.flatten(2).mT

    def dense_pooled(self, pixels: Tensor, edit: DenseEdit) -> tuple[Tensor, Tensor]:
        return self.dense(pixels, edit), self(pixels)

    def dense_keys(self, pixels: Tensor, edit: DenseEdit) -> tuple[Tensor, Tensor]:
        """Keys are those of places without their positions."""
        _check(edit)
        features = super().forward(pixels)
        keys = self._heads(features.flatten(2).mT)[1]
        return self._attended(features, edit), keys.transpose(1, 2).flatten(2)

    def windows(self, pixels: Tensor, patches: Tensor) -> Tensor:
        raise UnsupportedError(
            "a ResNet's places see each other through its convolutions: none can be left out"
        )

    def hidden_states(self, pixels: Pixels, layer: int, norm: bool) -> Tensor:
        raise UnsupportedError(
            "a ResNet has feature maps and no tokens between its layers; hidden states come from a "
            'ViT, such as that of a CLIP model or of the embedded one: patchword.load("demo")'
        )

    def pooled_attention(self, weights: Tensor, size: Size) -> Tensor:
        return weights[:, 0, self.prefix :]

    def _heads(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, H, N, d) of the pooling's tokens."""
        return self.attnpool.attn.queries_keys_values(values, None, None)

    def _attended(self, features: Tensor, edit: DenseEdit) -> Tensor:
        """What each place (B, C, h, w) means, (B, h * w, out), by the pooling, which has neither
        residual nor MLP to keep or to leave out. Under an edit values are those of places without
        their positions, each by itself a 1x1 convolution (MaskCLIP, Zhou et al. 2022, section 3.2);
        queries and keys have them, but for an edit without positions."""
        layer, grid = self.attnpool.attn, (features.shape[-2], features.shape[-1])
        plain = features.flatten(2).mT
        plain = torch.cat([plain.mean(dim=1, keepdim=True), plain], dim=1)
        if edit.positions == "none":
            q, k, v = self._heads(plain)
        else:
            q, k, v = self._heads(self.attnpool.tokens(features))
            v = v if edit == DenseEdit() else self._heads(plain)[2]
        seen = Seen((), {}, slice(self.prefix, plain.shape[1]), grid)
        return layer.out(attended(seen, edit, layer, None, (q, k, v), None))[:, self.prefix :]


def _check(edit: DenseEdit) -> None:
    """Raise UnsupportedError for an edit of more than one layer."""
    if not edit.one_layer or edit.semantic or edit.normalised:
        raise UnsupportedError(
            "a ResNet attends in one layer, its pooling, and this method changes several; methods "
            "that work: cosine, maskclip, sclip, clearclip, naclip, nonly, value, attnpool"
        )
