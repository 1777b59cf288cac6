"""A photo as views: the whole of it, and overlapping tiles in which small things are larger."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchword.errors import UnsupportedError

Size = tuple[int, int]  # (height, width), in pixels
Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels of the photo

CLOSE = 8.0  # pixels of a photo for one of the network's: tiles are seen no smaller
MOST = 2000  # tiles of a photo
LONGER = 1.1  # a photo that is so much longer than wide is looked at in squares of its shorter side


@dataclass(frozen=True, eq=False)
class View:
    """A part of a photo: its box, and its pixels (h, w, 3)."""

    box: Box
    pixels: NDArray[np.uint8]


def views(photo: NDArray[np.uint8], size: Size, tile: int | None = None) -> list[View]:
    """The whole photo (H, W, 3), then its tiles, squares that overlap by half, row by row; the last
    ones lie at the border.

    size  (h, w) of what the network is given
    tile  pixels of the photo a side; None: its shorter side where it is much longer than wide,
          then half of it, a quarter, ..., down to tiles that are seen at 1:8 or larger

    Raises UnsupportedError for tiles that are more than 2,000.
    """
    height, width = photo.shape[:2]
    sides = tile_sides((height, width), min(size), tile)
    boxes = [box for side in sides for box in corners((height, width), side)]
    found = [View((0, 0, width, height), photo)]
    for left, top, right, bottom in boxes:
        found.append(View((left, top, right, bottom), photo[top:bottom, left:right]))
    return found


def tile_sides(photo: Size, network: int, tile: int | None = None) -> list[int]:
    """The sides of a photo's tiles in its pixels, the largest first, see `views`, and its error;
    network: pixels of what the network is given."""
    sides = list(_sides(photo, network)) if tile is None else [min(tile, *photo)]
    count = sum(math.prod(len(_starts(length, side)) for length in photo) for side in sides)
    if count > MOST:
        raise UnsupportedError(
            f"a photo of {photo[1]} x {photo[0]} pixels has {count:,} tiles of {sides[-1]} pixels, "
            f"more than {MOST:,}; take larger ones (tiles=PIXELS, --tile-size)"
        )
    return sides


def _sides(photo: Size, network: int) -> Iterator[int]:
    """Of the tiles, from the largest."""
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
    """Squares of that side over a photo, half of it apart."""
    tops, lefts = (_starts(length, side) for length in photo)
    return [(left, top, left + side, top + side) for top in tops for left in lefts]


def _starts(length: int, side: int) -> list[int]:
    """Where squares of that side begin along a photo's side."""
    step = max(side // 2, 1)
    return [min(i * step, length - side) for i in range(math.ceil((length - side) / step) + 1)]
