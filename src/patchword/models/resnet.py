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
from patchword.models.dense import ForwardPass, edited_attention
from patchword.models.edits import DenseEdit
from patchword.models.protocols import Pixels, Size, Tokens
from patchword.nn.inference_mode import eager_inference, has_hooks
from patchword.nn.pooling import AttentionPool2d
from patchword.nn.taps import NO_TAPS, Taps


def conv_bn(
    inside: int, outside: int, size: int, stride: int = 1
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """A convolution with padding, of odd `size`, and its batch norm: (B, inside, H, W) ->
    (B, outside, H / stride, W / stride)."""
    conv = nn.Conv2d(inside, outside, size, stride=stride, padding=size // 2, bias=False)
    return conv, nn.BatchNorm2d(outside)


def normed(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """norm(conv(x)).

    For several images, in inference on a CPU in float32, the norm is folded into the convolution:

        norm(y) = (y - mean) / sqrt(var + eps) * gamma + beta = s y + (beta - mean s)
        norm(conv(x)) = conv with weight s W and bias beta - mean s

    This saves a pass over the result and is as exact: 16 images took 0.86 of the time in RN50, 32
    images 0.74 of it in the stem of a ViT.
    """
    if not (_several_on_cpu(x) and _can_fold(conv, norm)):
        return norm(conv(x))  # type: ignore[no-any-return]
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)  # type: ignore[arg-type, operator]
    shift = norm.bias - norm.running_mean * scale  # type: ignore[operator]
    weight = conv.weight * scale[:, None, None, None]
    return F.conv2d(x, weight, shift, conv.stride, conv.padding)


def _several_on_cpu(x: Tensor) -> bool:
    return eager_inference() and x.is_cpu and len(x) > 1


def _can_fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> bool:
    """True for plain layers without hooks: an adapter, a pruned weight or a hook must run. Not in
    bfloat16, where the product of weight and scale would be rounded once more."""
    return (
        type(conv) is nn.Conv2d
        and type(norm) is nn.BatchNorm2d
        and not norm.training
        and not has_hooks(conv, norm)
        and conv.weight.dtype == norm.weight.dtype == torch.float32
    )


def relu(x: Tensor) -> Tensor:
    """max(x, 0), in inference in place: x must not be used afterwards."""
    return F.relu(x, inplace=eager_inference())


class Bottleneck(nn.Module):
    """A bottleneck block with residual (He et al. 2016, figure 5 right and eq. 1):

        y = ReLU(F(x) + x),   F: convolutions 1x1, 3x3 and 1x1

    A stride is an average pool, which avoids aliasing (Zhang 2019). Where the shape changes, the
    residual is pooled and projected by a 1x1 convolution.
    """

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
    """A stem of three convolutions and stages of bottlenecks: (B, 3, H, W) -> (B, C, h, w).

    The stem has a stride of 4 and each stage after the first a stride of 2. Taps: "layer{i}"
    (B, C_i, h_i, w_i), the output of stage i, counted from 1.
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
            # The layout in which oneDNN convolves: 16 images took 0.84 to 0.88 of the time.
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

    Its tokens are those that the pooling attends to: first the mean of the feature map, which is
    the query, then the places of the map.

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
        _, _, v = self._heads(values)
        return self.attnpool.attn.merge_heads(v)

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
        """The edit changes the pooling: see `_edited`. Without `project`: the feature map."""
        _check_edit(edit)
        features = super().forward(pixels)
        return self._edited(features, edit) if project else features.flatten(2).mT

    def dense_pooled(self, pixels: Tensor, edit: DenseEdit) -> tuple[Tensor, Tensor]:
        return self.dense(pixels, edit), self(pixels)

    def dense_keys(self, pixels: Tensor, edit: DenseEdit) -> tuple[Tensor, Tensor]:
        """Keys of the places without position embeddings."""
        _check_edit(edit)
        features = super().forward(pixels)
        _, keys, _ = self._heads(features.flatten(2).mT)
        return self._edited(features, edit), keys.transpose(1, 2).flatten(2)

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
        """Queries, keys and values (B, H, N, d) of tokens (B, N, C) in the pooling's attention."""
        return self.attnpool.attn.queries_keys_values(values, None, None)

    def _edited(self, features: Tensor, edit: DenseEdit) -> Tensor:
        """Places of a feature map (B, C, h, w) in the joint space, (B, h * w, out), by the pooling
        under an edit. It has no residual and no MLP.

        Under an edit, values have no position embeddings: each place alone goes through a 1x1
        convolution (MaskCLIP, Zhou et al. 2022, section 3.2). Queries and keys have them, unless
        the edit's positions are "none".
        """
        attn, grid = self.attnpool.attn, (features.shape[-2], features.shape[-1])
        places = features.flatten(2).mT
        without_positions = torch.cat([places.mean(dim=1, keepdim=True), places], dim=1)
        if edit.positions == "none":
            q, k, v = self._heads(without_positions)
        else:
            q, k, v = self._heads(self.attnpool.tokens(features))
            if edit != DenseEdit():
                _, _, v = self._heads(without_positions)
        patches = slice(self.prefix, without_positions.shape[1])
        forward_pass = ForwardPass((), {}, patches, grid)
        heads = edited_attention(forward_pass, edit, attn, None, (q, k, v), None)
        return attn.merge_heads(heads)[:, self.prefix :]


def _check_edit(edit: DenseEdit) -> None:
    """Raise UnsupportedError for an edit of more than one layer."""
    if not edit.one_layer or edit.semantic or edit.normalised:
        raise UnsupportedError(
            "a ResNet attends in one layer, its pooling, and this method changes several; methods "
            "that work: cosine, maskclip, sclip, clearclip, naclip, nonly, value, attnpool"
        )
