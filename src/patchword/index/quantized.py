"""The vectors of a matrix in one byte a number: a look at all of them that reads half as much.

A row v of a matrix, less the mean m of all, is held as whole numbers c from -127 to 127 and a scale
s of its own: v = m + s c + r, where the length of r is known. A query q is held as two such rows,
the second of what the first leaves: q = S c' + T c'' + e. The products of whole numbers are exact,
and so v q, less m q that all rows share, is

    s (S c c' + T c c'')     off by at most |r| |q| + |s c| |e|     by Cauchy and Schwarz

which tells whether v can be among the best. Without numkong, which multiplies bytes as fast as they
are read from memory, there is no such look.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

ROWS, GROUP = 16384, 64  # that a thread multiplies at a time; that are first looked at together
GATHERED = 8  # where less than one row in so many is to choose from, those alone are multiplied
MOST = 127  # the largest number of a byte
ROUNDING = 2.0**-18  # of sums in float32 of what is at most 2

Numbers = NDArray[np.int8]  # (N, D)
Floats = NDArray[np.float32]


class Codes(NamedTuple):
    """numbers (N, D), scale (N,), how long at most what they leave of a row is (N,), mean (D,)."""

    numbers: Numbers
    scale: Floats
    left: Floats
    mean: Floats


def encoded(half: NDArray[np.float16], mean: Floats) -> tuple[Numbers, Floats, Floats]:
    """The numbers, scales and what is left of rows (B, D)."""
    rows = torch.from_numpy(half).float() - torch.from_numpy(mean)
    scale = rows.abs().amax(1).clamp(min=1e-20) / MOST
    numbers = (rows / scale[:, None]).round_()
    left = torch.linalg.vector_norm(rows - numbers * scale[:, None], dim=1)
    left *= 1 + rows.shape[1] * 2.0**-23  # of a sum in float32
    return numbers.to(torch.int8).numpy(), scale.numpy(), left.numpy()


def usable() -> bool:
    """Whether there is a library that multiplies codes."""
    return _library() is not None


def likely(
    codes: Codes,
    query: NDArray[np.float64],
    k: int,
    error: float,
    kept: NDArray[np.intp] | None = None,
) -> NDArray[np.intp]:
    """The rows that may be among the k nearest to a unit vector (D,), in order; k is at most their
    number. error: of the matrix. kept: the rows (M,) to choose from, in order; None: all."""
    few = kept is not None and len(kept) * GATHERED <= len(codes.numbers)
    if few:
        codes = Codes(codes.numbers[kept], codes.scale[kept], codes.left[kept], codes.mean)
    two, scales, rest = _halves(query)
    scores, lows, highs = _scores(codes, two, scales)
    # A row less the mean is at most 2 long, and what the codes leave of it is less than 1.
    margin = 2 * (3 * rest + error + ROUNDING)
    if kept is not None and not few:
        scores, left = scores[kept], codes.left[kept]
        chosen: NDArray[np.intp] = kept[scores + left >= _kth(scores - left, k) - margin]
        return chosen
    # The kth of the best of each group is no better than the kth of all.
    least = _kth(lows if len(lows) >= k else scores - codes.left, k) - margin
    groups = np.flatnonzero(highs >= least)
    rows = (groups[:, None] * GROUP + np.arange(GROUP)).ravel()
    rows = rows[rows < len(scores)]
    rows = rows[scores[rows] + codes.left[rows] >= least]
    found: NDArray[np.intp] = rows if kept is None else kept[rows]
    return found


def _kth(values: Floats, k: int) -> float:
    """The kth largest."""
    return float(np.partition(values, len(values) - k)[len(values) - k])


def _halves(query: NDArray[np.float64]) -> tuple[Numbers, Floats, float]:
    """A query (D,) as two rows of numbers, their scales, and the length of what they leave."""
    numbers = np.empty((2, len(query)), np.int8)
    scales = np.empty(2, np.float32)
    rest = query
    for row in range(2):
        scales[row] = max(np.abs(rest).max(), 1e-20) / MOST
        numbers[row] = np.round(rest / scales[row]).clip(-MOST, MOST)
        rest = rest - numbers[row] * scales[row].astype(np.float64)
    return numbers, scales, float(np.linalg.norm(rest))


def _scores(codes: Codes, two: Numbers, scales: Floats) -> tuple[Floats, Floats, Floats]:
    """Scores (N,), less what all rows share; and of each `GROUP` of rows the greatest of what they
    are at least, and of what they may be at most."""
    packed, library, count = _library().dots_pack(two), _library(), len(codes.numbers)
    scores = np.empty(count, np.float32)
    lows, highs = np.empty((2, -(-count // GROUP)), np.float32)

    def some(start: int) -> None:
        rows = slice(start, start + ROWS)
        products = np.asarray(library.dots_packed(codes.numbers[rows], packed))
        found, left = scores[rows], codes.left[rows]
        np.multiply(products.astype(np.float32) @ scales, codes.scale[rows], out=found)
        groups = slice(start // GROUP, start // GROUP + -(-len(found) // GROUP))
        firsts = np.arange(0, len(found), GROUP)
        lows[groups] = np.maximum.reduceat(found - left, firsts)
        highs[groups] = np.maximum.reduceat(found + left, firsts)

    if count <= ROWS:  # starting threads would take longer
        some(0)
        return scores, lows, highs
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(some, range(0, count, ROWS)))
    return scores, lows, highs


@cache
def _library() -> Any:
    """numkong; None where it is not installed."""
    try:
        import numkong
    except ImportError:
        return None
    return numkong
