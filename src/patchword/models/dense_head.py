"""A head that says where texts apply: image tokens and pixels decoded into a map of vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchword.config import DenseHeadConfig
from patchword.models.protocols import Tower
from patchword.nn.taps import Taps

TINY = 1e-12  # of a vector's squared length
STRIDE = 2  # pixels a side of a place of the map


class DenseHead(nn.Module):
    """Tokens of some blocks, on the grid of patches, pixels (B, 3, H, W) and unit texts (T, out) ->
    cosines (B, T, H / 2, W / 2), float32: a small U-Net (Ronneberger et al. 2015) between tokens
    and pixels, with residuals, whose last layer gives a vector of the joint space for each place.

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
        """tokens: (B, h, w, width) of each block of `config.layers`. All maps are laid out with
        their channels last, as tokens are, which took 0.6 times as long as first."""
        normed = [norm(each) for norm, each in zip(self.norms, tokens, strict=True)]
        weight = self.tokens.weight.flatten(1)
        x = F.gelu(F.linear(torch.cat(normed, dim=-1), weight, self.tokens.bias)).movedim(-1, 1)
        x = F.gelu(self.mix_tokens(x)).add_(x)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        fine = F.gelu(self.mix_fine(F.gelu(self.fine(pixels))))
        coarse = F.gelu(self.mix_coarse(F.gelu(self.coarse(fine))))
        x = F.gelu(self.join_coarse(torch.cat([_enlarged(x, coarse), coarse], dim=1)))
        x = F.gelu(self.mix_joined(x)).add_(x)
        x = F.gelu(self.join_fine(torch.cat([_enlarged(x, fine), fine], dim=1)))
        x = F.gelu(self.mix_last(x)).add_(x)
        return self._cosines(x.float(), texts.float())

    def _cosines(self, x: Tensor, texts: Tensor) -> Tensor:
        """Cosines (B, T, h, w) of W x + b with texts, x (B, C, h, w): from W^T t and W^T W, so that
        the vectors themselves, which are many times wider than x, are never computed."""
        weight, bias = self.out.weight.flatten(1).float(), self.out.bias.float()  # type: ignore[union-attr]
        places = x.movedim(1, -1)  # (B, h, w, C), as x is laid out
        rows = torch.cat([texts @ weight, (2 * bias @ weight)[None], weight.mT @ weight])
        products = F.linear(places, rows)
        own = products[..., : len(texts)] + texts @ bias
        square = (products[..., len(texts) + 1 :] * places).sum(dim=-1, keepdim=True)
        square = square + products[..., len(texts), None] + bias @ bias
        return (own * square.clamp(min=TINY).rsqrt()).movedim(-1, 1)


def decoded(tower: Tower, head: DenseHead, pixels: Tensor, texts: Tensor) -> Tensor:
    """The cosines (B, T, H / 2, W / 2) of a head on a tower."""
    size = (pixels.shape[-2], pixels.shape[-1])
    names = [tower.attention_layers[layer] for layer in head.config.layers]
    taps = Taps(names)
    tower.encode(pixels, taps)
    kept, patches, grid = taps.result(), tower.patches(size), tower.grid(size)
    tokens = [kept[name][:, patches].unflatten(1, grid) for name in names]  # type: ignore[no-untyped-call]
    return head(pixels, tokens, texts)  # type: ignore[no-any-return]


def _conv(inside: int, outside: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, 3, stride=stride, padding=1)


def _enlarged(x: Tensor, like: Tensor) -> Tensor:
    """A map (B, C, h, w) on the grid of another, bilinearly."""
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)
