"""How far a text reaches in its map: which pixels belong to it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from patchword.bundle import Vector

HALF = 0.5  # of the way from a map's median up to its peak, above which a part is
LEAST = 0.1  # of the largest part of a text: smaller ones are left out

Mask = NDArray[np.bool_]
Part = tuple[tuple[slice, slice], Mask]  # rows and columns of its box, and which pixels of that


def parts(values: Vector, grid: Vector, background: Vector | None = None) -> list[Part]:
    """The parts of a text's map (H, W), connected by sides or corners, the largest first.

    A part is above the map (H, W) of the background; without one it is above half of the way from
    the median up to the peak of the text's grid (h, w), of which `values` are the pixels.
    """
    from scipy.ndimage import find_objects, label  # type: ignore[import-untyped]

    if background is None:
        low, high = float(np.median(grid)), float(grid.max())
        above = values > low + HALF * (high - low) if high > low else np.zeros(values.shape)
    else:
        above = values > background
    numbers, _ = label(above, np.ones((3, 3)))
    found: list[Part] = [
        (box, numbers[box] == number) for number, box in enumerate(find_objects(numbers), start=1)
    ]
    found.sort(key=lambda part: -int(part[1].sum()))
    return [part for part in found if part[1].sum() >= LEAST * found[0][1].sum()]


def extent(values: Vector, grid: Vector, background: Vector | None = None) -> Mask:
    """All `parts` together, (H, W)."""
    out = np.zeros(values.shape, np.bool_)
    for box, mask in parts(values, grid, background):
        out[box] |= mask
    return out
