"""Regions: the connected parts of a text's map that belong to the text."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from patchword.bundle import Vector

HALF = 0.5  # of the way from a map's median to its peak: values above it belong to the text
LEAST = 0.1  # of the area of a text's largest part: smaller parts are left out
LINE = 6.0  # length^2 / area from which a part is a line
FAINT = 0.05  # cosine below the background's map up to which a line is continued at its ends

Mask = NDArray[np.bool_]
Part = tuple[tuple[slice, slice], Mask]  # rows and columns of its box, and which pixels of that


def parts(values: Vector, grid: Vector, background: Vector | None = None) -> list[Part]:
    """The parts of a text's map `values` (H, W), connected by sides or corners, the largest first.

    With the map (H, W) of the background a part is where the text's map is above it, and lines are
    continued at their ends where it is nearly so. Without one a part is above the middle between
    the median and the maximum of the text's grid (h, w), from which `values` were interpolated.
    """
    if background is None:
        low, high = float(np.median(grid)), float(grid.max())
        threshold = low + HALF * (high - low) if high > low else high
        return _connected_parts(values > threshold)
    above = values > background
    connected = _connected_parts(above)
    lines = [part for part in connected if _length(part) ** 2 > LINE * part[1].sum()]
    for line in lines:
        box, mask = _continued(line, values, background)
        above[box] |= mask
    return _connected_parts(above) if lines else connected


def _connected_parts(above: Mask) -> list[Part]:
    """The connected parts of a mask, the largest first, without those smaller than `LEAST`."""
    from scipy.ndimage import find_objects, label  # type: ignore[import-untyped]

    numbers, _ = label(above, np.ones((3, 3)))
    connected: list[Part] = [
        (box, numbers[box] == number) for number, box in enumerate(find_objects(numbers), start=1)
    ]
    connected.sort(key=lambda part: -int(part[1].sum()))
    return [part for part in connected if part[1].sum() >= LEAST * connected[0][1].sum()]


def _length(part: Part) -> float:
    """The diagonal of a part's box."""
    return math.hypot(*part[1].shape)


def _continued(line: Part, values: Vector, background: Vector) -> Part:
    """A line with its continuation: the pixels beyond its ends, along its main direction, that are
    at most `FAINT` below the background and connected to it."""
    from scipy.ndimage import label

    box, mask = line
    margin, width = math.ceil(_length(line) / 2), mask.sum() / _length(line)
    first_row, first_column = (max(side.start - margin, 0) for side in box)
    around = (
        slice(first_row, box[0].stop + margin),
        slice(first_column, box[1].stop + margin),
    )
    near = values[around] > background[around] - FAINT
    inside = np.zeros_like(near)
    top, left = box[0].start - first_row, box[1].start - first_column
    inside[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    pixels = np.argwhere(inside)
    direction = np.linalg.eigh(np.cov(pixels.T))[1][:, -1]  # of the largest variance
    rows, columns = (np.arange(side, dtype=np.float32) for side in near.shape)
    position = rows[:, None] * np.float32(direction[0]) + columns * np.float32(direction[1])
    ends = pixels @ direction
    near &= (position < ends.min() + width) | (position > ends.max() - width)
    numbers, _ = label(near | inside, np.ones((3, 3)))
    return around, numbers == numbers[tuple(pixels[0])]


def extent(values: Vector, grid: Vector, background: Vector | None = None) -> Mask:
    """The union of all `parts`, (H, W)."""
    union = np.zeros(values.shape, np.bool_)
    for box, mask in parts(values, grid, background):
        union[box] |= mask
    return union
