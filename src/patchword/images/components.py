"""The connected parts of a mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Integers = NDArray[np.int64]


def components(mask: Mask, diagonal: bool = True) -> tuple[Integers, int]:
    """Number the connected parts of a mask (H, W).

    diagonal: whether pixels that share only a corner are connected (8 neighbours, else 4).
    Returns (H, W), 0 outside the mask and 1, 2, ... in the order of each part's first pixel, and
    how many parts there are: what `scipy.ndimage.label` gives.
    """
    height, width = mask.shape
    padded = np.zeros((height, width + 1), np.bool_)  # runs end at the latest where a row ends
    padded[:, :width] = mask
    starts, ends = _runs(padded.ravel())
    reach = 1 if diagonal else 0
    above = starts - (width + 1) - reach, ends - (width + 1) + reach
    first = np.searchsorted(ends, above[0], side="right")
    counts = np.searchsorted(starts, above[1], side="left") - first
    lower = np.repeat(np.arange(len(starts)), counts)
    upper = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts - first, counts)
    roots, part = np.unique(_joined(len(starts), lower, upper), return_inverse=True)
    numbers = np.zeros(padded.size, np.int64)
    numbers[padded.ravel()] = np.repeat(part + 1, ends - starts)
    return numbers.reshape(padded.shape)[:, :width], len(roots)


def _runs(flat: Mask) -> tuple[Integers, Integers]:
    """Where the runs of true values start, and where they end (exclusive)."""
    changes = np.flatnonzero(np.diff(flat, prepend=False, append=False))
    return changes[::2], changes[1::2]


def _joined(count: int, left: Integers, right: Integers) -> Integers:
    """For each of `count` items the lowest one that it is connected to by pairs (left, right)."""
    lowest = np.arange(count)
    while True:
        found = lowest.copy()
        low = np.minimum(lowest[left], lowest[right])
        np.minimum.at(found, lowest[left], low)
        np.minimum.at(found, lowest[right], low)
        found = found[found]
        if np.array_equal(found, lowest):
            return lowest
        lowest = found
