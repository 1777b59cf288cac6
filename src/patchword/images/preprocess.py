"""From RGB uint8 (H, W, 3) to a network's float32 (3, h, w), and the geometry to map it back.

Equal to transformers' PIL processors (crop_rounding "floor") and to torchvision's transforms as
open_clip and timm use them ("round"): resize with Pillow's antialiased filters, centre crop with
black, or the level `fill`, where the resized image is smaller, rescale, normalise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from patchword.config import PreprocessConfig
from patchword.errors import ImageError
from patchword.images.photo import Photo

_WHOLE = 1 << 24  # pixels: up to here the image is resized whole, beyond only what the crop keeps

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Geometry:
    """The part of the source that a network's input shows. All (height, width), in pixels.

    The source is resized to `resized`; the input is the window of `size` with its top left corner
    at `crop` (top, left) in it, negative where padding was added.
    """

    source: tuple[int, int]
    resized: tuple[int, int]
    crop: tuple[int, int]
    size: tuple[int, int]

    def to_source(
        self, values: NDArray[Any], cell: int | None = None, rows: range | None = None
    ) -> NDArray[np.float32]:
        """values (..., h, w), a grid of cells over the input -> (..., H, W) of the source, or some
        of its rows.

        cell: pixels of the input a side, from its top left corner: patches that do not divide the
        input leave its last pixels out. None: the cells cover all of it.
        Bilinear between cell centres, constant beyond the outermost; NaN for source pixels whose
        centre the input does not show.
        """
        out = np.asarray(values, np.float32)
        wanted = (range(self.source[0]) if rows is None else rows, range(self.source[1]))
        for axis in (-2, -1):
            side = cell or self.size[axis] / out.shape[axis]
            out = self._along(out, axis, side, wanted[axis])
        return out

    def _along(
        self, values: NDArray[np.float32], axis: int, side: float, wanted: range
    ) -> NDArray[np.float32]:
        """One axis of `to_source`, at the wanted of its pixels; side: of a cell, in pixels of the
        input."""
        cells, factor = values.shape[axis], self.resized[axis] / self.source[axis]
        centre = (np.arange(wanted.start, wanted.stop) + 0.5) * factor - self.crop[axis]
        shown = (centre >= 0) & (centre < self.size[axis])  # in pixels of the input
        cell = np.clip(centre / side - 0.5, 0, cells - 1)
        low = np.floor(cell).astype(np.intp)
        high = np.minimum(low + 1, cells - 1)
        weight = np.where(shown, cell - low, np.nan).astype(np.float32)
        if axis == -2:
            weight = weight[:, None]
        out: NDArray[np.float32] = values.take(high, axis)
        first = values.take(low, axis)
        out -= first
        out *= weight
        out += first
        return out


def at_size(config: PreprocessConfig, size: int | tuple[int, int]) -> PreprocessConfig:
    """The same preprocessing to another size, pixels (H, W) or one number for a square.

    A square keeps the share of the resized image that is cropped away; for any other size the whole
    image is squashed, except by preprocessing with two sides ("cover", "contain"). Where images
    keep their own shape, `size` says how many patches they may have: as many as an image of that
    size has.
    """
    if config.resize == "patches":
        height, width = size if isinstance(size, tuple) else (size, size)
        most = (height // config.patch_size) * (width // config.patch_size)
        return replace(config, size=(height, width), max_patches=most)
    if isinstance(size, tuple) and size[0] != size[1]:
        kind = config.resize if config.resize in ("cover", "contain") else "squash"
        return replace(config, size=size, resize=kind)
    side = size[0] if isinstance(size, tuple) else size
    resize_to = round(config.resize_to * side / min(config.size))
    return replace(config, size=(side, side), resize_to=resize_to)


class Preprocess:
    """The preprocessing that a checkpoint was trained with."""

    def __init__(self, config: PreprocessConfig) -> None:
        self.config = config
        levels = np.arange(256) * config.rescale
        mean, std = np.array(config.mean)[:, None], np.array(config.std)[:, None]
        self.levels = ((levels - mean) / std).astype(np.float32)  # (3, 256): normalised levels

    @property
    def at_least(self) -> int:
        """The shorter side (pixels) of the smallest source that need not be enlarged, by a whole
        patch or more where its shape is kept in patches."""
        config = self.config
        if config.resize == "patches":  # a square's; what is longer has too many patches sooner
            return math.isqrt(config.max_patches * config.patch_size**2 - 1) + 1
        if config.resize == "contain":
            return min(config.size)
        return max(config.size) if config.resize in ("squash", "cover") else config.resize_to

    def __call__(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], Geometry]:
        """RGB uint8 (H, W, 3) -> normalised float32 (3, *geometry.size) and its Geometry.

        Raises ImageError for an array of another type or shape; `images.open` makes the right one.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            name = f"<{image.dtype} array {'x'.join(map(str, image.shape))}>"
            raise ImageError(name, "not RGB uint8 (H, W, 3); images.open makes it so")
        pixels, geometry = self.seen(Photo.whole(image))
        return self.normalised(pixels), geometry

    def seen(self, photo: Photo) -> tuple[NDArray[np.uint8], Geometry]:
        """What a network sees of a photo, before it is normalised: uint8 (3, *geometry.size); and
        its Geometry, from the size of the photo in its file."""
        geometry = self.geometry(*photo.size)
        return np.ascontiguousarray(self._window(photo, geometry).transpose(2, 0, 1)), geometry

    def normalised(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (3, h, w) as float32."""
        return np.stack([self.levels[c][pixels[c]] for c in range(3)])

    def photo(self, pixels: NDArray[np.floating]) -> NDArray[np.uint8]:
        """Normalised pixels (3, H, W) as a photo (H, W, 3) again."""
        std, mean = (np.array(level, np.float32) for level in (self.config.std, self.config.mean))
        levels = (pixels.transpose(1, 2, 0) * std + mean) / self.config.rescale
        return levels.round().clip(0, 255).astype(np.uint8)

    def geometry(self, height: int, width: int) -> Geometry:
        """Where a source of that many pixels is resized to and cropped."""
        config = self.config
        if config.resize == "patches":
            whole = whole_patches((height, width), config.patch_size, config.max_patches)
            return Geometry((height, width), whole, (0, 0), whole)
        if config.resize == "squash":
            return Geometry((height, width), config.size, (0, 0), config.size)
        resized = self._resized(height, width)
        top, left = (self._margin(resized[i] - config.size[i]) for i in (0, 1))
        return Geometry((height, width), resized, (top, left), config.size)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """The size before the crop, where it is not known from the start."""
        config = self.config
        if config.resize in ("cover", "contain"):  # as open_clip's ResizeKeepRatio
            ratios = height / config.size[0], width / config.size[1]
            ratio = max(ratios) if config.resize == "contain" else min(ratios)
            return max(1, round(height / ratio)), max(1, round(width / ratio))
        if config.resize == "square":
            return config.resize_to, config.resize_to
        short, long = min(height, width), max(height, width)
        longer = int(config.resize_to * long / short)
        return (config.resize_to, longer) if height == short else (longer, config.resize_to)

    def _margin(self, spare: int) -> int:
        """Half of the spare pixels, or minus half of the missing ones, rounded as the reference
        does."""
        if self.config.crop_rounding == "floor":
            return spare // 2
        return round(spare / 2) if spare >= 0 else -(-spare // 2)

    def _window(self, photo: Photo, geometry: Geometry) -> NDArray[np.uint8]:
        """The input (h, w, 3) before normalising: resized, cropped, padded outside the image."""
        height, width = geometry.resized
        (top, left), (window_h, window_w) = geometry.crop, geometry.size
        y0, y1 = max(top, 0), min(top + window_h, height)
        x0, x1 = max(left, 0), min(left + window_w, width)
        picture, method = photo.picture, FILTERS[self.config.interpolation]
        if height * width <= _WHOLE:
            seen = np.asarray(picture.resize((width, height), method, photo.box))[y0:y1, x0:x1]
        else:
            # A strip of extreme aspect would take gigabytes whole. Only what the crop keeps is
            # computed: the same filter at the same places, up to the rounding of its weights.
            first_column, first_row, last_column, last_row = photo.box
            down, across = (last_row - first_row) / height, (last_column - first_column) / width
            above, below = first_row + y0 * down, first_row + y1 * down
            before, behind = first_column + x0 * across, first_column + x1 * across
            low, high = _reach(above, below, down, picture.height)
            first, last = _reach(before, behind, across, picture.width)
            box = (before - first, above - low, behind - first, below - low)
            part = picture.crop((first, low, last, high))
            seen = np.asarray(part.resize((x1 - x0, y1 - y0), method, box))
        if (y1 - y0, x1 - x0) == geometry.size:
            return seen
        level = self.config.fill if self.config.resize == "contain" else 0
        out = np.full((window_h, window_w, 3), level, np.uint8)
        out[y0 - top : y1 - top, x0 - left : x1 - left] = seen
        return out


def whole(config: PreprocessConfig, squash: bool = True) -> Preprocess:
    """The preprocessing that a config states; with `squash` one that shows the whole image,
    squashed to its size, where that one would crop it."""
    crops = config.resize not in ("squash", "contain", "patches")
    return Preprocess(replace(config, resize="squash") if squash and crops else config)


def resize(
    image: NDArray[np.uint8], size: tuple[int, int], config: PreprocessConfig
) -> NDArray[np.uint8]:
    """RGB uint8 (H, W, 3) at another `size` (H, W), by the filter of a preprocessing; the image
    itself where it has that size."""
    if image.shape[:2] == size:
        return image
    picture = Image.fromarray(image).resize(size[::-1], FILTERS[config.interpolation])
    return np.asarray(picture)


def whole_patches(source: tuple[int, int], patch_size: int, most: int) -> tuple[int, int]:
    """The size (H, W) in whole patches, at most `most` of them, that a source (H, W) is resized to.

    Both sides are scaled by one factor, then rounded up to whole patches; the factor is the
    largest that the number of patches allows (SigLIP 2's NaFlex; Tschannen et al. 2025, section
    2.4.2). It is found by bisection to 1e-5, at most 100, as transformers' Siglip2ImageProcessor
    and big_vision find it: a closer one would now and then give another size.
    """
    low, high = 1e-6, 100.0
    while high - low >= 1e-5:
        middle = (low + high) / 2
        rows, columns = (_patches(side * middle, patch_size) for side in source)
        low, high = (middle, high) if rows * columns <= most else (low, middle)
    return (
        _patches(source[0] * low, patch_size) * patch_size,
        _patches(source[1] * low, patch_size) * patch_size,
    )


def _patches(length: float, patch_size: int) -> int:
    """How many patches cover that many pixels, at least one."""
    return max(1, math.ceil(length / patch_size))


def _reach(start: float, stop: float, scale: float, source: int) -> tuple[int, int]:
    """The source pixels that start..stop resized by `scale` depends on; Lanczos spans 3 a side."""
    margin = 3 * max(scale, 1.0) + 1
    return max(0, math.floor(start - margin)), min(source, math.ceil(stop + margin))
