"""A photo seen whole: at once where the network takes its shape, else in windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from patchword.bundle import Bundle, Vector
from patchword.config import PreprocessConfig
from patchword.errors import UnsupportedError, warn
from patchword.images.preprocess import Geometry, Preprocess, at_size, resize

Size = tuple[int, int]
Mapper = Callable[[Tensor], Tensor]  # pixels (B, 3, H, W) -> maps (B, T, h, w)
Crop = Callable[[int, int], Tensor]  # (top, left) -> pixels (3, H, W) of a window
Progress = Callable[[int, int], None]  # done, total

BATCH = 8  # windows at once
MOST = 20_000  # windows
FAR = 4  # times the side that a network was trained at: no paper looks at windows as large
CANVAS = 1 << 25  # values of all maps of a photo together: 128 MiB


@dataclass(frozen=True)
class Scale:
    """At which scale a photo is seen, in pixels.

    window      side of a window, a multiple of the patch size; None: what the network was trained
                at, the photo resized so that its shorter side fits
    stride      from one window to the next; None: half of a given window, else a whole one
    short_side  the photo's shorter side is resized to, and to no less than a window; None: with a
                window it keeps its size
    even        as papers have it: every window counts alike where several overlap, and the last
                ones are moved inward; else they count less towards their borders, so that no seam
                is seen, and are spread evenly. None: as papers where a stride is given
    """

    window: int | None = None
    stride: int | None = None
    short_side: int | None = None
    even: bool | None = None

    @property
    def as_papers(self) -> bool:
        """What `even` says, or stands for."""
        return self.stride is not None if self.even is None else self.even


@dataclass(frozen=True)
class Grid:
    """Maps (T, h, w) of a photo; `cell` is the side of one, in pixels of `geometry.size`, None
    where they divide all of it."""

    values: Vector
    geometry: Geometry
    cell: int | None


def seen_whole(
    model: Bundle,
    photo: NDArray[np.uint8],
    run: Mapper,
    scale: Scale,
    progress: Progress | None = None,
    side: int | None = None,
) -> Grid:
    """The maps of a whole photo: in one pass where its shape and the preprocessing allow it, else
    in windows, overlaps averaged. side: of a window in pixels, where
    the mapper was trained at another size than the network. Raises UnsupportedError for a scale
    that cannot be."""
    config, tower = model.preprocess.config, model.image_tower
    if side is not None:
        config = at_size(config, side)
    sizes = (scale.window, scale.stride, scale.short_side)
    height, width = photo.shape[:2]
    crops = config.resize == "cover" or (config.resize == "shortest" and height != width)
    if all(size is None for size in sizes) and not crops:
        kept = config.resize in ("patches", "contain")
        whole = config if kept else replace(config, resize="squash")
        pixels, geometry = Preprocess(whole)(photo)
        maps = run(model.tensor(pixels)[None])[0].float().cpu().numpy()
        patch = tower.attention_layers and side is None
        cell = model.config.image_tower.patch_size if patch else None
        return Grid(maps, geometry, cell)
    window, stride, short = _sizes(model, config, scale, min(height, width), side is None)
    factor = short / min(height, width)
    resized = max(window[0], round(height * factor)), max(window[1], round(width * factor))
    step = Preprocess(replace(config, resize="squash", size=window))
    starts = _starts(resized, window, stride, scale.as_papers)
    whole_photo = resize(photo, resized, config)

    def crop(top: int, left: int) -> Tensor:
        part = whole_photo[top : top + window[0], left : left + window[1]]
        return model.tensor(step(np.ascontiguousarray(part))[0])

    values, cell = stitched(crop, run, resized, window, starts, progress, scale.as_papers)
    return Grid(values.numpy(), Geometry((height, width), resized, (0, 0), resized), cell)


def stitched(
    crop: Crop,
    run: Mapper,
    size: Size,
    window: Size,
    starts: Sequence[tuple[int, int]],
    progress: Progress | None = None,
    even: bool = True,
) -> tuple[Tensor, int]:
    """Maps (T, H / cell, W / cell) of a photo of `size`, each window's enlarged bilinearly, and
    the mean where windows overlap, unless `even` weighed by the distances to their borders; `cell`
    is 1 pixel where memory allows, else more."""
    total = torch.zeros(0)
    cell = 1
    for first in range(0, len(starts), BATCH):
        some = starts[first : first + BATCH]
        maps = run(torch.stack([crop(*start) for start in some])).float().cpu()
        if not first:
            cell = _cell(size, window, maps.shape[1])
            rows, columns = (-(-side // cell) for side in size)
            total = maps.new_zeros(maps.shape[1], rows, columns)
            count = maps.new_zeros(rows, columns)
        high, wide = window[0] // cell, window[1] // cell
        maps = F.interpolate(maps, (high, wide), mode="bilinear", align_corners=False)
        weight = maps.new_ones(high, wide) if even else _tent(high)[:, None] * _tent(wide)
        for start, own in zip(some, maps, strict=True):
            top = min(start[0] // cell, rows - high)
            left = min(start[1] // cell, columns - wide)
            total[:, top : top + high, left : left + wide] += own * weight
            count[top : top + high, left : left + wide] += weight
        if progress:
            progress(min(first + BATCH, len(starts)), len(starts))
    return total.div_(count), cell


def _tent(side: int) -> Tensor:
    """Weights (side,) that fall from the middle to both ends, where they are not yet 0."""
    place = torch.arange(side, dtype=torch.float32, device="cpu") + 0.5
    return torch.minimum(place, side - place)


def _sizes(
    model: Bundle, config: PreprocessConfig, scale: Scale, shorter: int, patches: bool
) -> tuple[Size, int, int]:
    """Window (H, W), stride and shorter side, in pixels. patches: whether maps are of patches."""
    patch = model.config.image_tower.patch_size
    for name in ("window", "stride", "short_side"):
        value = getattr(scale, name)
        if value is not None and (isinstance(value, bool) or value < 1):
            raise UnsupportedError(f"{name} is {value!r}; it is a number of pixels, 1 or more")
    window = config.size if scale.window is None else (scale.window, scale.window)
    if patches and scale.window is None:  # its patches may leave some of its pixels out
        window = max(window[0] // patch, 1) * patch, max(window[1] // patch, 1) * patch
    if scale.window is not None and scale.window % patch:
        near = max(round(scale.window / patch), 1) * patch
        raise UnsupportedError(f"window {scale.window}: patches are {patch} px; take {near}")
    if min(window) > FAR * min(config.size):
        warn(
            f"windows of {min(window)} px: {model.name} was trained at {min(config.size)} px, and "
            f"maps at {min(window) / min(config.size):.0f} times that say little and take long; "
            f"take {FAR * min(config.size) // patch * patch} or less"
        )
    usual = min(window) if scale.window is None else max(scale.window // 2, 1)
    short = shorter if scale.window is not None else min(window)
    short = max(scale.short_side or short, min(window))
    stride = scale.stride or usual
    if stride > min(window):
        raise UnsupportedError(f"stride {stride} leaves gaps between windows of {min(window)} px")
    return window, stride, short


def _starts(size: Size, window: Size, stride: int, even: bool = True) -> list[tuple[int, int]]:
    """Top left corners of windows, row by row, `stride` apart but for the last ones, which lie at
    the border; unless `even` spread over all of it, at most `stride` apart."""
    counts = [max(math.ceil((s - w) / stride), 0) + 1 for s, w in zip(size, window, strict=True)]
    if counts[0] * counts[1] > MOST:
        raise UnsupportedError(
            f"a photo of {size[1]} x {size[0]} px takes {counts[0] * counts[1]:,} windows, more "
            f"than {MOST:,}; take a smaller short_side or a larger stride"
        )
    rows, columns = (
        [min(i * stride, s - w) if even else i * (s - w) // max(n - 1, 1) for i in range(n)]
        for n, s, w in zip(counts, size, window, strict=True)
    )
    return [(top, left) for top in rows for left in columns]


def _cell(size: Size, window: Size, maps: int) -> int:
    """The smallest divisor of the window's sides at which the maps fit the canvas."""
    both = math.gcd(*window)
    cells = [n for n in range(1, both + 1) if both % n == 0]
    fits = (n for n in cells if maps * -(-size[0] // n) * -(-size[1] // n) <= CANVAS)
    return next(fits, cells[-1])
