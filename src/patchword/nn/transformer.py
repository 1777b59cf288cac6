"""The Transformer block that every tower is made of."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from patchword.nn.attention import Attention, KVCache
from patchword.nn.taps import NO_TAPS, Taps


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), OpenAI's approximation of GELU (Hendrycks & Gimpel 2016, section 2)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def activation(name: str) -> nn.Module:
    """The activation called "gelu" (erf), "quick_gelu" or "gelu_tanh" in a config."""
    kinds = {
        "gelu": nn.GELU(),
        "gelu_tanh": nn.GELU(approximate="tanh"),
        "quick_gelu": QuickGELU(),
    }
    return kinds[name]


class Mlp(nn.Module):
    """Two linear layers with an activation between (Vaswani et al. 2017, eq. 2)."""

    def __init__(self, width: int, hidden: int, act: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = activation(act)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and MLP with residuals; (B, N, D) -> (B, N, D).

    Pre-norm as in ViT and GPT-2, x + f(norm(x)), or post-norm as in BERT and the first
    Transformer, norm(x + f(x)). Taps: those of Attention.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_width: int,
        act: str = "gelu",
        eps: float = 1e-5,
        post_norm: bool = False,
    ) -> None:
        super().__init__()
        self.post_norm = post_norm
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, mlp_width, act)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
        taps: Taps = NO_TAPS,
    ) -> Tensor:
        if self.post_norm:
            x = self.norm1(x + self.attn(x, mask=mask, cache=cache, taps=taps))
            return self.norm2(x + self.mlp(x))  # type: ignore[no-any-return]
        x = x + self.attn(self.norm1(x), mask=mask, cache=cache, taps=taps)
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


def run(
    blocks: Iterable[nn.Module], x: Tensor, mask: Tensor | None = None, taps: Taps = NO_TAPS
) -> Tensor:
    """x (B, N, D) through the blocks in turn. Taps: "blocks.{i}" is the output of block i and
    "blocks.{i}.attn" its attention map."""
    for i, block in enumerate(blocks):
        x = block(x, mask=mask, taps=taps.inside(f"blocks.{i}"))
        taps.keep(f"blocks.{i}", x)
    return x


def causal_mask(length: int, like: Tensor) -> Tensor:
    """Additive (N, N): 0 on and below the diagonal, -inf above, of `like`'s type and device."""
    full = torch.full((length, length), float("-inf"), dtype=like.dtype, device=like.device)
    return full.triu(1)
