"""k-means of unit vectors: cells to search for near-duplicates in, and clusters of a collection."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchword.index.matrix import Half

SAMPLES_PER_CENTRE = 256  # vectors that k-means is given
ITERATIONS = 12
BLOCK = 8192  # rows multiplied at a time
MAX_KMEANS_PLUS_PLUS = 256  # more centres than this start at random rows


@torch.autocast("cpu", enabled=False)  # type: ignore[untyped-decorator]
def centres(half: Half, count: int) -> Tensor:
    """Unit vectors (C, D), float32: the centres of at most `count` clusters of the rows (N, D), by
    spherical k-means (Dhillon and Modha 2001) of a sample of them."""
    rng = np.random.default_rng(0)
    size = min(len(half), count * SAMPLES_PER_CENTRE)
    sample = np.sort(rng.choice(len(half), size, replace=False))
    rows = torch.from_numpy(half[sample]).float()
    middles = _first_centres(rows, min(count, len(rows)), rng)
    for _ in range(ITERATIONS):
        blocks = (rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK))
        nearest = torch.cat([(block @ middles.T).argmax(dim=1) for block in blocks])
        sums = torch.zeros_like(middles).index_add_(0, nearest, rows)
        empty = sums.norm(dim=1) < 1e-6
        sums[empty] = middles[empty]
        middles = torch.nn.functional.normalize(sums, dim=1)
    return middles


def _first_centres(rows: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """The centres that k-means starts with, as in k-means++ (Arthur and Vassilvitskii 2007): each
    row is chosen with a probability proportional to its squared distance from those chosen before.
    Many centres are random rows."""
    if count > MAX_KMEANS_PLUS_PLUS:
        return rows[torch.from_numpy(rng.choice(len(rows), count, replace=False))].clone()
    chosen = [int(rng.integers(len(rows)))]
    distances = rows.new_full((len(rows),), np.inf)  # half of each squared distance
    for _ in range(count - 1):
        distances = torch.minimum(distances, (1 - rows @ rows[chosen[-1]]).clamp(min=0))
        total = float(distances.double().sum())
        if total < 1e-6:  # every row is equal to one of those chosen
            break
        chosen.append(int(rng.choice(len(rows), p=(distances.double() / total).numpy())))
    return rows[chosen].clone()


@torch.autocast("cpu", enabled=False)  # type: ignore[untyped-decorator]
def nearest_centres(
    half: Half, middles: Tensor, count: int = 1
) -> tuple[NDArray[np.int64], Tensor]:
    """For each row (N, D): its `count` nearest centres (N, K), nearest first, and the cosines."""
    count = min(count, len(middles))
    indices, cosines = [], []
    for start in range(0, len(half), BLOCK):
        rows = torch.from_numpy(half[start : start + BLOCK]).float()
        top = (rows @ middles.T).topk(count, dim=1)
        indices.append(top.indices)
        cosines.append(top.values)
    return torch.cat(indices).numpy(), torch.cat(cosines)
