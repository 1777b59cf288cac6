"""Masks as COCO writes them: runs of pixels, column by column (cocodataset/cocoapi,
common/maskApi.c, `rleEncode` and `rleToString`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BITS, MORE, FIRST = 5, 0x20, 48  # of a sign: how many it holds; another follows; the sign of 0


def rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """COCO's compressed run lengths of a mask (H, W): {"size": [H, W], "counts": "..."}."""
    flat = np.asarray(mask, np.int8).ravel(order="F")
    ends = np.flatnonzero(np.diff(flat, prepend=0)).tolist()  # the first run is of zeros
    counts = np.diff([0, *ends, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": compressed(counts)}


def compressed(counts: Sequence[int]) -> str:
    """Run lengths as signs of five bits, from the fourth on as differences from the last but one
    before."""
    signs = []
    for place, count in enumerate(counts):
        value = count - counts[place - 2] if place > 2 else count
        more = True
        while more:
            low = value & (MORE - 1)
            value >>= BITS
            more = value != (-1 if low & (MORE >> 1) else 0)
            signs.append(chr((low | MORE if more else low) + FIRST))
    return "".join(signs)
