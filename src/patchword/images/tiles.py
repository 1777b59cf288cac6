"""AnyRes: divides photos into a thumbnail and a grid of tiles, each of the size of a tower's input.

The method of LLaVA-NeXT (Liu et al. 2024, "LLaVA-NeXT: Improved reasoning, OCR, and world
knowledge", section "Dynamic high resolution"), computed as in transformers'
LlavaNextImageProcessorPil. The photo is resized with its aspect ratio into one of several canvases,
the one that keeps most of its pixels. The rest of the canvas is black, and the canvas is cut into
tiles. Sizes are (height, width), in pixels or patches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchword.config import PreprocessConfig
from patchword.errors import UnsupportedError
from patchword.images.preprocess import Preprocess

Size = tuple[int, int]

# LLaVA-NeXT's canvases, in tiles (rows, columns). For its tower of 336 pixels they make
# "image_grid_pinpoints" [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]].
GRIDS: tuple[Size, ...] = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))


@dataclass(frozen=True)
class Tiling:
    """The placement of a photo of `source` pixels on a `canvas` that is cut into tiles of `tile`
    pixels."""

    source: Size
    canvas: Size
    tile: Size

    @property
    def grid(self) -> Size:
        """Tiles (rows, columns)."""
        return self.canvas[0] // self.tile[0], self.canvas[1] // self.tile[1]

    @property
    def resized(self) -> Size:
        """The photo's size on the canvas, with its aspect ratio up to one pixel."""
        (height, width), (canvas_h, canvas_w) = self.source, self.canvas
        across, down = canvas_w / width, canvas_h / height
        if across < down:
            return min(math.ceil(height * across), canvas_h), canvas_w
        return canvas_h, min(math.ceil(width * down), canvas_w)

    @property
    def corner(self) -> Size:
        """The position of the photo's top left corner on the canvas."""
        (height, width), (canvas_h, canvas_w) = self.resized, self.canvas
        return (canvas_h - height) // 2, (canvas_w - width) // 2

    def merge(self, features: NDArray[Any], patches: Size) -> NDArray[Any]:
        """Features (rows, columns, h * w, D) of the h x w `patches` of each tile -> features
        (rows * h, columns * w, D) of the canvas."""
        (rows, columns), (height, width) = self.grid, patches
        cells = features.reshape(rows, columns, height, width, -1).swapaxes(1, 2)
        return cells.reshape(rows * height, columns * width, -1)

    def unpad(self, features: NDArray[Any]) -> NDArray[Any]:
        """Features (H, W, ...) of the canvas -> a view of the part that shows the photo."""
        top, bottom, left, right = self.shown((features.shape[0], features.shape[1]))
        return features[top:bottom, left:right]

    def shown(self, cells: Size) -> tuple[int, int, int, int]:
        """(top, bottom, left, right): which rows and columns of a canvas of `cells` show the photo.

        As `unpad_image` of transformers' modeling_llava_next.py: half of the rest, rounded down, is
        at each side.
        """
        (height, width), (rows, columns) = self.source, cells
        if width / height > columns / rows:
            spare = (rows - int(round(height * (columns / width), 7))) // 2
            return spare, rows - spare, 0, columns
        spare = (columns - int(round(width * (rows / height), 7))) // 2
        return 0, rows, spare, columns - spare

    def tokens(self, patches: Size, newline: bool = True) -> int:
        """How many tokens a language model gets: those of the thumbnail, those of the tiles where
        they show the photo, and, with `newline`, one after each row of the tiles' tokens.

        patches: of one tile, and of the thumbnail. As `_get_number_of_features` of transformers'
        processing_llava_next.py without the class token.
        """
        rows, columns = self.grid
        top, bottom, left, right = self.shown((rows * patches[0], columns * patches[1]))
        return patches[0] * patches[1] + (bottom - top) * (right - left + int(newline))


def pinpoints(tile: Size) -> list[Size]:
    """LLaVA-NeXT's canvases for tiles of that size."""
    return [(rows * tile[0], columns * tile[1]) for rows, columns in GRIDS]


def canvases(
    preprocess: Preprocess, candidates: Sequence[Sequence[int]] | None = None
) -> list[Size]:
    """The candidates as (height, width); for None, `pinpoints` of the preprocessing's size. Raises
    UnsupportedError for a candidate that is not two positive whole numbers."""
    if candidates is None:
        return pinpoints(preprocess.config.size)
    return [_canvas(candidate) for candidate in candidates]


def select_best_resolution(size: Size, candidates: Sequence[Sequence[int]]) -> Size:
    """The canvas on which a photo of `size` keeps most pixels; of equal ones the smallest, then the
    first (transformers' image_processing_utils.py).

    Raises UnsupportedError if there are no candidates, for a candidate that is not two positive
    whole numbers, and for a photo without pixels.
    """
    if not len(candidates):
        raise UnsupportedError("no canvases to choose from: the list of (height, width) is empty")
    height, width = size
    if min(size) < 1:
        raise UnsupportedError(f"the size of a photo is {size}; both must be 1 or more")

    def merit(canvas: Size) -> tuple[int, int]:
        scale = min(canvas[1] / width, canvas[0] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - canvas[0] * canvas[1]

    return max(map(_canvas, candidates), key=merit)


def tiling(
    size: Size, preprocess: Preprocess, candidates: Sequence[Sequence[int]] | None = None
) -> Tiling:
    """How a photo of `size` is cut for a tower with that preprocessing.

    candidates: canvases (height, width) to choose from; None: `pinpoints`. Raises UnsupportedError
    for none, for one that the tiles do not fill, and for preprocessing without one size.
    """
    config = preprocess.config
    if config.resize == "patches":
        raise UnsupportedError("a model that takes images in their own shapes needs no tiles")
    canvas = select_best_resolution(size, canvases(preprocess, candidates))
    if canvas[0] % config.size[0] or canvas[1] % config.size[1]:
        raise UnsupportedError(f"tiles of {config.size} pixels do not fill a canvas of {canvas}")
    return Tiling(size, canvas, config.size)


def cut(
    image: NDArray[np.uint8],
    preprocess: Preprocess,
    candidates: Sequence[Sequence[int]] | None = None,
) -> tuple[NDArray[np.float32], Tiling]:
    """RGB uint8 (H, W, 3) -> normalised inputs (1 + rows * columns, 3, S, S), the thumbnail before
    the tiles row by row; and their tiling.

    The thumbnail is the whole photo, squashed. Nothing is cropped, also if the preprocessing would
    crop. Raises ImageError, and the errors of `tiling`.
    """
    plan = tiling((image.shape[0], image.shape[1]), preprocess, candidates)
    config = preprocess.config
    canvas = np.empty((3, *plan.canvas), np.float32)
    canvas[:] = (-np.array(config.mean) / np.array(config.std))[:, None, None]  # black
    (top, left), (height, width) = plan.corner, plan.resized
    canvas[:, top : top + height, left : left + width] = _squash(image, config, plan.resized)
    parts = [_squash(image, config, config.size)]
    for row in np.split(canvas, plan.grid[0], axis=1):
        parts += np.split(row, plan.grid[1], axis=2)
    return np.stack(parts), plan


def _squash(image: NDArray[np.uint8], config: PreprocessConfig, size: Size) -> NDArray[np.float32]:
    """The whole image at `size`, normalised: (3, *size)."""
    return Preprocess(replace(config, resize="squash", size=size))(image)[0]


def _canvas(candidate: Sequence[int]) -> Size:
    """A canvas as (height, width)."""
    sides = tuple(candidate) if isinstance(candidate, Sequence) else ()
    if len(sides) != 2 or not all(
        isinstance(side, (int, np.integer)) and side > 0 for side in sides
    ):
        raise UnsupportedError(f"a canvas is (height, width) in whole pixels, not {candidate}")
    return int(sides[0]), int(sides[1])
