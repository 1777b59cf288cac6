"""How far a text reaches in its map: which pixels belong to it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from patchword.bundle import Vector

HALF = 0.5  # of the way from a map's median up to its peak, above which a part is
LEAST = 0.1  # of the largest part of a text: smaller ones are left out

LONG = 6.0  # of a part: its length, squared, over its area; from there on it is a line
FAINT = 0.05  # cosine below the background's map down to which a line goes on at its ends

Mask = NDArray[np.bool_]
Part = tuple[tuple[slice, slice], Mask]  # rows and columns of its box, and which pixels of that


def parts(values: Vector, grid: Vector, background: Vector | None = None) -> list[Part]:
    """The parts of a text's map (H, W), connected by sides or corners, the largest first.

    A part is above the map (H, W) of the background, and a line goes on at its ends where it is
    nearly so; without one it is above half of the way from the median up to the peak of the text's
    grid (h, w), of which `values` are the pixels.
    """
    if background is None:
        low, high = float(np.median(grid)), float(grid.max())
        return _parts(values > low + HALF * (high - low) if high > low else values > high)
    above = values > background
    found = _parts(above)
    lines = [part for part in found if _length(part) ** 2 > LONG * part[1].sum()]
    for part in lines:
        around, ends = _ends(part, values, background)
        above[around] |= ends
    return _parts(above) if lines else found


def _parts(above: Mask) -> list[Part]:
    """The connected parts of a mask, the largest first, without those that are too small."""
    from scipy.ndimage import find_objects, label  # type: ignore[import-untyped]

    numbers, _ = label(above, np.ones((3, 3)))
    found: list[Part] = [
        (box, numbers[box] == number) for number, box in enumerate(find_objects(numbers), start=1)
    ]
    found.sort(key=lambda part: -int(part[1].sum()))
    return [part for part in found if part[1].sum() >= LEAST * found[0][1].sum()]


def _length(part: Part) -> float:
    """From corner to corner of a part's box."""
    return math.hypot(*part[1].shape)


def _ends(part: Part, values: Vector, background: Vector) -> tuple[tuple[slice, slice], Mask]:
    """What lies beyond the ends of a line, along its main direction, is at most `FAINT` below the
    background and connected to it: around the part, and which pixels there."""
    from scipy.ndimage import label

    box, mask = part
    room, wide = math.ceil(_length(part) / 2), mask.sum() / _length(part)
    starts = [max(side.start - room, 0) for side in box]
    around = slice(starts[0], box[0].stop + room), slice(starts[1], box[1].stop + room)
    near = values[around] > background[around] - FAINT
    line = np.zeros_like(near)
    top, left = (side.start - start for side, start in zip(box, starts, strict=True))
    line[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    own = np.argwhere(line)
    along = np.linalg.eigh(np.cov(own.T))[1][:, -1]  # the direction in which it varies most
    rows, columns = (np.arange(side, dtype=np.float32) for side in near.shape)
    place = rows[:, None] * np.float32(along[0]) + columns * np.float32(along[1])
    reach = own @ along
    near &= (place < reach.min() + wide) | (place > reach.max() - wide)
    numbers, _ = label(near | line, np.ones((3, 3)))
    return around, numbers == numbers[tuple(own[0])]


def extent(values: Vector, grid: Vector, background: Vector | None = None) -> Mask:
    """All `parts` together, (H, W)."""
    out = np.zeros(values.shape, np.bool_)
    for box, mask in parts(values, grid, background):
        out[box] |= mask
    return out
