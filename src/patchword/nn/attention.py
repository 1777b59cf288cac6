"""Multi-head attention, the one implementation that every tower uses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchword.errors import ConfigError
from patchword.nn.inference_mode import eager_inference, has_hooks
from patchword.nn.linear import HAS_AMX, Linear
from patchword.nn.positions import rotate
from patchword.nn.prefix_tree import PrefixTree
from patchword.nn.taps import NO_TAPS, Taps

SCORES_PER_THREAD = 2**19  # attention scores of a chunk: 1 MiB in bfloat16, as a core's cache


class KVCache:
    """Keys and values (B, H, M, d) of the tokens seen so far, for one attention layer.

    Self-attention appends the keys and values of each call. Cross-attention (`fixed`) computes them
    once and reuses them.
    """

    def __init__(self, fixed: bool = False) -> None:
        self.fixed = fixed
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append the new tokens' keys and values. Return all of them, contiguous."""
        if self.keys is not None and self.values is not None:
            keys = torch.cat([self.keys, keys], dim=2)
            values = torch.cat([self.values, values], dim=2)
        self.keys, self.values = keys.contiguous(), values.contiguous()
        return self.keys, self.values

    @property
    def length(self) -> int:
        """M, the number of tokens seen so far."""
        return 0 if self.keys is None else self.keys.shape[2]

    def select(self, rows: Tensor) -> None:
        """Keep these rows (K,) of the batch, in this order: the beams that a search continues."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[rows], self.values[rows]


class Attention(nn.Module):
    """Multi-head scaled dot-product attention (Vaswani et al. 2017, eq. 1 and section 3.2.2):

        Attention(Q, K, V) = softmax(Q K^T / sqrt(d) + mask) V
        head_h = Attention(x W_h^Q, context W_h^K, context W_h^V)
        output = Concat(head_1, ..., head_H) W^O

    Shapes: B images or texts, N queries, M keys, D width, H heads, d = D / H.

    x (B, N, D)    gives the queries
    context        (B, M, C) gives keys and values; None for self-attention, where x gives them too.
                   C is `context_width`, or D without one. The context may have fewer rows than x:
                   then each of its rows serves several consecutive rows of x, so that texts about
                   the same image share its keys and values
    mask           additive, broadcast to (B, H, N, M), or None
    cache          keeps keys and values between calls
    rotary         rotates queries and keys of self-attention (see `positions.rotate`)
    output_indices (B, K): queries come from these tokens of x only; the output is (B, K, D)
    tree           x (1, T, D) holds the nodes of a `PrefixTree` of causal texts. `output_indices`
                   is then None or `tree.end_nodes`. Taps stay empty

    qk_norm normalises queries and keys in each head (Henry et al. 2020; Dehghani et al. 2023,
    section 2).

    Taps: "attn" (B, H, N, M), the attention weights, whose rows sum to 1. A fused kernel does not
    give them, so that they are computed explicitly when requested. "attn.q" (B, H, N, d), "attn.k"
    and "attn.v" (B, H, M, d).
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
        self.scale = (width // heads) ** -0.5  # 1 / sqrt(d)
        self.has_own_context = context_width is not None
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
        output_indices: Tensor | None = None,
        tree: PrefixTree | None = None,
    ) -> Tensor:
        q, k, v = self.queries_keys_values(x, context, cache, rotary)
        if tree is not None:
            heads = tree.attend(q, k, v, self.scale, only_ends=output_indices is not None)
            return self.merge_heads(heads)
        if output_indices is not None:
            indices = output_indices[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[3])
            q = q.gather(2, indices)
            if mask is not None and mask.ndim == 2:  # (N, M), a row for each query
                mask = mask[output_indices][:, None]
        for name, value in (("attn.q", q), ("attn.k", k), ("attn.v", v)):
            taps.keep(name, value)
        rows_per_context = 1 if context is None else q.shape[0] // k.shape[0]
        q = _merge_queries(q, rows_per_context)
        if taps.wants("attn"):
            scores = q @ k.mT * self.scale  # (B, H, N, M)
            weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
            taps.keep("attn", _split_queries(weights, rows_per_context))
            heads = weights @ v
        elif eager_inference() and _fused_kernel_is_slow(q):
            heads = _attention_in_chunks(q, k, v, mask, self.scale)
        else:
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)
        return self.merge_heads(_split_queries(heads, rows_per_context))  # (B, N, D)

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
            q = self.q_norm(self.split_heads(self.q(x)))
            return q, cache.keys, cache.values
        q, k, v = (self.split_heads(projected) for projected in self.project(x, context))
        q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        if cache is not None:
            k, v = cache.extend(k, v)
        return q, k, v

    def project(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """x W^Q (B, N, D), context W^K and context W^V (B, M, D)."""
        if self.has_own_context:
            q = self.q(x)
            k, v = self.kv(x if context is None else context).chunk(2, dim=-1)
            return q, k, v
        if context is None:
            q, k, v = self.qkv(x).chunk(3, dim=-1)
            return q, k, v
        width = x.shape[-1]
        if type(self.qkv) is Linear and not has_hooks(self.qkv):
            weight, bias = self.qkv.weight, self.qkv.bias
            q = F.linear(x, weight[:width], bias[:width])
            keys_values = F.linear(context, weight[width:], bias[width:])
        else:  # an adapter, or a hook, computes more than the weight does: the layer is called
            q = self.qkv(x)[..., :width]
            keys_values = self.qkv(context)[..., width:]
        k, v = keys_values.chunk(2, dim=-1)
        return q, k, v

    def split_heads(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, H, N, d)."""
        return torch.unflatten(x, -1, (self.heads, -1)).transpose(1, 2)

    def merge_heads(self, heads: Tensor) -> Tensor:
        """Concat(head_1, ..., head_H) W^O: (B, H, N, d) -> (B, N, D)."""
        if torch.compiler.is_exporting():  # the memory layout that one kernel leaves varies
            heads = heads.clone(memory_format=torch.contiguous_format)
        return self.proj(heads.transpose(1, 2).flatten(-2))  # type: ignore[no-any-return]


def _fused_kernel_is_slow(q: Tensor) -> bool:
    """True if `_attention_in_chunks` is faster than torch's kernel for queries (B, H, N, d)."""
    return q.dtype == torch.bfloat16 and q.is_cpu and not HAS_AMX


def _attention_in_chunks(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float
) -> Tensor:
    """`F.scaled_dot_product_attention`, computed for some rows and heads at a time, so that their
    scores stay in the processor's cache.

    In bfloat16, on CPUs without AMX, torch's fused kernel takes 1.5 times as long on the 577 tokens
    of an image, and 5 to 10 times as long for one query, as when text is generated. With AMX (Intel
    Xeon) it takes less: 0.15 to 0.5 of this function's time for one query over 4 to 1,025 keys, and
    0.24 to 1 for more; only for two or three queries of 24 texts over up to 16 keys up to 1.8.
    For inference only: in training, a pass without gradients must equal one with gradients bit by
    bit.
    """
    rows, heads = q.shape[:2]
    scores_per_head = q.shape[2] * k.shape[2]
    most = SCORES_PER_THREAD * torch.get_num_threads()
    rows_per_chunk = max(most // (heads * scores_per_head), 1)
    heads_per_chunk = max(most // scores_per_head, 1)
    masks = None if mask is None else mask.expand(rows, heads, -1, -1)
    out = torch.empty_like(q)
    for row in range(0, rows, rows_per_chunk):
        for head in range(0, heads, heads_per_chunk):
            chunk = (slice(row, row + rows_per_chunk), slice(head, head + heads_per_chunk))
            scores = (q[chunk] * scale) @ k[chunk].mT
            if masks is not None:
                scores = scores + masks[chunk]
            out[chunk] = torch.softmax(scores, dim=-1) @ v[chunk]
    return out


def _merge_queries(q: Tensor, count: int) -> Tensor:
    """(B, H, N, d) -> (B / count, H, count * N, d): the queries of `count` rows joined."""
    if count == 1:
        return q
    return torch.unflatten(q, 0, (-1, count)).transpose(1, 2).flatten(2, 3)


def _split_queries(x: Tensor, count: int) -> Tensor:
    """The inverse of `_merge_queries`."""
    if count == 1:
        return x
    return torch.unflatten(x, 2, (count, -1)).transpose(1, 2).flatten(0, 1)
