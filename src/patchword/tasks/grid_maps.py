"""Maps of a photo, kept as a grid until their pixels are asked for."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from patchword.errors import UnsupportedError
from patchword.images.decode import MAX_PIXELS
from patchword.images.preprocess import Geometry
from patchword.options import checked
from patchword.show import plots
from patchword.show.peak import peak
from patchword.show.result import Pictured


class GridMaps(Pictured):
    """Maps of a photo.

    image  (H, W, 3) uint8
    grid   (..., h, w) float32
    cell   pixels of the network's input a side of what a value is of; None: all of it
    """

    image: NDArray[np.uint8]
    grid: NDArray[np.float32]
    geometry: Geometry
    cell: int | None

    @cached_property
    def values(self) -> NDArray[np.float32]:
        """(..., H, W) float32 in the image's own pixels, bilinear between the grid's; NaN where the
        network does not see them."""
        return self.geometry.to_source(self.grid, self.cell)

    @property
    def maps(self) -> NDArray[np.float32]:
        """The same as `values`."""
        return self.values

    @checked
    def at(self, height: int, width: int) -> NDArray[np.float32]:
        """The maps of a photo of that many pixels, (..., height, width). Raises UnsupportedError
        for more than 300 million."""
        if height * width > MAX_PIXELS:
            raise UnsupportedError(
                f"a map of {height:,} x {width:,} pixels; the most is {MAX_PIXELS:,}"
            )
        return replace(self.geometry, source=(height, width)).to_source(self.grid, self.cell)

    def small(self) -> Self:
        """This result with its photo no larger than it is drawn, which takes less memory."""
        return replace(self, image=plots.shown(self.image))  # type: ignore[type-var]

    @cached_property
    def _drawn(self) -> tuple[plots.Photo, NDArray[np.float32]]:
        """The photo (h, w, 3) and the maps (..., h, w), no larger than they are drawn."""
        photo = plots.shown(self.image)
        return photo, self.at(photo.shape[0], photo.shape[1])

    def peaks(self) -> list[tuple[float, int, int]]:
        """For each map, row by row of the first axes, the largest value as it is drawn, and x and y
        in the photo of the ring there, the middle of the peak (see `show.peak`)."""
        photo, maps = self._drawn
        (height, width), (rows, columns) = self.image.shape[:2], photo.shape[:2]
        found = [peak(values) for values in maps.reshape(-1, rows, columns)]
        return [
            (value, int((x + 0.5) * width / columns), int((y + 0.5) * height / rows))
            for value, x, y in found
        ]
