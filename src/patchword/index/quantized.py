"""The vectors of a matrix in one byte a number: the first pass of exact search reads these, half as
many bytes as the matrix has.

A row v of a matrix, less the mean m of all rows, is stored as integers c from -127 to 127 and a
scale s: v = m + s c + r, where the length of the residual r is known. A query q is stored as two
such rows, the second of the first one's residual: q = S c' + T c'' + e. The products of integers
are exact, and so v q, less m q that all rows share, is

    s (S c c' + T c c'')     off by at most |r| |q| + |s c| |e|     by Cauchy and Schwarz

which tells whether v can be among the nearest. The products need numkong, which multiplies bytes as
fast as they are read from memory; without it exact search does without this pass.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

ROWS_PER_THREAD = 16384  # that a thread multiplies at a time
GROUP = 64  # rows that share one lower and one upper bound of their scores
# If at most one row in 8 may be chosen, these rows are copied and multiplied, else all rows are.
GATHER_SHARE = 8
MAX_NUMBER = 127  # the largest number of a byte
ROUNDING = 2.0**-18  # of sums in float32 whose value is at most 2

Numbers = NDArray[np.int8]  # (N, D)
Floats = NDArray[np.float32]


class Codes(NamedTuple):
    """numbers (N, D); scales (N,); residuals (N,): upper bounds of their lengths; mean (D,)."""

    numbers: Numbers
    scales: Floats
    residuals: Floats
    mean: Floats


def encode(half: NDArray[np.float16], mean: Floats) -> tuple[Numbers, Floats, Floats]:
    """The numbers, scales and residuals of rows (B, D), see `Codes`."""
    rows = torch.from_numpy(half).float() - torch.from_numpy(mean)
    scales = rows.abs().amax(1).clamp(min=1e-20) / MAX_NUMBER
    numbers = (rows / scales[:, None]).round_()
    residuals = torch.linalg.vector_norm(rows - numbers * scales[:, None], dim=1)
    residuals *= 1 + rows.shape[1] * 2.0**-23  # of a sum in float32
    return numbers.to(torch.int8).numpy(), scales.numpy(), residuals.numpy()


def is_available() -> bool:
    """Whether the library that multiplies codes is installed."""
    return _library() is not None


def likely_rows(
    codes: Codes,
    query: NDArray[np.float64],
    k: int,
    error: float,
    allowed: NDArray[np.intp] | None = None,
) -> NDArray[np.intp]:
    """The rows that may be among the k nearest to a unit vector (D,), sorted; there are at least k
    rows. error: of the matrix. allowed: the rows (M,) to choose from, sorted; None: all."""
    gathered = allowed is not None and len(allowed) * GATHER_SHARE <= len(codes.numbers)
    if gathered:
        codes = Codes(
            codes.numbers[allowed], codes.scales[allowed], codes.residuals[allowed], codes.mean
        )
    query_rows, query_scales, query_residual = _encode_query(query)
    scores, lows, highs = _scores(codes, query_rows, query_scales)
    # The length of a row less the mean is at most 2, and that of its residual less than 1.
    margin = 2 * (3 * query_residual + error + ROUNDING)
    chosen: NDArray[np.intp]
    if allowed is not None and not gathered:
        scores, residuals = scores[allowed], codes.residuals[allowed]
        chosen = allowed[scores + residuals >= _kth_largest(scores - residuals, k) - margin]
        return chosen
    # The kth largest of the lower bounds of groups is at most that of the lower bounds of rows.
    threshold = _kth_largest(lows if len(lows) >= k else scores - codes.residuals, k) - margin
    groups = np.flatnonzero(highs >= threshold)
    rows = (groups[:, None] * GROUP + np.arange(GROUP)).ravel()
    rows = rows[rows < len(scores)]
    rows = rows[scores[rows] + codes.residuals[rows] >= threshold]
    chosen = rows if allowed is None else allowed[rows]
    return chosen


def _kth_largest(values: Floats, k: int) -> float:
    return float(np.partition(values, len(values) - k)[len(values) - k])


def _encode_query(query: NDArray[np.float64]) -> tuple[Numbers, Floats, float]:
    """A query (D,) as two rows of numbers, their scales, and the length of the last residual."""
    numbers = np.empty((2, len(query)), np.int8)
    scales = np.empty(2, np.float32)
    residual = query
    for row in range(2):
        scales[row] = max(np.abs(residual).max(), 1e-20) / MAX_NUMBER
        numbers[row] = np.round(residual / scales[row]).clip(-MAX_NUMBER, MAX_NUMBER)
        residual = residual - numbers[row] * scales[row].astype(np.float64)
    return numbers, scales, float(np.linalg.norm(residual))


def _scores(
    codes: Codes, query_rows: Numbers, query_scales: Floats
) -> tuple[Floats, Floats, Floats]:
    """Scores (N,), less what all rows share; and for each `GROUP` of rows (G,) the largest lower
    bound, and the largest upper bound, of its scores."""
    packed, library, count = _library().dots_pack(query_rows), _library(), len(codes.numbers)
    scores = np.empty(count, np.float32)
    lows, highs = np.empty((2, -(-count // GROUP)), np.float32)

    def score_rows(start: int) -> None:
        rows = slice(start, start + ROWS_PER_THREAD)
        products = np.asarray(library.dots_packed(codes.numbers[rows], packed))
        part, residuals = scores[rows], codes.residuals[rows]
        np.multiply(products.astype(np.float32) @ query_scales, codes.scales[rows], out=part)
        groups = slice(start // GROUP, start // GROUP + -(-len(part) // GROUP))
        firsts = np.arange(0, len(part), GROUP)
        lows[groups] = np.maximum.reduceat(part - residuals, firsts)
        highs[groups] = np.maximum.reduceat(part + residuals, firsts)

    if count <= ROWS_PER_THREAD:  # starting threads would take longer
        score_rows(0)
        return scores, lows, highs
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(score_rows, range(0, count, ROWS_PER_THREAD)))
    return scores, lows, highs


@cache
def _library() -> Any:
    """numkong; None where it is not installed."""
    try:
        import numkong
    except ImportError:
        return None
    return numkong
