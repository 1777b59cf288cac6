"""The Transformer block that every tower is made of."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from patchword.errors import UnsupportedError
from patchword.nn.attention import Attention, KVCache
from patchword.nn.inference_mode import eager_inference
from patchword.nn.linear import Linear
from patchword.nn.prefix_tree import PrefixTree
from patchword.nn.taps import NO_TAPS, Taps

TOKENS = 1280  # per thread that go through the blocks together: 1 to 3 MB a layer
BlockCache = tuple[KVCache, KVCache]  # of self-attention and of cross-attention


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), OpenAI's approximation of GELU (Hendrycks & Gimpel 2016, section 2)."""

    def forward(self, x: Tensor) -> Tensor:
        gate = 1.702 * x
        if eager_inference():  # one new tensor in place of three, which takes half of the time
            return gate.sigmoid_().mul_(x)
        return x * torch.sigmoid(gate)


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
        self.fc1 = Linear(width, hidden)
        self.act = activation(act)
        self.fc2 = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))  # type: ignore[no-any-return]


class LayerScale(nn.Module):
    """A learned factor for each channel (Touvron et al. 2021, "Going deeper", eq. 4)."""

    def __init__(self, width: int, start: float = 1e-5) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), start))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Attention and MLP with residuals; (B, N, D) -> (B, N, D).

    Pre-norm as in ViT and GPT-2, x + f(norm(x)), or post-norm as in BERT and the first Transformer,
    norm(x + f(x)). With `cross_width`, cross-attention between the two takes its keys and values
    from a context of that width, and is skipped where no context is given (Li et al. 2022, figure
    2). With `only` (B, K), positions in x, the block computes those tokens alone, (B, K, D): the
    others give keys and values and nothing else, which saves three quarters of the block. `first`
    replaces self-attention, its residual and its norm: (x, mask, cache, taps) -> x. Taps: those of
    Attention, and of the second under "cross.".

    recompute: in training under `run`, keep no activations but the input, and recompute them for
    the backward pass (Chen et al. 2016, "Training deep nets with sublinear memory cost").
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_width: int,
        act: str = "gelu",
        eps: float = 1e-5,
        post_norm: bool = False,
        layer_scale: bool = False,
        qk_norm: bool = False,
        cross_width: int = 0,
    ) -> None:
        super().__init__()
        self.recompute = False
        self.post_norm = post_norm
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads, qk_norm=qk_norm, eps=eps)
        self.ls1 = LayerScale(width) if layer_scale else nn.Identity()
        if cross_width:
            self.norm_cross = nn.LayerNorm(width, eps=eps)
            self.cross = Attention(width, heads, cross_width)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, mlp_width, act)
        self.ls2 = LayerScale(width) if layer_scale else nn.Identity()

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        cache: BlockCache | None = None,
        taps: Taps = NO_TAPS,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        rotary: Tensor | None = None,
        only: Tensor | None = None,
        first: nn.Module | None = None,
        tree: PrefixTree | None = None,
    ) -> Tensor:
        own, other = (None, None) if cache is None else cache
        if first is None:
            before = x if self.post_norm else self.norm1(x)
            seen = self.attn(before, None, mask, own, taps, rotary, only, tree)
            x = at(x, only) + self.ls1(seen)
            x = self.norm1(x) if self.post_norm else x
        else:
            x = first(x, mask, own, taps)
        if context is not None:
            x = self.cross_attend(x, context, context_mask, other, taps.inside("cross"))
        return self.feed(x)

    def cross_attend(
        self, x: Tensor, context: Tensor, mask: Tensor | None, cache: KVCache | None, taps: Taps
    ) -> Tensor:
        """x (B, N, D) after cross-attention to context (B, M, C), with residual and norm."""
        if self.post_norm:
            seen = self.cross(x, context, mask, cache, taps)
            return self.norm_cross(x + seen)  # type: ignore[no-any-return]
        return x + self.cross(self.norm_cross(x), context, mask, cache, taps)  # type: ignore[no-any-return]

    def feed(self, x: Tensor) -> Tensor:
        """The MLP on x (B, N, D), with residual and norm."""
        if self.post_norm:
            return self.norm2(x + self.ls2(self.mlp(x)))  # type: ignore[no-any-return]
        return x + self.ls2(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


def layer_tap(depth: int, layer: int) -> str:
    """The name of the tap of the hidden states of a layer, numbered as in transformers'
    `hidden_states`: 0 is the input of the first of `depth` blocks, i the output of block i, -1 that
    of the last. Raises UnsupportedError for one that is not there."""
    if not -depth - 1 <= layer <= depth:
        raise UnsupportedError(
            f"no layer {layer}: there are layers 0 (the embeddings) to {depth}, or -1 to "
            f"{-depth - 1} from the end"
        )
    number = layer % (depth + 1)
    return f"blocks.{number - 1}" if number else "tokens"


def caches(count: int) -> list[BlockCache]:
    """Empty caches for that many blocks: of self-attention and of cross-attention."""
    return [(KVCache(), KVCache(fixed=True)) for _ in range(count)]


def run(
    blocks: nn.ModuleList,
    x: Tensor,
    mask: Tensor | None = None,
    taps: Taps = NO_TAPS,
    context: Tensor | None = None,
    cache: Sequence[BlockCache] | None = None,
    context_mask: Tensor | None = None,
    rotary: Tensor | None = None,
    only: Tensor | None = None,
    firsts: nn.ModuleList | None = None,
    tree: PrefixTree | None = None,
) -> Tensor:
    """x (B, N, D) through the blocks in turn. Taps: "blocks.{i}" is the output of block i and
    "blocks.{i}.attn" its attention map. firsts: what replaces the self-attention of each. tree: of
    which x (1, T, D) are the nodes.

    only: positions (B, K) of the tokens that are wanted, (B, K, D): the last block computes no
    others; where a tap requests that block, it computes all of them. The numbers are the same.
    Where only taps are read, no block runs after those that they are of.

    Many images on a CPU run in chunks, whose activations stay in the processor's cache.
    """
    others = (mask, context, cache, context_mask, rotary, firsts, tree)
    plain = not taps.names and all(other is None for other in others)
    if plain and x.is_cpu and eager_inference():
        rows = max(TOKENS * torch.get_num_threads() // x.shape[1], 1)
        if len(x) > rows:
            parts = [slice(i, i + rows) for i in range(0, len(x), rows)]
            wanted = [None if only is None else only[part] for part in parts]
            pairs = zip(parts, wanted, strict=True)
            return torch.cat([run(blocks, x[part], only=places) for part, places in pairs])
    last = len(blocks) - 1
    early = only is not None and last >= 0 and not taps.wants_inside(f"blocks.{last}")
    for i, block in enumerate(blocks):
        step = partial(checkpoint, block, use_reentrant=False) if _recomputes(block) else block
        x = step(
            x,
            mask=mask,
            cache=None if cache is None else cache[i],
            taps=taps.inside(f"blocks.{i}"),
            context=context,
            context_mask=context_mask,
            rotary=rotary,
            only=only if early and i == last else None,
            first=None if firsts is None else firsts[i],
            tree=tree,
        )
        taps.keep(f"blocks.{i}", x)
        if taps.done:
            break
    return x if early else at(x, only)


def at(x: Tensor, places: Tensor | None) -> Tensor:
    """The tokens of x (B, N, D) at positions `places` (B, K): (B, K, D); all for None."""
    return x if places is None else x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))


def _recomputes(block: nn.Module) -> bool:
    return bool(getattr(block, "recompute", False)) and block.training and torch.is_grad_enabled()


def causal_mask(length: int, like: Tensor) -> Tensor:
    """Additive (N, N): 0 on and below the diagonal, -inf above, of `like`'s type and device."""
    full = torch.full((length, length), float("-inf"), dtype=like.dtype, device=like.device)
    return full.triu(1)


def padding_mask(seen: Tensor, like: Tensor) -> Tensor:
    """Additive (B, 1, 1, N): 0 where `seen` (B, N) is true, -inf elsewhere, of `like`'s type."""
    mask = torch.zeros(seen.shape, dtype=like.dtype, device=like.device)
    return mask.masked_fill(~seen, float("-inf"))[:, None, None]
