"""The nearest rows of a matrix, every one compared: no neighbour is missed.

Of many rows, `codes` tells first which may be among the best. One product of these in float16, of
all where there are no codes, leaves few, and they are scored again in float64 from the stored
float32. The product of a row v and a query q, both of length 1, is off by at most

    |v - half(v)| + |q - half(q)|     by Cauchy and Schwarz: known, the first from the matrix
    + D / 2^24                        sums in float32, D of them, at most 2^-24 each
    + 2^-11 * score                   the result rounded to float16

and so whatever is more than twice that below the kth best score is not among the k best.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from patchword.index.matrix import Half, Matrix
from patchword.index.quantized import GATHERED, likely, usable

FEW = 1 << 20  # numbers, which one thread multiplies: torch's then wait awake, in LanceDB's way


def candidates(
    matrix: Matrix,
    query: NDArray[np.float64],
    k: int,
    kept: NDArray[np.intp] | None = None,
) -> NDArray[np.intp]:
    """The rows that may be among the k nearest to a unit vector (D,), in no order.

    kept: the rows (M,) to choose from; None: all.
    """
    count = len(matrix.ids) if kept is None else len(kept)
    if matrix.codes and usable() and k < count:
        kept = likely(matrix.codes, query, k, matrix.error, kept)
    if kept is not None and len(kept) > len(matrix.ids) // GATHERED:
        scores = product(matrix.read(None), query)[torch.from_numpy(kept)]
    else:
        scores = product(matrix.read(kept), query)
    if k >= len(scores):
        return np.arange(len(scores)) if kept is None else kept
    best = float(torch.topk(scores, k, sorted=False).values.min())
    least = best - 2 * bound(matrix.error, query)
    found = (scores >= _below(least)).nonzero().numpy()[:, 0]
    return found if kept is None else kept[found]


def product(half: Half, query: NDArray[np.float64]) -> torch.Tensor:
    """float16 scores (N,) of rows (N, D) with a query (D,): sums in float32."""
    if half.size < FEW:
        wide = half.astype(np.float32), query.astype(np.float16).astype(np.float32)
        return torch.from_numpy(np.einsum("nd,d->n", *wide).astype(np.float16))
    with torch.autocast("cpu", enabled=False):
        return torch.mv(torch.from_numpy(half), torch.from_numpy(query.astype(np.float16)))


def bound(error: float, query: NDArray[np.float64]) -> float:
    """How far a score of `product` may be from that of the stored vector, whose float16 is off by
    at most `error`."""
    rounded = float(np.linalg.norm(query - query.astype(np.float16)))
    return 1.001 * (error + rounded + len(query) * 2.0**-24 + 2.0**-11)


def _below(value: float) -> float:
    """The largest float16 that is not above a value, as a float."""
    half = np.float16(value)
    return float(half if half <= value else np.nextafter(half, np.float16(-np.inf)))
