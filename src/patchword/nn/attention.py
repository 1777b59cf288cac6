"""Multi-head attention, once, for every tower."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchword.errors import ConfigError
from patchword.nn.taps import NO_TAPS, Taps


class KVCache:
    """Keys and values (B, H, M, d) of the tokens seen so far, for one self-attention layer."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append the new tokens' keys and values; return all of them."""
        if self.keys is not None and self.values is not None:
            keys = torch.cat([self.keys, keys], dim=2)
            values = torch.cat([self.values, values], dim=2)
        self.keys, self.values = keys, values
        return keys, values


class Attention(nn.Module):
    """Scaled dot-product attention in `heads` heads (Vaswani et al. 2017, eq. 1).

    x (B, N, D) asks; context (B, M, C) answers, x itself when None. mask: additive, broadcast to
    (B, H, N, M), or None. With `context_width` the context has its own width C (cross-attention
    to another tower). `cache` keeps keys and values between calls.

    Taps: "attn" (B, H, N, M), whose rows sum to 1 and which is computed openly when asked for, so
    that no fast kernel hides it; "attn.q" (B, H, N, d), "attn.k" and "attn.v" (B, H, M, d).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        context_width: int | None = None,
        out_width: int | None = None,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"width {width} does not divide into {heads} heads")
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        if context_width is None:
            self.qkv = nn.Linear(width, 3 * width)
        else:
            self.q = nn.Linear(width, width)
            self.kv = nn.Linear(context_width, 2 * width)
        self.proj = nn.Linear(width, out_width or width)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
        taps: Taps = NO_TAPS,
    ) -> Tensor:
        q, k, v = (self.split(part) for part in self.project(x, context))
        if cache is not None:
            k, v = cache.extend(k, v)
        for name, value in (("attn.q", q), ("attn.k", k), ("attn.v", v)):
            taps.keep(name, value)
        if taps.wants("attn"):
            scores = q @ k.mT * self.scale  # (B, H, N, M)
            weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
            taps.keep("attn", weights)
            out = weights @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)
        return self.out(out)  # (B, N, D)

    def project(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, ...]:
        """Queries of x, keys and values of the context: (B, N, D), (B, M, D), (B, M, D)."""
        if hasattr(self, "q"):
            return (self.q(x), *self.kv(x if context is None else context).chunk(2, dim=-1))
        if context is None:
            return self.qkv(x).chunk(3, dim=-1)  # type: ignore[no-any-return]
        weight, bias, width = self.qkv.weight, self.qkv.bias, x.shape[-1]
        q = F.linear(x, weight[:width], bias[:width])
        return (q, *F.linear(context, weight[width:], bias[width:]).chunk(2, dim=-1))

    def split(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, H, N, d)."""
        return torch.unflatten(x, -1, (self.heads, -1)).transpose(1, 2)

    def out(self, heads: Tensor) -> Tensor:
        """Heads (B, H, N, d) merged and projected: (B, N, D)."""
        return self.proj(heads.transpose(1, 2).flatten(-2))  # type: ignore[no-any-return]
