"""The maps of a whole photo: at once or in windows, in tiles where asked, refined where asked."""

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

HEAD = "head"  # a model's own for maps, trained with masks
REFINED = 1024  # pixels: longer side at which maps are refined


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
    """The maps of a whole photo, the pixels of an image; how it was seen is noted. tiles: see
    `tiled`. Raises ImageError where a number of them is none."""
    head = model.config.dense_head if method == HEAD else None
    side = None if head is None else head.size
    scale = scale or Scale()
    if tiles is not False and (scale.window or scale.stride or scale.short_side):
        raise UnsupportedError(
            "tiles are windows by themselves: leave out window, stride and short_side, or tiles"
        )
    with without_autocast(model.device), evaluation(model.own_network):
        if tiles is False:
            found = seen_whole(model, photo, run, scale, progress, side)
        else:
            found = tiled(model, photo, run, tile_size(tiles), progress, side)
    check_image(image, found.values, model.no_vector)
    judged(model, image, photo)
    with noted() as sights:
        sights.note(Sight.of(image, found.geometry, photo))
    return refined(photo, found) if refine else found


def tiled(
    model: Bundle,
    photo: NDArray[np.uint8],
    run: Mapper,
    tile: int | None = None,
    progress: Progress | None = None,
    side: int | None = None,
) -> Grid:
    """The maps of a photo as a whole and in tiles that overlap by half, those of one size joined as
    windows are; of all sizes at each place the greatest value, of a head for maps, whose last map
    is the background's, that which is the farthest above it.

    tile  pixels of the photo a side; None: as `images.views` has them, down to tiles that are seen
          at 1:8 or larger
    side  of the network's input, see `windows.seen_whole`

    Raises UnsupportedError for more than 2,000 tiles.
    """
    height, width = photo.shape[:2]
    network = min(model.preprocess.config.size) if side is None else side
    sides = tile_sides((height, width), network, tile)
    found = [seen_whole(model, photo, run, Scale(), None, side)]
    for each in sides:
        short = max(round(min(height, width) * network / each), network)
        scale = Scale(stride=max(network // 2, 1), short_side=short, even=False)
        found.append(seen_whole(model, photo, run, scale, progress, side))
    if len(found) == 1:
        return found[0]
    size = found[-1].values.shape[1], found[-1].values.shape[2]  # of the finest
    best: Vector | None = None
    ground: Vector | None = None
    for grid in found:
        values = replace(grid.geometry, source=size).to_source(grid.values, grid.cell)
        if side is not None:
            ground = values[-1] if ground is None else ground
            values = values[:-1] - values[-1]
        best = values if best is None else np.maximum(best, values, out=best)
    assert best is not None
    if ground is not None:
        best = np.concatenate([best + ground, ground[None]])
    return Grid(best, Geometry((height, width), size, (0, 0), size), 1)


def refined(photo: NDArray[np.uint8], found: Grid) -> Grid:
    """Maps refined by the photo's pixels."""
    small = plots.shown(photo, REFINED)
    size = (small.shape[0], small.shape[1])
    maps = replace(found.geometry, source=size).to_source(found.values, found.cell)
    colours = torch.from_numpy(np.array(small)).movedim(-1, 0)[None].float()
    values = pamr(colours, torch.from_numpy(maps)[None])[0].numpy()
    return Grid(values, Geometry(found.geometry.source, size, (0, 0), size), 1)
