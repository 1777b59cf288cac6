"""Places of a map that stand out, as boxes in the photo's pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from patchword.images.preprocess import Geometry
from patchword.inspect.scores import Grid

FINEST = 1024  # pixels: the longer side of the map in which places are told apart
SMALLEST = 0.25  # of a cell's area: a box that is smaller is no more than the map's own slope
LOWEST = 0.1  # of the highest place's height above the edge: what is lower is hardly above it

Box = tuple[int, int, int, int]  # x1, y1, x2, y2; x2 and y2 lie outside


def around(grid: Grid, geometry: Geometry, edge: float) -> tuple[Box, ...]:
    """Around the connected places of a map (h, w) above `edge`, each cut at half of its own height
    above it, the one with the highest value first; where nothing is above it, the cell with the
    highest. But for the first, boxes smaller than SMALLEST of a cell and those of places lower than
    LOWEST are left out. A box says roughly where: a map has few cells."""
    from scipy.ndimage import find_objects, label, maximum  # type: ignore[import-untyped]

    height, width = geometry.source
    share = min(1.0, FINEST / max(height, width))
    size = max(round(height * share), 1), max(round(width * share), 1)
    values = replace(geometry, source=size).to_source(grid)
    parts, count = label(values > edge)
    if not count:
        return (_cell(grid, height, width),)
    peaks = np.asarray(maximum(values, parts, range(count + 1)))
    parts, count = label((parts > 0) & (values >= (edge + peaks[parts]) / 2))
    heights = np.asarray(maximum(values, parts, range(1, count + 1))) - edge
    found, large = [], []
    for place in find_objects(parts):
        down, across = place
        area = (down.stop - down.start) * (across.stop - across.start)
        large.append(area * grid.size >= SMALLEST * values.size)
        found.append(
            (
                across.start * width // size[1],
                down.start * height // size[0],
                -(-across.stop * width // size[1]),
                -(-down.stop * height // size[0]),
            )
        )
    first, *others = np.argsort(-heights, kind="stable")
    clear = heights >= LOWEST * heights[first]
    return tuple(found[n] for n in (first, *others) if n == first or (large[n] and clear[n]))


def _cell(grid: Grid, height: int, width: int) -> Box:
    """The cell with the highest value."""
    rows, columns = grid.shape
    row, column = divmod(int(grid.argmax()), columns)
    return (
        column * width // columns,
        row * height // rows,
        -(-(column + 1) * width // columns),
        -(-(row + 1) * height // rows),
    )
