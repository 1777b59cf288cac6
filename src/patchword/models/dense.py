"""What a ViT's last layers give under an edit, from what enters them in the network as it is."""

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
Heads = tuple[Tensor, Tensor, Tensor]
OF = 12  # blocks that edits count as of: those of a ViT-B


@dataclass(frozen=True)
class Seen:
    """A network as it is, run on images, up to its last block.

    blocks   of the tower
    taps     "tokens", "blocks.{i}", "blocks.{i}.attn" and its ".q", ".k", ".v", as far as `wanted`
    patches  which tokens are patches, row by row of `grid`
    rotary   what turns queries and keys, or None
    made     queries, keys and values that were computed here, by block
    """

    blocks: Sequence[Block]
    taps: Mapping[str, Tensor]
    patches: slice
    grid: Grid
    rotary: Tensor | None = None
    made: dict[int, Heads] = field(default_factory=dict)

    def entering(self, block: int) -> Tensor:
        """Tokens (B, N, D) that enter a block."""
        return self.taps[entering(block)]

    def heads(self, block: int) -> Heads:
        """Queries, keys and values (B, H, N, d) of a block: the taps of one that was run, else
        computed, once."""
        names = [f"blocks.{block}.attn.{part}" for part in "qkv"]
        if names[0] in self.taps:
            q, k, v = (self.taps[name] for name in names)
            return q, k, v
        if block not in self.made:
            layer = self.blocks[block]
            h = layer.norm1(self.entering(block))
            self.made[block] = layer.attn.queries_keys_values(h, None, None, self.rotary)
        return self.made[block]


def entering(block: int) -> str:
    """The tap of the tokens that enter a block."""
    return f"blocks.{block - 1}" if block else "tokens"


def counted(block: int, depth: int) -> int:
    """A block of 12 among `depth`."""
    return min(round(block * depth / OF), depth - 1)


def wanted(edit: DenseEdit, depth: int) -> set[str]:
    """The taps that an edit reads of a network of so many blocks."""
    last = depth - 1
    edited_ones = range(depth - min(edit.blocks, depth), depth)
    names = {entering(block) for block in edited_ones}
    # The last block is not run; what the others compute is not computed twice.
    names |= {f"blocks.{i}.attn.{part}" for i in edited_ones if i < last for part in "qkv"}
    if edit.earlier:
        names |= {f"blocks.{i}.attn" for i in earlier_blocks(edit.earlier, depth)}
    if plan := edit.calibration:
        names |= {f"blocks.{counted(i, depth)}" for i in (plan.likeness, plan.detail)}
        names |= {f"blocks.{i}" for i in summed_blocks(plan, depth)}
        names.add(entering(last))
    return names


def earlier_blocks(plan: Earlier, depth: int) -> range:
    """Those whose attention is averaged; of a shallow network at least one before the last."""
    end = min(max(round(plan.end * depth / OF), 1), max(depth - 1, 1))
    return range(min(round(plan.first * depth / OF), end - 1), end)


def summed_blocks(plan: Calibration, depth: int) -> range:
    """Those whose outputs are summed; of a shallow network at least one."""
    end = min(max(round(plan.end * depth / OF), 1), depth)
    return range(min(round(plan.first * depth / OF), end - 1), end)


def edited(seen: Seen, edit: DenseEdit, semantic: Tensor | None = None) -> Tensor:
    """Patch tokens (B, h * w, D) of the edit's last layer, before the final norm.

    semantic: E (B, h * w, h * w) of `Semantic`, for the second pass.
    """
    depth = len(seen.blocks)
    first = depth - min(edit.blocks, depth)
    x = seen.entering(first) if edit.residual else torch.zeros_like(seen.entering(first))
    for number in range(first, depth):
        block = seen.blocks[number]
        h = block.norm1(seen.entering(number)) if edit.normalised else None
        heads = seen.heads(number)
        x = x + block.ls1(block.attn.out(attended(seen, edit, block.attn, h, heads, semantic)))
    if edit.mlp:
        x = seen.blocks[-1].feed(x)
    return x[:, seen.patches]


def unedited(seen: Seen, count: int | None) -> Tensor:
    """The first `count` tokens (B, count, D), or all, as the last block itself leaves them."""
    last = len(seen.blocks) - 1
    block = seen.blocks[last]
    q, k, v = seen.heads(last)
    mixed = F.scaled_dot_product_attention(q[:, :, :count], k, v, scale=block.attn.scale)
    return block.feed(seen.entering(last)[:, :count] + block.ls1(block.attn.out(mixed)))


def attended(
    seen: Seen,
    edit: DenseEdit,
    layer: Attention,
    h: Tensor | None,
    heads: Heads,
    semantic: Tensor | None,
) -> Tensor:
    """Heads (B, H, N, d) of one layer's values under the edit's attention. h: the tokens (B, N, D)
    that they come from, normed, for an edit that compares unit vectors."""
    q, k, v = heads
    if edit.attention == ("identity",):
        return v * edit.row_sum
    scale: Tensor | float = layer.scale
    if edit.normalised and h is not None:
        q, k, values, scale = smoothed(edit.normalised, h, heads, layer.scale)
    else:
        values = v
    mixed = mixing(edit, (q, k, values), v, scale, seen, semantic)
    if edit.earlier:
        depth = len(seen.blocks)
        names = [f"blocks.{i}.attn" for i in earlier_blocks(edit.earlier, depth)]
        other = torch.stack([seen.taps[name] for name in names]).mean(dim=0) @ v
        share = edit.earlier.share
        mixed = edit.earlier.total * ((1 - share) * mixed + share * other)
    return mixed


def smoothed(
    plan: Normalised, h: Tensor, heads: Heads, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor | float]:
    """Queries, keys and values of unit length after the plan's steps, and what their products are
    multiplied by: one number, or one for each image (B, 1, 1, 1)."""
    t: Tensor | float
    if plan.temperature is None:
        t = (h.norm(dim=-1).mean(dim=-1) * scale)[:, None, None, None]
    else:
        t = plan.temperature
    parts = []
    for z in heads:
        z = F.normalize(z, dim=-1)
        for _ in range(plan.steps):
            z = F.normalize(F.scaled_dot_product_attention(z * t, z, z, scale=1.0), dim=-1)
        parts.append(z)
    q, k, v = parts
    return q, k, v, t


def mixing(
    edit: DenseEdit,
    heads: Heads,
    values: Tensor,
    scale: Tensor | float,
    seen: Seen,
    semantic: Tensor | None,
) -> Tensor:
    """Values (B, H, N, d) mixed by the mean of the attention of the edit's rules, whose rows sum to
    `edit.row_sum`."""
    q, k, v = heads
    pairs = {"qk": (q, k), "qq": (q, q), "kk": (k, k), "vv": (v, v)}
    added = None  # to the logits of all tokens
    if edit.gaussian:
        added = _between(seen.patches, neighbours(seen.grid, edit.gaussian, q), q.shape[-2])
    if semantic is not None and edit.semantic:
        plan = edit.semantic
        among = plan.total * (plan.share * semantic).to(q.dtype)
        among = _between(seen.patches, among, q.shape[-2])[:, None]
        added = among if added is None else among + added
        scale = scale * plan.total * (1 - plan.share)
    total = torch.zeros_like(values)
    for rule in edit.attention:
        if rule == "near" and added is not None:
            total = total + torch.softmax(added * mean_lengths(q, k) * scale, dim=-1) @ values
            continue
        left, right = pairs[rule]
        total = total + F.scaled_dot_product_attention(
            left * scale, right, values, added, scale=1.0
        )
    return total * (edit.row_sum / len(edit.attention))


def mean_lengths(q: Tensor, k: Tensor) -> Tensor:
    """Of each image (B, 1, 1, 1) the mean of |q_i| |k_j| over heads and all pairs of queries and
    keys (B, H, N, d)."""
    asking, asked = (torch.linalg.vector_norm(z, dim=-1).mean(dim=-1) for z in (q, k))  # (B, H)
    found: Tensor = (asking * asked).mean(dim=-1)
    return found[:, None, None, None]


def neighbours(grid: Grid, deviation: float, like: Tensor) -> Tensor:
    """exp(-r^2 / 2 deviation^2) of patches r patches apart: (h * w, h * w)."""
    rows = torch.arange(grid[0], device=like.device).repeat_interleave(grid[1])
    columns = torch.arange(grid[1], device=like.device).repeat(grid[0])
    square = (rows[:, None] - rows) ** 2 + (columns[:, None] - columns) ** 2
    return torch.exp(square / (-2 * deviation**2)).to(like.dtype)


def _between(patches: slice, values: Tensor, tokens: int) -> Tensor:
    """What is between patches (..., n, n) as what is between all tokens (..., N, N): 0 for the
    others."""
    before, after = patches.start, tokens - patches.stop
    return F.pad(values, (before, after, before, after))
