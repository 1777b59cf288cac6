"""Places of a map that stand out, as boxes in the photo's pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from patchword.images.preprocess import Geometry
from patchword.inspect.scores import Grid

FINEST = 1024  # pixels: the longer side of the map in which places are told apart

Box = tuple[int, int, int, int]  # x1, y1, x2, y2; x2 and y2 lie outside


def around(grid: Grid, geometry: Geometry, edge: float) -> tuple[Box, ...]:
    """Around the connected places of a map (h, w) above `edge`, each cut at half of its own height
    above it, the one with the highest value first; where nothing is above it, the cell with the
    highest."""
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
    found = []
    for place in find_objects(parts):
        down, across = place
        found.append(
            (
                across.start * width // size[1],
                down.start * height // size[0],
                -(-across.stop * width // size[1]),
                -(-down.stop * height // size[0]),
            )
        )
    order = np.argsort(-np.asarray(maximum(values, parts, range(1, count + 1))), kind="stable")
    return tuple(found[number] for number in order)


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
