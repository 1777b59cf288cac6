"""Greedy k-centre: few rows such that every other row is near one of them (PatchCore, Roth et al.
2022, section 3.2, equation 5 and algorithm 1)."""

from __future__ import annotations

import torch
from torch import Tensor

STARTS = 10  # random rows from which the first distances are measured
SEED = 0


def coreset(rows: Tensor, count: int, start: Tensor) -> Tensor:
    """The indices of `count` of the rows (N, D), in the order in which they are chosen: each time
    the row that is farthest from all rows chosen before.

    start  (N,) the distances before any row is chosen, see `start_distances`
    """
    nearest, chosen = start.clone(), start.new_empty(count, dtype=torch.long)
    for number in range(count):
        index = nearest.argmax()
        chosen[number] = index
        torch.minimum(nearest, distances(rows, rows[index]), out=nearest)
        nearest[index] = 0
    return chosen


def start_distances(rows: Tensor) -> Tensor:
    """The mean distance (N,) of each row to ten random rows, as in PatchCore's own code."""
    generator = torch.Generator().manual_seed(SEED)
    starts = torch.randperm(len(rows), generator=generator, device="cpu")[:STARTS]
    return torch.stack([distances(rows, rows[index]) for index in starts]).mean(dim=0)


def distances(rows: Tensor, row: Tensor) -> Tensor:
    """Euclidean distances (N,) of rows (N, D) to one row (D,), float32."""
    return torch.cdist(rows.float(), row.float()[None])[:, 0]
