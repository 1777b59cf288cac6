"""Boxes, in a photo's pixels, around the places of a map with high values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from patchword.images.preprocess import Geometry
from patchword.inspect.scores import Grid

LONGER_SIDE = 1024  # pixels of the map in which places are searched
SMALLEST = 0.25  # of a cell's area: smaller boxes come from interpolation between cells
LOWEST = 0.1  # of the highest place's height above the edge: lower places are left out

Box = tuple[int, int, int, int]  # x1, y1, x2, y2; x2 and y2 lie outside


def boxes_around(grid: Grid, geometry: Geometry, edge: float) -> tuple[Box, ...]:
    """Boxes around the connected places of a map (h, w) above `edge`, highest first. Each place is
    cut at half of its height above the edge. The highest place always has a box; others are left
    out if smaller than `SMALLEST` or lower than `LOWEST`. Where no value is above the edge, the box
    is the cell with the highest value. A map has few cells, so that boxes are rough."""
    from scipy.ndimage import find_objects, label, maximum  # type: ignore[import-untyped]

    height, width = geometry.source
    share = min(1.0, LONGER_SIDE / max(height, width))
    size = max(round(height * share), 1), max(round(width * share), 1)
    values = replace(geometry, source=size).to_source(grid)
    parts, count = label(values > edge)
    if not count:
        return (_highest_cell(grid, height, width),)
    peaks = np.asarray(maximum(values, parts, range(count + 1)))
    parts, count = label((parts > 0) & (values >= (edge + peaks[parts]) / 2))
    heights = np.asarray(maximum(values, parts, range(1, count + 1))) - edge
    places = find_objects(parts)
    order = np.argsort(-heights, kind="stable")
    boxes = []
    for number in order:
        rows, columns = places[number]
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        small = area * grid.size < SMALLEST * values.size
        if number != order[0] and (small or heights[number] < LOWEST * heights[order[0]]):
            continue
        boxes.append(
            (
                columns.start * width // size[1],
                rows.start * height // size[0],
                -(-columns.stop * width // size[1]),  # rounded up
                -(-rows.stop * height // size[0]),
            )
        )
    return tuple(boxes)


def _highest_cell(grid: Grid, height: int, width: int) -> Box:
    rows, columns = grid.shape
    row, column = divmod(int(grid.argmax()), columns)
    return (
        column * width // columns,
        row * height // rows,
        -(-(column + 1) * width // columns),
        -(-(row + 1) * height // rows),
    )
