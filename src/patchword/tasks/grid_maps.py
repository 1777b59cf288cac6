"""Maps of a photo, stored as a grid and interpolated to pixels on demand."""

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
    cell   side of a value's cell in pixels of the network's input; None: cells divide it evenly
    """

    image: NDArray[np.uint8]
    grid: NDArray[np.float32]
    geometry: Geometry
    cell: int | None

    @cached_property
    def values(self) -> NDArray[np.float32]:
        """(..., H, W) float32 in the image's own pixels, interpolated bilinearly; NaN outside of
        the part that the network sees."""
        return self.geometry.to_source(self.grid, self.cell)

    @property
    def maps(self) -> NDArray[np.float32]:
        """The same as `values`."""
        return self.values

    @checked
    def at(self, height: int, width: int) -> NDArray[np.float32]:
        """The maps at another size, (..., height, width). Raises UnsupportedError for more than 300
        million pixels."""
        if height * width > MAX_PIXELS:
            raise UnsupportedError(
                f"a map of {height:,} x {width:,} pixels; the most is {MAX_PIXELS:,}"
            )
        return replace(self.geometry, source=(height, width)).to_source(self.grid, self.cell)

    def small(self) -> Self:
        """A copy with the photo reduced to the size at which it is drawn, to save memory."""
        return replace(self, image=plots.shown(self.image))  # type: ignore[type-var]

    @cached_property
    def _drawn(self) -> tuple[plots.Photo, NDArray[np.float32]]:
        """The photo (h, w, 3) and the maps (..., h, w) at the size at which they are drawn."""
        photo = plots.shown(self.image)
        return photo, self.at(photo.shape[0], photo.shape[1])

    def peaks(self) -> list[tuple[float, int, int]]:
        """For each map, in the order of the first axes, its largest value as it is drawn, and x and
        y of that peak in the photo, where a ring is drawn (see `show.peak`)."""
        photo, maps = self._drawn
        (height, width), (rows, columns) = self.image.shape[:2], photo.shape[:2]
        drawn_peaks = map(peak, maps.reshape(-1, rows, columns))
        return [
            (value, int((x + 0.5) * width / columns), int((y + 0.5) * height / rows))
            for value, x, y in drawn_peaks
        ]
