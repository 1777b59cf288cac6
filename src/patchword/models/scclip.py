"""SC-CLIP: patches that stick out are repaired, and like attends to like (Bai et al. 2024)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from patchword.errors import UnsupportedError
from patchword.models.dense import Grid, Seen, counted, summed_blocks
from patchword.models.edits import Calibration

SHARPNESS = 3.0  # of the attention between patches that are alike
TINY = 1e-6  # beside the sum of a row that is divided by it


def calibrated(seen: Seen, plan: Calibration) -> Tensor:
    """Patch tokens (B, h * w, D) before the final norm. Raises UnsupportedError for too few
    patches."""
    count = seen.grid[0] * seen.grid[1]
    if count <= plan.neighbours + 1:
        raise UnsupportedError(
            f"scclip compares each patch with {plan.neighbours} others and needs more than "
            f"{plan.neighbours + 1} patches, not {count}; take a larger image, or naclip"
        )
    images = range(len(seen.entering(len(seen.blocks) - 1)))
    return torch.stack([_one(seen, plan, image) for image in images])


def _one(seen: Seen, plan: Calibration, image: int) -> Tensor:
    """Of one image of the batch: (h * w, D)."""
    depth, patches = len(seen.blocks), seen.patches
    last = seen.entering(depth - 1)[image]
    wrong = outliers(last[patches], plan.neighbours, plan.outliers)

    def block(number: int) -> Tensor:
        return seen.taps[f"blocks.{number}"][image]

    like = alike(repair(block(counted(plan.likeness, depth))[patches], wrong, seen.grid))
    detail = alike(block(counted(plan.detail, depth))[patches])
    averaging = shares(detail, plan.least)
    x = shares(like, plan.least) @ repair(last[patches], wrong, seen.grid)
    sums = torch.stack([block(i) for i in summed_blocks(plan, depth)]).sum(dim=0)
    y = _attended(seen, torch.stack([x, sums[patches]]), like).sum(dim=0)
    if patches.start:
        y = y + plan.class_share * (last[0] + sums[0])
    return averaging @ y


def _attended(seen: Seen, tokens: Tensor, like: Tensor) -> Tensor:
    """The last block's attention of patches (B, n, D), half to those that are alike, half by keys:
    no residual, no MLP."""
    block = seen.blocks[-1]
    rotary = None if seen.rotary is None else seen.rotary[:, seen.patches]
    _, k, v = block.attn.queries_keys_values(block.norm1(tokens), None, None, rotary)
    logits = SHARPNESS * (like - like.mean())
    by_likeness = torch.softmax(logits.masked_fill(logits < 0, float("-inf")), dim=-1)
    by_keys = torch.softmax(k @ k.mT * block.attn.scale, dim=-1)
    return block.ls1(block.attn.out((by_likeness + by_keys) / 2 @ v))  # type: ignore[no-any-return]


def alike(x: Tensor) -> Tensor:
    """Cosines (n, n) of tokens (n, D)."""
    x = F.normalize(x, dim=-1)
    return x @ x.mT


def shares(like: Tensor, least: float) -> Tensor:
    """Cosines (n, n), those below `least` as 0, divided by the sum of their row."""
    kept = like.masked_fill(like < least, 0)
    return kept / (kept.sum(dim=-1, keepdim=True) + TINY)


def outliers(x: Tensor, count: int, share: float) -> Tensor:
    """Which of the tokens (n, D) stick out (n,): those with the highest `share` of scores."""
    scores = outlier_scores(x, count)
    return scores > torch.quantile(scores.float(), 1 - share)


def outlier_scores(x: Tensor, count: int) -> Tensor:
    """How much thinner its neighbours' surroundings are than a token's own (n,): the mean, over its
    `count` nearest, of their density by its own, a density being count / squared distance to the
    farthest of them. As SC-CLIP's code has the local outlier factor."""
    x = x.float()
    square = (x * x).sum(dim=-1)
    distances = (square[:, None] + square - 2 * x @ x.mT).clamp(min=0)
    distances = distances.fill_diagonal_(float("inf"))
    nearest, places = distances.topk(count, dim=-1, largest=False)
    density = count / nearest[:, -1]
    return density[places].mean(dim=-1) / density


def repair(x: Tensor, wrong: Tensor, grid: Grid) -> Tensor:
    """Tokens (h * w, D) with the `wrong` ones (h * w,) as the mean of those of their eight
    neighbours that are not; one that has no such neighbour stays."""
    good = (~wrong).to(x.dtype)[:, None]  # (h * w, 1)
    planes = torch.unflatten(torch.cat([x * good, good], dim=-1).mT, -1, grid)  # (D + 1, h, w)
    kernel = torch.ones(1, 1, 3, 3, dtype=x.dtype, device=x.device)
    around = F.conv2d(planes[:, None], kernel, padding=1)[:, 0].flatten(-2).mT
    sums, counts = around[:, :-1], around[:, -1:]
    replaced = wrong[:, None] & (counts > 0)
    return torch.where(replaced, sums / counts.clamp(min=1), x)
