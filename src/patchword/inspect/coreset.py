"""Few rows that are near all the others: greedy k-centre (PatchCore, Roth et al. 2022, section
3.2)."""

from __future__ import annotations

import torch
from torch import Tensor

STARTS = 10  # rows from which distances begin
SEED = 0


def coreset(rows: Tensor, count: int, apart: Tensor) -> Tensor:
    """Which `count` of rows (N, D) to keep, in the order in which they are chosen: each time the
    one farthest from all before.

    apart  (N,) the distances with which it begins, see `far_from_some`
    """
    nearest, chosen = apart.clone(), apart.new_empty(count, dtype=torch.long)
    for number in range(count):
        pick = nearest.argmax()
        chosen[number] = pick
        torch.minimum(nearest, distances(rows, rows[pick]), out=nearest)
        nearest[pick] = 0
    return chosen


def far_from_some(rows: Tensor) -> Tensor:
    """The mean distance (N,) of each row to ten rows drawn at random, as in PatchCore's own
    code."""
    generator = torch.Generator().manual_seed(SEED)
    some = torch.randperm(len(rows), generator=generator, device="cpu")[:STARTS]
    return torch.stack([distances(rows, rows[one]) for one in some]).mean(dim=0)


def distances(rows: Tensor, one: Tensor) -> Tensor:
    """Euclidean distances (N,) of rows (N, D) to one (D,), float32."""
    return torch.cdist(rows.float(), one.float()[None])[:, 0]
