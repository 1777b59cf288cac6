"""Maps of a whole photo: in one pass if the network takes its shape, else in sliding windows."""

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

BATCH = 8  # windows in one pass of the network
MAX_WINDOWS = 20_000  # of a photo
MAX_FACTOR = 4  # of the side that the network was trained at: no paper uses windows as large
MAX_VALUES = 1 << 25  # of all maps of a photo together: 128 MiB


@dataclass(frozen=True)
class Scale:
    """The scale and the windows at which a photo is seen, in pixels.

    window      side of a window, a multiple of the patch size; None: the size that the network was
                trained at, with the photo resized so that its shorter side fits
    stride      distance between windows; None: half a window if `window` is given, else a whole
                window
    short_side  the photo's shorter side after resizing, at least a window; None: a photo keeps its
                size if `window` is given
    even        True: where windows overlap all count equally, and the last ones are moved inward,
                as in papers. False: windows count less towards their borders, which hides seams,
                and are spread evenly. None: True if `stride` is given
    """

    window: int | None = None
    stride: int | None = None
    short_side: int | None = None
    even: bool | None = None

    @property
    def as_papers(self) -> bool:
        """`even`, with None resolved."""
        return self.stride is not None if self.even is None else self.even


@dataclass(frozen=True)
class Grid:
    """Maps (T, h, w) of a photo. cell: the side of a value's cell in pixels of `geometry.size`;
    None: the cells divide all of it evenly."""

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
    """The maps of a whole photo: in one pass if its shape and the preprocessing allow it, else in
    windows whose overlaps are averaged. side: of a window in pixels, if the mapper was trained at
    another size than the network. Raises UnsupportedError for an impossible scale."""
    config, tower = model.preprocess.config, model.image_tower
    if side is not None:
        config = at_size(config, side)
    sizes = (scale.window, scale.stride, scale.short_side)
    height, width = photo.shape[:2]
    crops = config.resize == "cover" or (config.resize == "shortest" and height != width)
    if all(size is None for size in sizes) and not crops:
        if config.resize not in ("patches", "contain"):
            config = replace(config, resize="squash")
        pixels, geometry = Preprocess(config)(photo)
        maps = run(model.tensor(pixels)[None])[0].float().cpu().numpy()
        of_patches = tower.attention_layers and side is None
        cell = model.config.image_tower.patch_size if of_patches else None
        return Grid(maps, geometry, cell)
    window, stride, short = _sizes(model, config, scale, min(height, width), side is None)
    factor = short / min(height, width)
    resized = max(window[0], round(height * factor)), max(window[1], round(width * factor))
    normalise = Preprocess(replace(config, resize="squash", size=window))
    starts = _starts(resized, window, stride, scale.as_papers)
    whole_photo = resize(photo, resized, config)

    def crop(top: int, left: int) -> Tensor:
        part = whole_photo[top : top + window[0], left : left + window[1]]
        return model.tensor(normalise(np.ascontiguousarray(part))[0])

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
    """Maps (T, H / cell, W / cell) of a photo of `size`, and `cell`, which is 1 pixel if memory
    allows. The maps of windows are enlarged bilinearly and averaged where they overlap: equally if
    `even`, else weighted by the distance to the window's border."""
    total = torch.zeros(0)
    cell = 1
    for first in range(0, len(starts), BATCH):
        batch = starts[first : first + BATCH]
        maps = run(torch.stack([crop(*start) for start in batch])).float().cpu()
        if not first:
            cell = _cell(size, window, maps.shape[1])
            rows, columns = (-(-side // cell) for side in size)
            total = maps.new_zeros(maps.shape[1], rows, columns)
            count = maps.new_zeros(rows, columns)
        height, width = window[0] // cell, window[1] // cell
        maps = F.interpolate(maps, (height, width), mode="bilinear", align_corners=False)
        weight = maps.new_ones(height, width) if even else _tent(height)[:, None] * _tent(width)
        for start, window_maps in zip(batch, maps, strict=True):
            top = min(start[0] // cell, rows - height)
            left = min(start[1] // cell, columns - width)
            total[:, top : top + height, left : left + width] += window_maps * weight
            count[top : top + height, left : left + width] += weight
        if progress:
            progress(min(first + BATCH, len(starts)), len(starts))
    return total.div_(count), cell


def _tent(side: int) -> Tensor:
    """Weights (side,) that fall linearly from the middle to both ends, where they are above 0."""
    place = torch.arange(side, dtype=torch.float32, device="cpu") + 0.5
    return torch.minimum(place, side - place)


def _sizes(
    model: Bundle, config: PreprocessConfig, scale: Scale, shorter: int, of_patches: bool
) -> tuple[Size, int, int]:
    """Window (H, W), stride and shorter side, in pixels, for a photo whose shorter side is
    `shorter`. of_patches: True if maps have a value for each patch."""
    patch = model.config.image_tower.patch_size
    for name in ("window", "stride", "short_side"):
        value = getattr(scale, name)
        if value is not None and (isinstance(value, bool) or value < 1):
            raise UnsupportedError(f"{name} is {value!r}; it is a number of pixels, 1 or more")
    if scale.window is not None and scale.window % patch:
        near = max(round(scale.window / patch), 1) * patch
        raise UnsupportedError(f"window {scale.window}: patches are {patch} px; take {near}")
    if scale.window is not None:
        window = scale.window, scale.window
        default_stride, default_short = max(scale.window // 2, 1), shorter
    else:
        window = config.size
        if of_patches:  # the size may be no multiple of the patch size
            window = max(window[0] // patch, 1) * patch, max(window[1] // patch, 1) * patch
        default_stride = default_short = min(window)
    if min(window) > MAX_FACTOR * min(config.size):
        warn(
            f"windows of {min(window)} px: {model.name} was trained at {min(config.size)} px, and "
            f"maps at {min(window) / min(config.size):.0f} times that say little and take long; "
            f"take {MAX_FACTOR * min(config.size) // patch * patch} or less"
        )
    short = max(scale.short_side or default_short, min(window))
    stride = scale.stride or default_stride
    if stride > min(window):
        raise UnsupportedError(f"stride {stride} leaves gaps between windows of {min(window)} px")
    return window, stride, short


def _starts(size: Size, window: Size, stride: int, even: bool = True) -> list[tuple[int, int]]:
    """Top left corners of windows, row by row: `stride` apart, with the last ones moved inward to
    the border; unless `even` spread evenly, at most `stride` apart."""
    counts = [max(math.ceil((s - w) / stride), 0) + 1 for s, w in zip(size, window, strict=True)]
    if counts[0] * counts[1] > MAX_WINDOWS:
        raise UnsupportedError(
            f"a photo of {size[1]} x {size[0]} px takes {counts[0] * counts[1]:,} windows, more "
            f"than {MAX_WINDOWS:,}; take a smaller short_side or a larger stride"
        )
    starts = []
    for count, side, part in zip(counts, size, window, strict=True):
        last = side - part
        if even:
            starts.append([min(number * stride, last) for number in range(count)])
        else:
            starts.append([number * last // max(count - 1, 1) for number in range(count)])
    rows, columns = starts
    return [(top, left) for top in rows for left in columns]


def _cell(size: Size, window: Size, maps: int) -> int:
    """The smallest common divisor of the window's sides at which maps have at most `MAX_VALUES`
    values; the largest divisor if none does."""
    largest = math.gcd(*window)
    for cell in range(1, largest):
        values = maps * math.ceil(size[0] / cell) * math.ceil(size[1] / cell)
        if largest % cell == 0 and values <= MAX_VALUES:
            return cell
    return largest
