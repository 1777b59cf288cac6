"""From a value for each place to one score for the photo."""

from __future__ import annotations

from torch import Tensor


def top_share(values: Tensor, share: float = 0.01) -> float:
    """The mean of the int(share * n) largest of n values, at least of one: at 1% the maximum below
    200 values (AnomalyDINO, Damm et al. 2024, section 3.1, as its code counts)."""
    flat = values.flatten().double()
    return float(flat.topk(max(int(share * flat.numel()), 1)).values.mean())
