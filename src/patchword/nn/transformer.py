"""The Transformer block of every tower, and how a stack of blocks runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from patchword.errors import UnsupportedError
from patchword.nn.attention import Attention, KVCache
from patchword.nn.inference_mode import eager_inference
from patchword.nn.mlp import Mlp
from patchword.nn.prefix_tree import PrefixTree
from patchword.nn.taps import NO_TAPS, Taps

TOKENS_PER_THREAD = 1280  # that go through the blocks together: 1 to 3 MB a layer
BlockCache = tuple[KVCache, KVCache]  # of self-attention and of cross-attention


class LayerScale(nn.Module):
    """gamma x, a learned factor for each channel (Touvron et al. 2021, "Going deeper with image
    transformers", eq. 4)."""

    def __init__(self, width: int, start: float = 1e-5) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), start))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Attention and MLP with residuals: x (B, N, D) -> (B, N, D).

    Pre-norm, as in ViT (Dosovitskiy et al. 2021, eq. 2 and 3) and GPT-2:

        x = x + MSA(LN(x))
        x = x + MLP(LN(x))

    With `post_norm`, as in BERT and the first Transformer (Vaswani et al. 2017, section 3.1):

        x = LN(x + MSA(x))
        x = LN(x + MLP(x))

    With `cross_width`, cross-attention between the two takes its keys and values from `context`
    (B, M, cross_width); it is skipped when no context is given (Li et al. 2022, figure 2). With
    `layer_scale` the output of attention and of MLP is multiplied by a LayerScale.

    mask, rotary, output_indices, tree: as in Attention. With `output_indices` (B, K) the block
    computes only those tokens, (B, K, D): the others give keys and values and nothing else, which
    saves three quarters of the block. cache: of self-attention and of cross-attention.
    self_attention: a module that replaces self-attention with its residual and norm: (x, mask,
    cache, taps) -> x.

    Taps: those of Attention; under "cross." those of cross-attention.

    recompute: in training under `run_blocks`, keep no activations but the input, and recompute them
    in the backward pass (Chen et al. 2016, "Training deep nets with sublinear memory cost").
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
        output_indices: Tensor | None = None,
        self_attention: nn.Module | None = None,
        tree: PrefixTree | None = None,
    ) -> Tensor:
        self_cache, cross_cache = (None, None) if cache is None else cache
        if self_attention is not None:
            x = self_attention(x, mask, self_cache, taps)
        else:
            normed = x if self.post_norm else self.norm1(x)
            attended = self.attn(normed, None, mask, self_cache, taps, rotary, output_indices, tree)
            x = select_tokens(x, output_indices) + self.ls1(attended)
            if self.post_norm:
                x = self.norm1(x)
        if context is not None:
            x = self.cross_attend(x, context, context_mask, cross_cache, taps.inside("cross"))
        return self.feed_forward(x)

    def cross_attend(
        self, x: Tensor, context: Tensor, mask: Tensor | None, cache: KVCache | None, taps: Taps
    ) -> Tensor:
        """Cross-attention of x (B, N, D) to context (B, M, C), with residual and norm."""
        if self.post_norm:
            attended = self.cross(x, context, mask, cache, taps)
            return self.norm_cross(x + attended)  # type: ignore[no-any-return]
        return x + self.cross(self.norm_cross(x), context, mask, cache, taps)  # type: ignore[no-any-return]

    def feed_forward(self, x: Tensor) -> Tensor:
        """The MLP on x (B, N, D), with residual and norm."""
        if self.post_norm:
            return self.norm2(x + self.ls2(self.mlp(x)))  # type: ignore[no-any-return]
        return x + self.ls2(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


def layer_tap(depth: int, layer: int) -> str:
    """The tap of the hidden states of a layer. Layers are numbered as in transformers'
    `hidden_states`: 0 is the input of the first of `depth` blocks, i the output of block i, -1 the
    output of the last. Raises UnsupportedError for a layer that does not exist."""
    if not -depth - 1 <= layer <= depth:
        raise UnsupportedError(
            f"no layer {layer}: there are layers 0 (the embeddings) to {depth}, or -1 to "
            f"{-depth - 1} from the end"
        )
    number = layer % (depth + 1)
    return f"blocks.{number - 1}" if number else "tokens"


def empty_caches(count: int) -> list[BlockCache]:
    """Empty caches for `count` blocks: of self-attention and of cross-attention."""
    return [(KVCache(), KVCache(fixed=True)) for _ in range(count)]


def run_blocks(
    blocks: nn.ModuleList,
    x: Tensor,
    mask: Tensor | None = None,
    taps: Taps = NO_TAPS,
    context: Tensor | None = None,
    cache: Sequence[BlockCache] | None = None,
    context_mask: Tensor | None = None,
    rotary: Tensor | None = None,
    output_indices: Tensor | None = None,
    self_attentions: nn.ModuleList | None = None,
    tree: PrefixTree | None = None,
) -> Tensor:
    """Run x (B, N, D) through the blocks in turn. Arguments are those of `Block.forward`; `cache`
    and `self_attentions` have one entry for each block.

    output_indices (B, K): the result is these tokens of the last block, (B, K, D). The last block
    computes no others, unless a tap requests its tensors. The numbers are the same either way.

    In inference on a CPU, a large batch runs in chunks whose activations stay in the processor's
    cache.

    Taps: "blocks.{i}" is the output of block i, "blocks.{i}.attn" its attention map. If the caller
    reads taps only, blocks after the last tap do not run.
    """
    others = (mask, context, cache, context_mask, rotary, self_attentions, tree)
    plain = not taps.names and all(other is None for other in others)
    if plain and x.is_cpu and eager_inference():
        rows = max(TOKENS_PER_THREAD * torch.get_num_threads() // x.shape[1], 1)
        if len(x) > rows:
            return torch.cat(_run_in_chunks(blocks, x, output_indices, rows))
    last = len(blocks) - 1
    last_selects = (
        output_indices is not None and last >= 0 and not taps.wants_inside(f"blocks.{last}")
    )
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
            output_indices=output_indices if last_selects and i == last else None,
            self_attention=None if self_attentions is None else self_attentions[i],
            tree=tree,
        )
        taps.keep(f"blocks.{i}", x)
        if taps.done:
            break
    return x if last_selects else select_tokens(x, output_indices)


def _run_in_chunks(
    blocks: nn.ModuleList, x: Tensor, output_indices: Tensor | None, rows: int
) -> list[Tensor]:
    """`run_blocks` on `rows` rows of x at a time."""
    outputs = []
    for start in range(0, len(x), rows):
        chunk = slice(start, start + rows)
        indices = None if output_indices is None else output_indices[chunk]
        outputs.append(run_blocks(blocks, x[chunk], output_indices=indices))
    return outputs


def select_tokens(x: Tensor, indices: Tensor | None) -> Tensor:
    """The tokens of x (B, N, D) at `indices` (B, K): (B, K, D); all tokens for None."""
    if indices is None:
        return x
    return x.gather(1, indices[..., None].expand(-1, -1, x.shape[-1]))


def _recomputes(block: nn.Module) -> bool:
    return bool(getattr(block, "recompute", False)) and block.training and torch.is_grad_enabled()


def causal_mask(length: int, like: Tensor) -> Tensor:
    """Additive (N, N), of `like`'s type and device: 0 on and below the diagonal, -inf above."""
    full = torch.full((length, length), float("-inf"), dtype=like.dtype, device=like.device)
    return full.triu(1)


def padding_mask(present: Tensor, like: Tensor) -> Tensor:
    """Additive (B, 1, 1, N), of `like`'s type and device: 0 where `present` (B, N) is true, -inf
    elsewhere."""
    mask = torch.zeros(present.shape, dtype=like.dtype, device=like.device)
    return mask.masked_fill(~present, float("-inf"))[:, None, None]
