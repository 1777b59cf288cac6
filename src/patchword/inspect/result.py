"""The result of inspecting one photo."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from patchword.images.preprocess import Geometry
from patchword.inspect.boxes import Box, boxes_around
from patchword.options import checked
from patchword.scope import UNLIKE
from patchword.show import plots
from patchword.show.colours import ends_of
from patchword.show.plain_number import plain
from patchword.show.result import Pictured

FRAME = (0, 190, 255)  # colour of boxes, RGB


@dataclass(frozen=True, eq=False, repr=False)
class Inspection(Pictured):
    """A photo compared with good ones.

    score     larger is worse
    p_value   a good photo has p_value <= p with probability p at most; None if no good photos were
              held out
    rejected  True if the score is above `limit`; None if there is no limit
    edge      good photos have no values of the map above it
    grid      (h, w) float32, a value for each place
    scale     the ends of the logarithmic colour scale that all maps share; None: each map has its
              own scale
    outside   True if the photo is unlike the model's training images; only of a model that knows
              them
    known     True if it is one of the good photos, pixel for pixel: its score says nothing new
    """

    path: str
    photo: NDArray[np.uint8]  # (H, W, 3), at most 1024 pixels long
    score: float
    p_value: float | None
    rejected: bool | None
    limit: float
    edge: float
    grid: NDArray[np.float32]
    geometry: Geometry
    scale: tuple[float, float] | None = None
    group: str = ""
    outside: bool = False
    known: bool = False

    @cached_property
    def values(self) -> NDArray[np.float32]:
        """The map (H, W) in the photo's own pixels, bilinear between places."""
        return self.geometry.to_source(self.grid)

    @property
    def map(self) -> NDArray[np.float32]:
        """The same as `values`."""
        return self.values

    @cached_property
    def boxes(self) -> tuple[Box, ...]:
        """Of a rejected photo the boxes (x1, y1, x2, y2), in pixels, roughly around the places with
        values above `edge`, the highest first."""
        return boxes_around(self.grid, self.geometry, self.edge) if self.rejected else ()

    @property
    def verdict(self) -> str:
        """ "good", "rejected" or "no verdict"."""
        return in_words(self.rejected)

    def record(self) -> dict[str, Any]:
        """As JSON."""
        record = {
            "path": self.path,
            "score": self.score,
            "p_value": self.p_value,
            "rejected": self.rejected,
            "boxes": [list(box) for box in self.boxes],
        }
        if self.outside:
            record["outside"] = True
        if self.known:
            record["known"] = True
        return record

    @checked
    def picture(self, title: str = "") -> Image.Image:
        """The photo, and beside it the photo under its map and boxes."""
        words = f"{in_words(self.rejected, self.outside)}, score {plain(self.score)}"
        if self.p_value is not None:
            words += f", p {self.p_value:.3g}"
        photo = plots.shown(self.photo)
        notes = [] if self.scale else ["own scale"]
        if self.outside:
            notes.append(UNLIKE)
        overlay = np.asarray(self.overlay(plots.TILE))
        tiles = [plots.Tile(photo, self.path), plots.Tile(overlay, words, " · ".join(notes))]
        return plots.panel(tiles, title)

    def overlay(self, side: int) -> Image.Image:
        """The photo at most `side` pixels long, under its map and boxes."""
        photo = plots.fit(self.photo, side)
        size = photo.height, photo.width
        values = replace(self.geometry, source=size).to_source(self.grid)
        if self.scale:
            low, high = self.scale
            values, scale = np.log(np.maximum(values, low)), (math.log(low), math.log(high))
        else:
            scale = ends_of(values)
        picture = plots.overlay(np.asarray(photo), values, scale)
        draw = ImageDraw.Draw(picture)
        height, width = self.geometry.source
        for x1, y1, x2, y2 in self.boxes:
            corners = (
                max(x1 * size[1] // width - 2, 0),
                max(y1 * size[0] // height - 2, 0),
                min(-(-x2 * size[1] // width) + 1, size[1] - 1),
                min(-(-y2 * size[0] // height) + 1, size[0] - 1),
            )
            draw.rectangle(corners, outline=(0, 0, 0), width=4)
            draw.rectangle(corners, outline=FRAME, width=2)
        return picture


def in_words(rejected: bool | None, outside: bool = False) -> str:
    """A verdict in words. outside: the photo is unlike the model's training images, so that "good"
    would say too much of one that is not rejected."""
    if rejected is None:
        return "no verdict"
    if rejected:
        return "rejected"
    return "not rejected" if outside else "good"
