"""Masks as COCO's run-length encoding: runs of pixels, column by column (cocodataset/cocoapi,
common/maskApi.c, `rleEncode` and `rleToString`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BITS = 5  # of a number in each character
MORE = 0x20  # the bit that says that another character follows
FIRST = 48  # the code of the character of 0


def rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """COCO's compressed run lengths of a mask (H, W): {"size": [H, W], "counts": "..."}."""
    flat = np.asarray(mask, np.int8).ravel(order="F")
    ends = np.flatnonzero(np.diff(flat, prepend=0)).tolist()  # the first run is of zeros
    counts = np.diff([0, *ends, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": compressed(counts)}


def compressed(counts: Sequence[int]) -> str:
    """Run lengths as characters of five bits each, the lowest bits first. From the fourth on a run
    is written as its difference from the one two before."""
    characters = []
    for place, count in enumerate(counts):
        value = count - counts[place - 2] if place > 2 else count
        more = True
        while more:
            low = value & (MORE - 1)
            value >>= BITS
            negative = bool(low & (MORE >> 1))  # the sign of what the reader has so far
            more = value != (-1 if negative else 0)
            characters.append(chr((low | MORE if more else low) + FIRST))
    return "".join(characters)
