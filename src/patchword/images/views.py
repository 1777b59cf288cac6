"""Divides a photo into views: the whole photo, and overlapping tiles that show details larger."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchword.errors import UnsupportedError

Size = tuple[int, int]  # (height, width), in pixels
Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels of the photo

CLOSE = 8.0  # most pixels of a photo that become one pixel of the network's input
MOST = 2000  # tiles of a photo
LONGER = 1.1  # photos with a higher aspect ratio get tiles with their shorter side too


@dataclass(frozen=True, eq=False)
class View:
    """A part of a photo: its box, and its pixels (h, w, 3)."""

    box: Box
    pixels: NDArray[np.uint8]


def views(photo: NDArray[np.uint8], size: Size, tile: int | None = None) -> list[View]:
    """The whole photo (H, W, 3), then its tiles row by row: squares that overlap by half, the last
    ones at the border.

    size  (h, w) of the network's input
    tile  side of a tile in pixels of the photo; None: the photo's shorter side if its aspect ratio
          is above `LONGER`, then half of it, a quarter, ..., down to tiles that the network sees at
          1:8 or larger

    Raises UnsupportedError for more than 2,000 tiles.
    """
    height, width = photo.shape[:2]
    sides = tile_sides((height, width), min(size), tile)
    result = [View((0, 0, width, height), photo)]
    for side in sides:
        for left, top, right, bottom in corners((height, width), side):
            result.append(View((left, top, right, bottom), photo[top:bottom, left:right]))
    return result


def tile_sides(photo: Size, network: int, tile: int | None = None) -> list[int]:
    """The sides of a photo's tiles in its pixels, the largest first; see `views`, also for the
    error. network: the shorter side of the network's input in pixels."""
    sides = list(_sides(photo, network)) if tile is None else [min(tile, *photo)]
    count = sum(math.prod(len(_starts(length, side)) for length in photo) for side in sides)
    if count > MOST:
        raise UnsupportedError(
            f"a photo of {photo[1]} x {photo[0]} pixels has {count:,} tiles of {sides[-1]} pixels, "
            f"more than {MOST:,}; take larger ones (tiles=PIXELS, --tile-size)"
        )
    return sides


def _sides(photo: Size, network: int) -> Iterator[int]:
    """The default sides of tiles, from the largest."""
    side = min(photo)
    if max(photo) > LONGER * side:
        yield side
        if side <= CLOSE * network:
            return
    while side // 2 >= network:
        side //= 2
        yield side
        if side <= CLOSE * network:
            return


def corners(photo: Size, side: int) -> list[Box]:
    """The boxes of tiles with that side, half a side apart."""
    tops, lefts = (_starts(length, side) for length in photo)
    return [(left, top, left + side, top + side) for top in tops for left in lefts]


def _starts(length: int, side: int) -> list[int]:
    """Where tiles with that side begin along one side of a photo."""
    step = max(side // 2, 1)
    return [min(i * step, length - side) for i in range(math.ceil((length - side) / step) + 1)]
