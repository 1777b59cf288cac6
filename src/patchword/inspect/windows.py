"""Sliding windows over a grid of patches, and from their scores to a value for each patch (WinCLIP,
Jeong et al. 2023, section 4.2).

The value of a patch that the windows W cover, whose scores are s_w, is their harmonic mean:

    |W| / sum over w in W of 1 / s_w
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]
BLOCK = 1024  # vectors compared at a time


def sliding(grid: Grid, side: int, stride: int = 1) -> Tensor:
    """The patches (W, side * side) of all windows of side x side patches, row by row. Windows are
    cut to a grid that is smaller."""
    numbers = torch.arange(grid[0] * grid[1], device="cpu").reshape(grid)
    height, width = min(side, grid[0]), min(side, grid[1])
    windows = numbers.unfold(0, height, stride).unfold(1, width, stride)
    return windows.flatten(2).flatten(0, 1)


def mean_over(values: Tensor, windows: Tensor, grid: Grid) -> Tensor:
    """Values (B, W) of windows -> (B, h, w): for each patch the mean over the windows that cover
    it."""
    patches = grid[0] * grid[1]
    spread = values.repeat_interleave(windows.shape[1], dim=1)
    total = values.new_zeros(len(values), patches).index_add_(1, windows.flatten(), spread)
    cover = torch.bincount(windows.flatten(), minlength=patches)
    return (total / cover).unflatten(1, grid)  # type: ignore[no-untyped-call, no-any-return]


def harmonic_over(values: Tensor, windows: Tensor, grid: Grid) -> Tensor:
    """Like `mean_over`, but the harmonic mean; 0 where one of the windows has 0."""
    return 1 / mean_over(1 / values, windows, grid)


def harmonic(maps: Sequence[Tensor]) -> Tensor:
    """The harmonic mean of maps that can be broadcast to one shape."""
    return len(maps) / reduce(torch.add, [1 / values for values in maps])


def badness(vectors: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
    """Vectors (..., D) and prototypes (2, D) of good and bad, of any length -> the probability of
    bad (...): the softmax of cosines / temperature (section 4.1)."""
    cosines = F.normalize(vectors, dim=-1) @ F.normalize(prototypes, dim=-1).mT
    return (cosines / temperature).softmax(dim=-1)[..., 1]


def unlikeness(vectors: Tensor, known: Tensor) -> Tensor:
    """(1 - cosine) / 2 of vectors (..., D) with the nearest of the known ones (M, D). Computed
    block by block, which bounds memory and keeps products in the processor's cache."""
    rows, known = F.normalize(vectors, dim=-1).flatten(0, -2), F.normalize(known, dim=-1)
    best = rows.new_full((len(rows),), -1.0)  # cosines
    for best_part, part in zip(torch.split(best, BLOCK), torch.split(rows, BLOCK), strict=True):
        for known_part in torch.split(known, BLOCK):
            torch.maximum(best_part, (part @ known_part.mT).amax(dim=-1), out=best_part)
    return (1 - best.reshape(vectors.shape[:-1])).clamp_min(0) / 2
