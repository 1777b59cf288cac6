"""The nearest rows of a matrix: every row is compared, and no neighbour is missed.

For many rows, `quantized` first tells which may be among the nearest. One product of these with the
query in float16 (of all rows, where there are no codes) leaves few candidates, which `nearest`
scores again in float64 from the stored float32. The product of a row v and a query q, both of
length 1, is off by at most

    |v - half(v)| + |q - half(q)|     by Cauchy and Schwarz; the first is known from the matrix
    + D / 2^24                        sums in float32, D of them, at most 2^-24 each
    + 2^-11 * score                   the result rounded to float16

So a row whose product is more than twice that below the kth best is not among the k nearest.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from patchword.index.matrix import Half, Matrix
from patchword.index.quantized import GATHER_SHARE, is_available, likely_rows

# A matrix of fewer numbers is multiplied in one thread: idle threads of torch keep spinning, and
# take time from LanceDB's.
FEW_NUMBERS = 1 << 20


def candidates(
    matrix: Matrix, query: NDArray[np.float64], k: int, allowed: NDArray[np.intp] | None = None
) -> NDArray[np.intp]:
    """The rows that may be among the k nearest to a unit vector (D,), in no order.

    allowed: the rows (M,) to choose from; None: all.
    """
    count = len(matrix.ids) if allowed is None else len(allowed)
    if matrix.codes and is_available() and k < count:
        allowed = likely_rows(matrix.codes, query, k, matrix.error, allowed)
    if allowed is not None and len(allowed) > len(matrix.ids) // GATHER_SHARE:
        scores = half_products(matrix.read(None), query)[torch.from_numpy(allowed)]
    else:
        scores = half_products(matrix.read(allowed), query)
    if k >= len(scores):
        return np.arange(len(scores)) if allowed is None else allowed
    kth_score = float(torch.topk(scores, k, sorted=False).values.min())
    threshold = kth_score - 2 * error_bound(matrix.error, query)
    # torch rounds the threshold to float16: that drops no score above it, for all are float16.
    passed = (scores >= threshold).nonzero().numpy()[:, 0]
    return passed if allowed is None else allowed[passed]


def half_products(half: Half, query: NDArray[np.float64]) -> torch.Tensor:
    """float16 products (N,) of rows (N, D) with a query (D,); the sums are in float32."""
    if half.size < FEW_NUMBERS:
        rows, factors = half.astype(np.float32), query.astype(np.float16).astype(np.float32)
        return torch.from_numpy(np.einsum("nd,d->n", rows, factors).astype(np.float16))
    with torch.autocast("cpu", enabled=False):
        return torch.mv(torch.from_numpy(half), torch.from_numpy(query.astype(np.float16)))


def error_bound(error: float, query: NDArray[np.float64]) -> float:
    """How far a product of `half_products` may be from that of the stored vector, whose float16 is
    off by at most `error`."""
    query_error = float(np.linalg.norm(query - query.astype(np.float16)))
    return 1.001 * (error + query_error + len(query) * 2.0**-24 + 2.0**-11)
