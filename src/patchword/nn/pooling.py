"""Pooling: from the tokens of an image or a text to one vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from patchword.nn.attention import Attention
from patchword.nn.mlp import Mlp
from patchword.nn.positions import resample
from patchword.nn.taps import NO_TAPS, Taps


def end_position(ids: Tensor, end: int) -> Tensor:
    """The position (B,) at which ids (B, N) first equal `end` (Radford et al. 2021, 2.4)."""
    return (ids == end).int().argmax(dim=1)


class AttentionPool2d(nn.Module):
    """Attention pooling of CLIP's ResNets (Radford et al. 2021, 2.4). With x_0 the mean of the
    places x_1, ..., x_n of a feature map, and p their position embeddings:

        output = MultiHead(query = x_0 + p_0, context = [x_0 + p_0; ...; x_n + p_n])

    Taps: "tokens" (B, 1 + h * w, C), the context; those of Attention.
    """

    def __init__(self, grid: tuple[int, int], width: int, heads: int, out_width: int) -> None:
        super().__init__()
        self.grid = grid
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + grid[0] * grid[1], width))
        nn.init.normal_(self.pos_embed, std=width**-0.5)
        self.attn = Attention(width, heads, out_width=out_width)

    def forward(self, tokens: Tensor, taps: Taps = NO_TAPS) -> Tensor:
        """Tokens (B, 1 + h * w, C) of `tokens` -> (B, out_width)."""
        return self.attn(tokens[:, :1], context=tokens, taps=taps)[:, 0]  # type: ignore[no-any-return]

    def fix_grid(self, grid: tuple[int, int]) -> None:
        """Resample positions to another grid for good."""
        self.pos_embed.data = resample(self.pos_embed.data, self.grid, grid)
        self.grid = grid

    def tokens(self, features: Tensor, taps: Taps = NO_TAPS) -> Tensor:
        """A feature map (B, C, h, w) as tokens (B, 1 + h * w, C) with positions, the mean first."""
        grid = (features.shape[-2], features.shape[-1])
        x = features.flatten(2).mT  # (B, h * w, C)
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1)
        x = x + resample(self.pos_embed, self.grid, grid).to(x.dtype)
        taps.keep("tokens", x)
        return x


class MapPool(nn.Module):
    """Multi-head attention pooling (Zhai et al. 2022, "Scaling vision transformers", section 3.2):
    one learned query attends to tokens x (B, N, D), and a pre-norm MLP with residual follows:

        y = MultiHead(query = latent, context = x)
        output = y + MLP(LN(y))                                        (B, D)

    mask: additive, broadcast to (B, H, 1, N), or None. Taps: those of Attention.
    """

    def __init__(self, width: int, heads: int, mlp_width: int, act: str, eps: float) -> None:
        super().__init__()
        self.latent = nn.Parameter(torch.empty(1, 1, width))
        nn.init.normal_(self.latent, std=width**-0.5)
        self.attn = Attention(width, heads)
        self.norm = nn.LayerNorm(width, eps)
        self.mlp = Mlp(width, mlp_width, act)

    def forward(self, x: Tensor, mask: Tensor | None = None, taps: Taps = NO_TAPS) -> Tensor:
        query = self.latent.to(x.dtype).expand(x.shape[0], -1, -1)
        pooled = self.attn(query, context=x, mask=mask, taps=taps)[:, 0]
        return pooled + self.mlp(self.norm(pooled))  # type: ignore[no-any-return]
