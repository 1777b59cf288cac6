"""k-means of unit vectors: cells to look for near-duplicates in, and what a collection holds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchword.index.matrix import Half

SAMPLE = 256  # vectors for each centre that k-means is given
ROUNDS = 12
BLOCK = 8192  # rows multiplied at a time


@torch.autocast("cpu", enabled=False)  # type: ignore[untyped-decorator]
def centres(half: Half, count: int) -> Tensor:
    """Unit vectors (C, D), float32: centres of at most `count` clusters of the rows (N, D), by
    spherical k-means (Dhillon and Modha 2001) of a sample of them, begun as k-means++ does."""
    draw = np.random.default_rng(0)
    chosen = np.sort(draw.choice(len(half), min(len(half), count * SAMPLE), replace=False))
    rows = torch.from_numpy(half[chosen]).float()
    found = _far_apart(rows, min(count, len(rows)), draw)
    for _ in range(ROUNDS):
        parts = (rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK))
        nearest = torch.cat([(part @ found.T).argmax(dim=1) for part in parts])
        sums = torch.zeros_like(found).index_add_(0, nearest, rows)
        empty = sums.norm(dim=1) < 1e-6
        sums[empty] = found[empty]
        found = torch.nn.functional.normalize(sums, dim=1)
    return found


def _far_apart(rows: Tensor, count: int, draw: np.random.Generator) -> Tensor:
    """The first centres: each row is as likely to be one as it is far, squared, from the last. For
    many, any rows will do."""
    if count > 256:
        return rows[torch.from_numpy(draw.choice(len(rows), count, replace=False))].clone()
    chosen = [int(draw.integers(len(rows)))]
    apart = rows.new_full((len(rows),), np.inf)
    for _ in range(count - 1):
        apart = torch.minimum(apart, (1 - rows @ rows[chosen[-1]]).clamp(min=0))
        total = float(apart.double().sum())
        if total < 1e-6:  # all rows are equal to one of them
            break
        chosen.append(int(draw.choice(len(rows), p=(apart.double() / total).numpy())))
    return rows[chosen].clone()


@torch.autocast("cpu", enabled=False)  # type: ignore[untyped-decorator]
def nearest_centres(half: Half, found: Tensor, count: int = 1) -> tuple[NDArray[np.int64], Tensor]:
    """For each row (N, D) its `count` nearest centres (N, K), nearest first, and the cosines."""
    count = min(count, len(found))
    parts = [(rows @ found.T).topk(count, dim=1) for rows in blocks(half)]
    return torch.cat([p.indices for p in parts]).numpy(), torch.cat([p.values for p in parts])


def blocks(half: Half) -> Iterator[Tensor]:
    """The rows (N, D) in float32, block by block."""
    for start in range(0, len(half), BLOCK):
        yield torch.from_numpy(half[start : start + BLOCK]).float()
