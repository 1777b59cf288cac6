"""SC-CLIP (Bai et al. 2024, "Self-calibrated CLIP"): outlier patches are replaced, and patches
attend to similar patches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from patchword.errors import UnsupportedError
from patchword.models.dense import ForwardPass, Grid, scaled_block, summed_blocks
from patchword.models.edits import Calibration

SHARPNESS = 3.0  # factor of the logits of attention by similarity
TINY = 1e-6  # added to the sum by which a row is divided


def calibrated(forward_pass: ForwardPass, plan: Calibration) -> Tensor:
    """Patch tokens (B, h * w, D) before the final norm. Raises UnsupportedError for too few
    patches."""
    count = forward_pass.grid[0] * forward_pass.grid[1]
    if count <= plan.neighbours + 1:
        raise UnsupportedError(
            f"scclip compares each patch with {plan.neighbours} others and needs more than "
            f"{plan.neighbours + 1} patches, not {count}; take a larger image, or naclip"
        )
    batch_size = len(forward_pass.block_input(len(forward_pass.blocks) - 1))
    return torch.stack([_calibrate_image(forward_pass, plan, i) for i in range(batch_size)])


def _calibrate_image(forward_pass: ForwardPass, plan: Calibration, image: int) -> Tensor:
    """Patch tokens (h * w, D) of one image of the batch."""
    depth, patches, grid = len(forward_pass.blocks), forward_pass.patches, forward_pass.grid
    last_input = forward_pass.block_input(depth - 1)[image]
    is_outlier = outliers(last_input[patches], plan.neighbours, plan.outliers)

    def output(block: int) -> Tensor:
        return forward_pass.taps[f"blocks.{block}"][image]

    similar_block = output(scaled_block(plan.likeness, depth))[patches]
    similarity = cosines(repair(similar_block, is_outlier, grid))
    detail = cosines(output(scaled_block(plan.detail, depth))[patches])
    x = row_weights(similarity, plan.least) @ repair(last_input[patches], is_outlier, grid)
    sums = torch.stack([output(i) for i in summed_blocks(plan, depth)]).sum(dim=0)
    y = _attend(forward_pass, torch.stack([x, sums[patches]]), similarity).sum(dim=0)
    if patches.start:  # there is a class token
        y = y + plan.class_share * (last_input[0] + sums[0])
    return row_weights(detail, plan.least) @ y


def _attend(forward_pass: ForwardPass, tokens: Tensor, similarity: Tensor) -> Tensor:
    """The last block's attention of patches (B, n, D), without residual and MLP. The weights are
    the mean of a softmax over similarities above their mean and a softmax over k k^T / sqrt(d)."""
    block = forward_pass.blocks[-1]
    rotary = None if forward_pass.rotary is None else forward_pass.rotary[:, forward_pass.patches]
    _, k, v = block.attn.queries_keys_values(block.norm1(tokens), None, None, rotary)
    logits = SHARPNESS * (similarity - similarity.mean())
    by_similarity = torch.softmax(logits.masked_fill(logits < 0, float("-inf")), dim=-1)
    by_keys = torch.softmax(k @ k.mT * block.attn.scale, dim=-1)
    heads = (by_similarity + by_keys) / 2 @ v
    return block.ls1(block.attn.merge_heads(heads))  # type: ignore[no-any-return]


def cosines(x: Tensor) -> Tensor:
    """Cosines (n, n) between tokens (n, D)."""
    x = F.normalize(x, dim=-1)
    return x @ x.mT


def row_weights(similarity: Tensor, least: float) -> Tensor:
    """Cosines (n, n), those below `least` set to 0, divided by the sum of their row."""
    weights = similarity.masked_fill(similarity < least, 0)
    return weights / (weights.sum(dim=-1, keepdim=True) + TINY)


def outliers(x: Tensor, count: int, share: float) -> Tensor:
    """Which of the tokens (n, D) are outliers, (n,) bool: the `share` with the highest scores."""
    scores = outlier_scores(x, count)
    return scores > torch.quantile(scores.float(), 1 - share)


def outlier_scores(x: Tensor, count: int) -> Tensor:
    """The local outlier factor (n,) of tokens (n, D), as SC-CLIP's code computes it:

    density = count / squared distance to the farthest of the `count` nearest tokens
    score = mean density of the `count` nearest tokens / own density
    """
    x = x.float()
    square = (x * x).sum(dim=-1)
    distances = (square[:, None] + square - 2 * x @ x.mT).clamp(min=0)
    distances = distances.fill_diagonal_(float("inf"))
    nearest, indices = distances.topk(count, dim=-1, largest=False)
    density = count / nearest[:, -1]
    return density[indices].mean(dim=-1) / density


def repair(x: Tensor, is_outlier: Tensor, grid: Grid) -> Tensor:
    """Tokens (h * w, D), each outlier replaced by the mean of those of its eight neighbours that
    are none; an outlier without such a neighbour stays."""
    good = (~is_outlier).to(x.dtype)[:, None]  # (h * w, 1)
    planes = torch.unflatten(torch.cat([x * good, good], dim=-1).mT, -1, grid)  # (D + 1, h, w)
    kernel = torch.ones(1, 1, 3, 3, dtype=x.dtype, device=x.device)
    sums_and_counts = F.conv2d(planes[:, None], kernel, padding=1)[:, 0].flatten(-2).mT
    sums, counts = sums_and_counts[:, :-1], sums_and_counts[:, -1:]
    replaced = is_outlier[:, None] & (counts > 0)
    return torch.where(replaced, sums / counts.clamp(min=1), x)
