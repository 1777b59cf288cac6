"""Patch features of a ViT under a `DenseEdit`, computed from an unedited forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from patchword.models.edits import Calibration, DenseEdit, Earlier, Normalised
from patchword.nn.attention import Attention
from patchword.nn.transformer import Block

Grid = tuple[int, int]
Heads = tuple[Tensor, Tensor, Tensor]  # queries, keys and values (B, H, N, d)
REFERENCE_DEPTH = 12  # edits number the blocks of a ViT-B; other depths are scaled to it


@dataclass(frozen=True)
class ForwardPass:
    """An unedited forward pass of images, up to the input of the last block.

    blocks    of the tower
    taps      those of `required_taps`: "tokens", "blocks.{i}", "blocks.{i}.attn", ".q", ".k", ".v"
    patches   which tokens are patches, row by row of `grid`
    rotary    the rotary embedding of queries and keys, or None
    computed  queries, keys and values that `heads` computed itself, by block
    """

    blocks: Sequence[Block]
    taps: Mapping[str, Tensor]
    patches: slice
    grid: Grid
    rotary: Tensor | None = None
    computed: dict[int, Heads] = field(default_factory=dict)

    def block_input(self, block: int) -> Tensor:
        """The tokens (B, N, D) that enter a block."""
        return self.taps[input_tap(block)]

    def heads(self, block: int) -> Heads:
        """Queries, keys and values of a block: its taps, or computed from its input and stored."""
        names = [f"blocks.{block}.attn.{name}" for name in "qkv"]
        if names[0] in self.taps:
            q, k, v = (self.taps[name] for name in names)
            return q, k, v
        if block not in self.computed:
            layer = self.blocks[block]
            h = layer.norm1(self.block_input(block))
            self.computed[block] = layer.attn.queries_keys_values(h, None, None, self.rotary)
        return self.computed[block]


def input_tap(block: int) -> str:
    """The tap of the tokens that enter a block."""
    return f"blocks.{block - 1}" if block else "tokens"


def scaled_block(block: int, depth: int) -> int:
    """The block of a tower of `depth` blocks that corresponds to a block of 12."""
    return min(round(block * depth / REFERENCE_DEPTH), depth - 1)


def required_taps(edit: DenseEdit, depth: int) -> set[str]:
    """The taps that an edit reads from a tower of `depth` blocks."""
    last = depth - 1
    edited_blocks = range(depth - min(edit.blocks, depth), depth)
    names = {input_tap(block) for block in edited_blocks}
    # The last block does not run: `ForwardPass.heads` computes its queries, keys and values.
    names |= {f"blocks.{i}.attn.{name}" for i in edited_blocks if i < last for name in "qkv"}
    if edit.earlier:
        names |= {f"blocks.{i}.attn" for i in earlier_blocks(edit.earlier, depth)}
    plan = edit.calibration
    if plan:
        names |= {f"blocks.{scaled_block(i, depth)}" for i in (plan.likeness, plan.detail)}
        names |= {f"blocks.{i}" for i in summed_blocks(plan, depth)}
        names.add(input_tap(last))
    return names


def earlier_blocks(plan: Earlier, depth: int) -> range:
    """The blocks whose attention is averaged: at least one, before the last if there are two."""
    return _scaled_range(plan.first, plan.end, depth, max(depth - 1, 1))


def summed_blocks(plan: Calibration, depth: int) -> range:
    """The blocks whose outputs are summed: at least one."""
    return _scaled_range(plan.first, plan.end, depth, depth)


def _scaled_range(first: int, end: int, depth: int, largest_end: int) -> range:
    """Blocks first, ..., end - 1 of 12 as blocks of `depth`, at least one."""
    end = min(max(round(end * depth / REFERENCE_DEPTH), 1), largest_end)
    return range(min(round(first * depth / REFERENCE_DEPTH), end - 1), end)


def edited_patches(
    forward_pass: ForwardPass, edit: DenseEdit, semantic: Tensor | None = None
) -> Tensor:
    """Patch tokens (B, h * w, D) of the edited last layers, before the final norm. For the edited
    blocks l = first, ..., L with unedited inputs z_l and edited attention A_l:

        x = z_first + sum_l A_l(LN(z_l)),   then x + MLP(LN(x))

    The edit may leave out the residual z_first and the MLP. semantic: E (B, h * w, h * w) of
    `Semantic`, for the second pass.
    """
    depth = len(forward_pass.blocks)
    first = depth - min(edit.blocks, depth)
    x = forward_pass.block_input(first)
    if not edit.residual:
        x = torch.zeros_like(x)
    for number in range(first, depth):
        block = forward_pass.blocks[number]
        h = block.norm1(forward_pass.block_input(number)) if edit.normalised else None
        heads = forward_pass.heads(number)
        attended = edited_attention(forward_pass, edit, block.attn, h, heads, semantic)
        x = x + block.ls1(block.attn.merge_heads(attended))
    if edit.mlp:
        x = forward_pass.blocks[-1].feed_forward(x)
    return x[:, forward_pass.patches]


def last_block_output(forward_pass: ForwardPass, count: int | None) -> Tensor:
    """The first `count` tokens (B, count, D) of the unedited last block, or all for None."""
    last = len(forward_pass.blocks) - 1
    block = forward_pass.blocks[last]
    q, k, v = forward_pass.heads(last)
    heads = F.scaled_dot_product_attention(q[:, :, :count], k, v, scale=block.attn.scale)
    x = forward_pass.block_input(last)[:, :count]
    return block.feed_forward(x + block.ls1(block.attn.merge_heads(heads)))


def edited_attention(
    forward_pass: ForwardPass,
    edit: DenseEdit,
    layer: Attention,
    h: Tensor | None,
    heads: Heads,
    semantic: Tensor | None,
) -> Tensor:
    """Values (B, H, N, d) of one layer under the edit's attention. h: the normed input (B, N, D) of
    the layer, for an edit with `normalised`."""
    q, k, v = heads
    if edit.attention == ("identity",):
        return v * edit.row_sum
    scale: Tensor | float = layer.scale
    if edit.normalised and h is not None:
        q, k, compared_values, scale = normalised_heads(edit.normalised, h, heads, layer.scale)
    else:
        compared_values = v
    out = mixed_values(edit, (q, k, compared_values), v, scale, forward_pass, semantic)
    if edit.earlier:
        blocks = earlier_blocks(edit.earlier, len(forward_pass.blocks))
        weights = torch.stack([forward_pass.taps[f"blocks.{i}.attn"] for i in blocks])
        earlier = weights.mean(dim=0) @ v
        share = edit.earlier.share
        out = edit.earlier.total * ((1 - share) * out + share * earlier)
    return out


def normalised_heads(
    plan: Normalised, h: Tensor, heads: Heads, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor | float]:
    """Queries, keys and values z of unit length after the plan's steps, and the temperature t by
    which their products are multiplied: one number, or one for each image (B, 1, 1, 1).

        z <- normalise(softmax(t z z^T) z)     (GEM, Bousselham et al. 2023, section 3.2)
    """
    t: Tensor | float
    if plan.temperature is None:
        t = (h.norm(dim=-1).mean(dim=-1) * scale)[:, None, None, None]
    else:
        t = plan.temperature
    smoothed = []
    for z in heads:
        z = F.normalize(z, dim=-1)
        for _ in range(plan.steps):
            z = F.normalize(F.scaled_dot_product_attention(z * t, z, z, scale=1.0), dim=-1)
        smoothed.append(z)
    q, k, v = smoothed
    return q, k, v, t


def mixed_values(
    edit: DenseEdit,
    heads: Heads,
    values: Tensor,
    scale: Tensor | float,
    forward_pass: ForwardPass,
    semantic: Tensor | None,
) -> Tensor:
    """Values (B, H, N, d) mixed by the mean attention of the edit's rules, whose rows sum to
    `edit.row_sum`: softmax(scale a b^T + bias) values, a and b being the queries, keys or values
    that a rule names."""
    q, k, v = heads
    pairs = {"qk": (q, k), "qq": (q, q), "kk": (k, k), "vv": (v, v)}
    count, patches = q.shape[-2], forward_pass.patches
    bias = None  # (N, N) or (B, 1, N, N)
    if edit.gaussian:
        weights = gaussian_weights(forward_pass.grid, edit.gaussian, q)
        bias = _among_all_tokens(weights, patches, count)
    if semantic is not None and edit.semantic:
        plan = edit.semantic
        weights = plan.total * (plan.share * semantic).to(q.dtype)
        semantic_bias = _among_all_tokens(weights, patches, count)[:, None]
        bias = semantic_bias if bias is None else semantic_bias + bias
        scale = scale * plan.total * (1 - plan.share)
    total = torch.zeros_like(values)
    for rule in edit.attention:
        if rule == "near" and bias is not None:
            logits = bias * mean_length_product(q, k) * scale
            total = total + torch.softmax(logits, dim=-1) @ values
        else:
            a, b = pairs[rule]
            total = total + F.scaled_dot_product_attention(a * scale, b, values, bias, scale=1.0)
    return total * (edit.row_sum / len(edit.attention))


def mean_length_product(q: Tensor, k: Tensor) -> Tensor:
    """The mean of |q_i| |k_j| over heads and all pairs of queries and keys (B, H, N, d), for each
    image: (B, 1, 1, 1)."""
    query_lengths = torch.linalg.vector_norm(q, dim=-1).mean(dim=-1)  # (B, H)
    key_lengths = torch.linalg.vector_norm(k, dim=-1).mean(dim=-1)
    product: Tensor = (query_lengths * key_lengths).mean(dim=-1)
    return product[:, None, None, None]


def gaussian_weights(grid: Grid, deviation: float, like: Tensor) -> Tensor:
    """exp(-r^2 / (2 deviation^2)) for patches r patches apart: (h * w, h * w)."""
    rows = torch.arange(grid[0], device=like.device).repeat_interleave(grid[1])
    columns = torch.arange(grid[1], device=like.device).repeat(grid[0])
    squared = (rows[:, None] - rows) ** 2 + (columns[:, None] - columns) ** 2
    return torch.exp(squared / (-2 * deviation**2)).to(like.dtype)


def _among_all_tokens(values: Tensor, patches: slice, count: int) -> Tensor:
    """A matrix (..., n, n) over patches as one (..., N, N) over all `count` tokens, 0 elsewhere."""
    before, after = patches.start, count - patches.stop
    return F.pad(values, (before, after, before, after))
