"""A head for dense prediction: a map of vectors in the joint space, decoded from image tokens and
pixels, and compared with texts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchword.config import DenseHeadConfig
from patchword.models.protocols import Tower
from patchword.nn.taps import Taps

TINY = 1e-12  # least squared length of a vector
STRIDE = 2  # pixels between neighbouring places of the map


class DenseHead(nn.Module):
    """A small U-Net (Ronneberger et al. 2015) with residuals. It joins patch tokens of some blocks
    with feature maps of the pixels, at 1/4 and at 1/2 of their size:

        tokens -> (h, w) -> 1/4, joined with `coarse` -> 1/2, joined with `fine` -> vectors v
        pixels -> `fine` (1/2) -> `coarse` (1/4)
        cosines = v . t / |v| for unit texts t                  (B, T, H / 2, W / 2), float32

    width: of the tokens; out: of the joint space.
    """

    def __init__(self, config: DenseHeadConfig, width: int, out: int) -> None:
        super().__init__()
        self.config = config
        fine, coarse = config.pixel_widths
        joined, last = config.widths
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in config.layers)
        self.tokens = nn.Conv2d(width * len(config.layers), config.token_width, 1)
        self.mix_tokens = _conv(config.token_width, config.token_width)
        self.fine = _conv(3, fine, stride=2)
        self.mix_fine = _conv(fine, fine)
        self.coarse = _conv(fine, coarse, stride=2)
        self.mix_coarse = _conv(coarse, coarse)
        self.join_coarse = _conv(config.token_width + coarse, joined)
        self.mix_joined = _conv(joined, joined)
        self.join_fine = _conv(joined + fine, last)
        self.mix_last = _conv(last, last)
        self.out = nn.Conv2d(last, out, 1)

    def forward(self, pixels: Tensor, tokens: Sequence[Tensor], texts: Tensor) -> Tensor:
        """Pixels (B, 3, H, W), tokens (B, h, w, width) of each block of `config.layers`, unit texts
        (T, out) -> cosines (B, T, H / 2, W / 2).

        All maps are in memory with channels last, as tokens are: this took 0.6 times as long.
        """
        normed = [norm(layer) for norm, layer in zip(self.norms, tokens, strict=True)]
        weight = self.tokens.weight.flatten(1)  # a 1x1 convolution as a linear layer
        x = F.gelu(F.linear(torch.cat(normed, dim=-1), weight, self.tokens.bias)).movedim(-1, 1)
        x = F.gelu(self.mix_tokens(x)).add_(x)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        fine = F.gelu(self.mix_fine(F.gelu(self.fine(pixels))))
        coarse = F.gelu(self.mix_coarse(F.gelu(self.coarse(fine))))
        x = F.gelu(self.join_coarse(torch.cat([_resize(x, coarse), coarse], dim=1)))
        x = F.gelu(self.mix_joined(x)).add_(x)
        x = F.gelu(self.join_fine(torch.cat([_resize(x, fine), fine], dim=1)))
        x = F.gelu(self.mix_last(x)).add_(x)
        return self._cosines(x.float(), texts.float())

    def _cosines(self, x: Tensor, texts: Tensor) -> Tensor:
        """Cosines (B, T, h, w) of v = W x + b with texts t (T, out), for x (B, C, h, w):

            v . t = x . (W^T t) + b . t
            |v|^2 = x . (W^T W x) + 2 x . (W^T b) + b . b

        so that v, which is many times wider than x, is never computed.
        """
        weight, bias = self.out.weight.flatten(1).float(), self.out.bias.float()  # type: ignore[union-attr]
        x = x.movedim(1, -1)  # (B, h, w, C), contiguous
        rows = torch.cat([texts @ weight, (2 * bias @ weight)[None], weight.mT @ weight])
        products = F.linear(x, rows)
        count = len(texts)
        dot = products[..., :count] + texts @ bias  # v . t
        square = (products[..., count + 1 :] * x).sum(dim=-1, keepdim=True)
        square = square + products[..., count, None] + bias @ bias  # |v|^2
        return (dot * square.clamp(min=TINY).rsqrt()).movedim(-1, 1)


def dense_cosines(tower: Tower, head: DenseHead, pixels: Tensor, texts: Tensor) -> Tensor:
    """The cosines (B, T, H / 2, W / 2) of a head with the tokens of its tower."""
    size = (pixels.shape[-2], pixels.shape[-1])
    names = [tower.attention_layers[layer] for layer in head.config.layers]
    taps = Taps(names)
    tower.encode(pixels, taps)
    tensors, patches, grid = taps.result(), tower.patches(size), tower.grid(size)
    tokens = [tensors[name][:, patches].unflatten(1, grid) for name in names]  # type: ignore[no-untyped-call]
    return head(pixels, tokens, texts)  # type: ignore[no-any-return]


def _conv(inside: int, outside: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, 3, stride=stride, padding=1)


def _resize(x: Tensor, like: Tensor) -> Tensor:
    """Resize a map (B, C, h, w) to height and width of another, bilinearly."""
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)
