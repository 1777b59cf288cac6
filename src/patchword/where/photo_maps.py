"""The maps of a whole photo: in one pass or in windows, optionally in tiles, optionally refined by
the photo's edges."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from patchword.bundle import Bundle, Vector
from patchword.errors import UnsupportedError
from patchword.finite import check_image
from patchword.images import ImageLike
from patchword.images.preprocess import Geometry
from patchword.images.views import tile_sides
from patchword.nn.inference_mode import evaluation, without_autocast
from patchword.show import plots
from patchword.tasks.out_of_scope import judged
from patchword.tasks.tiled import tile_size
from patchword.visible_area import Sight, noted
from patchword.where.pamr import pamr
from patchword.where.windows import Grid, Mapper, Progress, Scale, seen_whole

HEAD = "head"  # the method of a model's head for maps, trained with masks
REFINED = 1024  # pixels: the longer side at which maps are refined


def mapped(
    model: Bundle,
    image: ImageLike,
    photo: NDArray[np.uint8],
    run: Mapper,
    scale: Scale | None,
    refine: bool,
    progress: Progress | None,
    method: str,
    tiles: bool | int = False,
) -> Grid:
    """The maps of a whole photo (H, W, 3), opened from `image`. Warns of a photo that the model
    does not see well. tiles: False, or see `tiled`. Raises ImageError if a value is NaN or
    infinite."""
    side = None
    if method == HEAD and model.config.dense_head:
        side = model.config.dense_head.size
    scale = scale or Scale()
    if tiles is not False and (scale.window or scale.stride or scale.short_side):
        raise UnsupportedError(
            "tiles are windows by themselves: leave out window, stride and short_side, or tiles"
        )
    with without_autocast(model.device), evaluation(model.own_network):
        if tiles is False:
            maps = seen_whole(model, photo, run, scale, progress, side)
        else:
            maps = tiled(model, photo, run, tile_size(tiles), progress, side)
    check_image(image, maps.values, model.no_vector)
    judged(model, image, photo)
    with noted() as sights:
        sights.note(Sight.of(image, maps.geometry, photo))
    return refined(photo, maps) if refine else maps


def tiled(
    model: Bundle,
    photo: NDArray[np.uint8],
    run: Mapper,
    tile: int | None = None,
    progress: Progress | None = None,
    side: int | None = None,
) -> Grid:
    """The maps of a photo as a whole and in tiles that overlap by half. Tiles of one size are
    stitched; over all sizes the greatest value at each place counts. With a head for maps, whose
    last map is the background's, it is the greatest difference from the background.

    tile  side of a tile in pixels of the photo; None: as in `images.views`, down to tiles that are
          seen at 1:8 or larger
    side  of the head's input, see `windows.seen_whole`

    Raises UnsupportedError for more than 2,000 tiles.
    """
    height, width = photo.shape[:2]
    network = min(model.preprocess.config.size) if side is None else side
    grids = [seen_whole(model, photo, run, Scale(), None, side)]
    for tile_side in tile_sides((height, width), network, tile):
        short = max(round(min(height, width) * network / tile_side), network)
        scale = Scale(stride=max(network // 2, 1), short_side=short, even=False)
        grids.append(seen_whole(model, photo, run, scale, progress, side))
    if len(grids) == 1:
        return grids[0]
    size = grids[-1].values.shape[1], grids[-1].values.shape[2]  # of the smallest tiles
    best: Vector | None = None
    background: Vector | None = None  # of the whole photo
    for grid in grids:
        values = replace(grid.geometry, source=size).to_source(grid.values, grid.cell)
        if side is not None:
            background = values[-1] if background is None else background
            values = values[:-1] - values[-1]
        best = values if best is None else np.maximum(best, values, out=best)
    assert best is not None
    if background is not None:
        best = np.concatenate([best + background, background[None]])
    return Grid(best, Geometry((height, width), size, (0, 0), size), 1)


def refined(photo: NDArray[np.uint8], grid: Grid) -> Grid:
    """The maps refined by the photo's edges, see `pamr`."""
    small = plots.shown(photo, REFINED)
    size = (small.shape[0], small.shape[1])
    maps = replace(grid.geometry, source=size).to_source(grid.values, grid.cell)
    colours = torch.from_numpy(np.array(small)).movedim(-1, 0)[None].float()
    values = pamr(colours, torch.from_numpy(maps)[None])[0].numpy()
    return Grid(values, Geometry(grid.geometry.source, size, (0, 0), size), 1)
