"""Multi-head attention, once, for every tower."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchword.errors import ConfigError
from patchword.nn.inference_mode import eager_inference
from patchword.nn.linear import Linear
from patchword.nn.positions import rotate
from patchword.nn.prefix_tree import PrefixTree
from patchword.nn.taps import NO_TAPS, Taps

SCORES = 2**19  # of attention at a time and thread: 1 MiB in bfloat16, a core's own cache
# With AMX torch's fused attention is the faster one of many queries: an image tower over 577 tokens
# in bfloat16 took 0.75 times as long on an Intel Xeon that has it. Of fewer it was not measured.
AMX = torch.cpu._is_amx_tile_supported()
MANY = 64  # queries


class KVCache:
    """Keys and values (B, H, M, d) of the tokens seen so far, for one attention layer.

    Self-attention appends those of each call. Cross-attention computes them once: `fixed`.
    """

    def __init__(self, fixed: bool = False) -> None:
        self.fixed = fixed
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append the new tokens' keys and values; return all of them, laid out head by head."""
        if self.keys is not None and self.values is not None:
            keys = torch.cat([self.keys, keys], dim=2)
            values = torch.cat([self.values, values], dim=2)
        self.keys, self.values = keys.contiguous(), values.contiguous()
        return self.keys, self.values

    @property
    def length(self) -> int:
        """M, the tokens seen so far."""
        return 0 if self.keys is None else self.keys.shape[2]

    def select(self, rows: Tensor) -> None:
        """Keep these rows (K,) of the batch, in this order: what a beam search continues with."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[rows], self.values[rows]


class Attention(nn.Module):
    """Scaled dot-product attention in `heads` heads (Vaswani et al. 2017, eq. 1).

    Queries come from x (B, N, D), keys and values from context (B, M, C); from x too when it is
    None. mask: additive, broadcast to (B, H, N, M), or None. With `context_width` the context has
    its own width C (cross-attention to another tower), and its batch may be smaller than that of x:
    each row of the context then serves several consecutive rows of x, so that texts about one image
    share it. `cache` keeps keys and values between calls. `qk_norm` normalises queries and
    keys head by head (Henry et al. 2020; Dehghani et al. 2023, section 2). `rotary` rotates those
    of self-attention (see `positions.rotate`). With `only` (B, K), positions in x, queries come
    from those tokens alone: the output is (B, K, D). With `tree` x is (1, T, D), the nodes of
    causal texts, and `only` is that of their last tokens (1, N); nothing is tapped.

    Taps: "attn" (B, H, N, M), whose rows sum to 1 and which is computed explicitly, without a fused
    kernel, when it is wanted; "attn.q" (B, H, N, d), "attn.k" and "attn.v" (B, H, M, d).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        context_width: int | None = None,
        out_width: int | None = None,
        qk_norm: bool = False,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"width {width} does not divide into {heads} heads")
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        if context_width is None:
            self.qkv = Linear(width, 3 * width)
        else:
            self.q = Linear(width, width)
            self.kv = Linear(context_width, 2 * width)
        self.q_norm = nn.LayerNorm(width // heads, eps) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(width // heads, eps) if qk_norm else nn.Identity()
        self.proj = Linear(width, out_width or width)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
        taps: Taps = NO_TAPS,
        rotary: Tensor | None = None,
        only: Tensor | None = None,
        tree: PrefixTree | None = None,
    ) -> Tensor:
        q, k, v = self.queries_keys_values(x, context, cache, rotary)
        if tree is not None:
            return self.out(tree.attend(q, k, v, self.scale, ends=only is not None))
        if only is not None:
            q = q.gather(2, only[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[3]))
            if mask is not None and mask.ndim == 2:  # a row for each query
                mask = mask[only][:, None]
        for name, value in (("attn.q", q), ("attn.k", k), ("attn.v", v)):
            taps.keep(name, value)
        # Rows of x that one row of the context serves.
        shared = 1 if context is None else q.shape[0] // k.shape[0]
        q = _merge_queries(q, shared)
        if taps.wants("attn"):
            scores = q @ k.mT * self.scale  # (B, H, N, M)
            weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
            taps.keep("attn", _split_queries(weights, shared))
            out = weights @ v
        elif eager_inference() and _slow(q):
            out = _in_parts(q, k, v, mask, self.scale)
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)
        return self.out(_split_queries(out, shared))  # (B, N, D)

    def queries_keys_values(
        self,
        x: Tensor,
        context: Tensor | None,
        cache: KVCache | None,
        rotary: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, N, d) of x; keys and values (B, H, M, d) of context or cache."""
        if cache is not None and cache.fixed and cache.keys is not None:
            assert cache.values is not None
            return self.q_norm(self.split(self.q(x))), cache.keys, cache.values
        q, k, v = (self.split(part) for part in self.project(x, context))
        q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        return q, *((k, v) if cache is None else cache.extend(k, v))

    def project(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, ...]:
        """Queries of x, keys and values of the context: (B, N, D), (B, M, D), (B, M, D)."""
        if hasattr(self, "q"):
            return (self.q(x), *self.kv(x if context is None else context).chunk(2, dim=-1))
        if context is None:
            return self.qkv(x).chunk(3, dim=-1)  # type: ignore[no-any-return]
        width = x.shape[-1]
        if type(self.qkv) is not Linear:  # an adapter: its weight is not all that it does
            return (self.qkv(x)[..., :width], *self.qkv(context)[..., width:].chunk(2, dim=-1))
        weight, bias = self.qkv.weight, self.qkv.bias
        q = F.linear(x, weight[:width], bias[:width])
        return (q, *F.linear(context, weight[width:], bias[width:]).chunk(2, dim=-1))

    def split(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, H, N, d)."""
        return torch.unflatten(x, -1, (self.heads, -1)).transpose(1, 2)

    def out(self, heads: Tensor) -> Tensor:
        """Heads (B, H, N, d) merged and projected: (B, N, D)."""
        if torch.compiler.is_exporting():  # they lie in memory as one kernel leaves them
            heads = heads.clone(memory_format=torch.contiguous_format)
        return self.proj(heads.transpose(1, 2).flatten(-2))  # type: ignore[no-any-return]


def _slow(q: Tensor) -> bool:
    """Whether torch's fused attention is slow for queries (B, H, N, d): see `_in_parts`."""
    return q.dtype == torch.bfloat16 and q.is_cpu and not (AMX and q.shape[2] > MANY)


def _in_parts(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """What `F.scaled_dot_product_attention` computes, some rows or heads after each other, so that
    their scores stay in the processor's cache.

    In bfloat16 torch's fused kernel for CPUs takes 1.5 times as long on the 577 tokens of an image,
    without AMX, and 5 to 10 times as long for the one token that is written next. For inference
    mode alone: what training computes without gradients must be what it computes with them, bit by
    bit."""
    rows, heads, each = len(q), q.shape[1], q.shape[2] * k.shape[2]
    most = SCORES * torch.get_num_threads()
    some, few = max(most // (heads * each), 1), max(most // each, 1)
    masks = None if mask is None else mask.expand(rows, heads, -1, -1)
    out = torch.empty_like(q)
    for i in range(0, rows, some):
        for j in range(0, heads, few):
            part = (slice(i, i + some), slice(j, j + few))
            scores = (q[part] * scale) @ k[part].mT
            weights = torch.softmax(scores if masks is None else scores + masks[part], dim=-1)
            out[part] = weights @ v[part]
    return out


def _merge_queries(q: Tensor, count: int) -> Tensor:
    """(B, H, N, d) -> (B / count, H, count * N, d): the queries of `count` rows in one."""
    if count == 1:
        return q
    return torch.unflatten(q, 0, (-1, count)).transpose(1, 2).flatten(2, 3)


def _split_queries(x: Tensor, count: int) -> Tensor:
    """The inverse of `_merge_queries`."""
    if count == 1:
        return x
    return torch.unflatten(x, 2, (count, -1)).transpose(1, 2).flatten(0, 1)
