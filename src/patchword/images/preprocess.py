"""Preprocessing: RGB uint8 (H, W, 3) -> the network's input float32 (3, h, w), and its geometry.

The steps: resize with Pillow's antialiased filters; crop the centre, padded with black or with the
level `fill` where the resized image is smaller; rescale; normalise. The result equals that of
transformers' PIL processors (crop_rounding "floor") and of torchvision's transforms as open_clip
and timm use them ("round").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from patchword.config import PreprocessConfig
from patchword.errors import ImageError
from patchword.images.photo import Photo

_RESIZED_WHOLE = 1 << 24  # pixels; of a larger resized image only the crop is computed
_COPIED = 1 << 22  # pixels: 12 MB, which a worker process and its parent copy in a few ms

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


# The pixels (H, W, 3) of a photo, resized to (H, W) by a filter.
Resize = Callable[[Photo, tuple[int, int], str], NDArray[np.uint8]]


@dataclass(frozen=True)
class Geometry:
    """Which part of the source is in a network's input. All fields are (height, width) in pixels.

    The source is resized to `resized`. The input is the window of `size` whose top left corner is
    at `crop` (top, left) of the resized image; `crop` is negative where padding was added.
    """

    source: tuple[int, int]
    resized: tuple[int, int]
    crop: tuple[int, int]
    size: tuple[int, int]

    def to_source(
        self, values: NDArray[Any], cell: int | None = None, rows: range | None = None
    ) -> NDArray[np.float32]:
        """Interpolate values (..., h, w) of a grid of cells over the input to pixels of the source:
        (..., H, W), or some of its rows.

        cell: the side of a cell in pixels of the input, from its top left corner: patches that do
        not divide the input leave its last pixels out. None: the cells cover the input.
        Bilinear between cell centres, constant beyond the outermost. NaN for source pixels whose
        centre is outside the input.
        """
        out = np.asarray(values, np.float32)
        pixels = (range(self.source[0]) if rows is None else rows, range(self.source[1]))
        for axis in (-2, -1):
            side = cell or self.size[axis] / out.shape[axis]
            out = self._interpolate(out, axis, side, pixels[axis])
        return out

    def _interpolate(
        self, values: NDArray[np.float32], axis: int, side: float, pixels: range
    ) -> NDArray[np.float32]:
        """`to_source` along one axis, for these pixels of the source. side: of a cell, in pixels of
        the input."""
        cells, factor = values.shape[axis], self.resized[axis] / self.source[axis]
        # Centres of the source's pixels, in pixels of the input.
        centre = (np.arange(pixels.start, pixels.stop) + 0.5) * factor - self.crop[axis]
        inside = (centre >= 0) & (centre < self.size[axis])
        position = np.clip(centre / side - 0.5, 0, cells - 1)
        low = np.floor(position).astype(np.intp)
        high = np.minimum(low + 1, cells - 1)
        weight = np.where(inside, position - low, np.nan).astype(np.float32)
        if axis == -2:
            weight = weight[:, None]
        # low + (high - low) * weight, in place
        low_values = values.take(low, axis)
        out: NDArray[np.float32] = values.take(high, axis)
        out -= low_values
        out *= weight
        out += low_values
        return out


def at_size(config: PreprocessConfig, size: int | tuple[int, int]) -> PreprocessConfig:
    """The same preprocessing to another size: pixels (H, W), or one number for a square.

    For a square the same share of the resized image is cropped away. For any other size the image
    is squashed, except by preprocessing with two sides ("cover", "contain"). If images keep their
    aspect ratio ("patches"), they may have as many patches as an image of `size` has.
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
        """The shorter side (pixels) of the smallest source that is not enlarged; with "patches",
        not by a patch or more."""
        config = self.config
        if config.resize == "patches":  # for a square; a longer image needs a shorter side
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

    def seen(
        self, photo: Photo, resize: Resize | None = None
    ) -> tuple[NDArray[np.uint8], Geometry]:
        """The network's input before it is normalised, uint8 (3, *geometry.size), and its Geometry,
        whose source is the photo at the size in its file. resize: instead of Pillow's."""
        geometry = self.geometry(*photo.size)
        window = self._window(photo, geometry, resize or _by_pillow)
        return np.ascontiguousarray(window.transpose(2, 0, 1)), geometry

    def shrinks(self, photo: Photo, geometry: Geometry) -> bool:
        """True if `shrink` makes the photo smaller: a JPEG, which it gives as Pillow within 2 of
        255, with so few pixels that they can be copied."""
        left, top, right, bottom = photo.box
        height, width = geometry.resized
        rows, columns = photo.shape
        # Pillow 13 (its pull request 9549) resizes rows first, and rounds and clips between the
        # two, if that many more rows go. The values of torch would be up to 23 of 255 apart.
        rows_first = rows - height > 2 * (columns - width)
        return (
            photo.jpeg
            and self.config.interpolation in ("bilinear", "bicubic")
            and (left, top) == (0, 0)
            and height < bottom
            and width < right
            and not rows_first
            and rows * columns <= _COPIED
        )

    def normalised(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (3, h, w) as float32."""
        return np.stack([self.levels[c][pixels[c]] for c in range(3)])

    def photo(self, pixels: NDArray[np.floating]) -> NDArray[np.uint8]:
        """The inverse of `normalised`: pixels (3, H, W) as a photo uint8 (H, W, 3)."""
        std, mean = np.array(self.config.std, np.float32), np.array(self.config.mean, np.float32)
        levels = (pixels.transpose(1, 2, 0) * std + mean) / self.config.rescale
        return levels.round().clip(0, 255).astype(np.uint8)

    def geometry(self, height: int, width: int) -> Geometry:
        """The geometry of a source of height x width pixels."""
        config = self.config
        source = (height, width)
        if config.resize == "patches":
            size = whole_patches(source, config.patch_size, config.max_patches)
            return Geometry(source, size, (0, 0), size)
        if config.resize == "squash":
            return Geometry(source, config.size, (0, 0), config.size)
        resized = self._resized(height, width)
        top = self._margin(resized[0] - config.size[0])
        left = self._margin(resized[1] - config.size[1])
        return Geometry(source, resized, (top, left), config.size)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """The size before the crop, for preprocessing that crops or pads."""
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
        """Half of the spare pixels, or minus half of the missing pixels, rounded as in the
        reference library."""
        if self.config.crop_rounding == "floor":
            return spare // 2
        return round(spare / 2) if spare >= 0 else -(-spare // 2)

    def _window(self, photo: Photo, geometry: Geometry, resize: Resize) -> NDArray[np.uint8]:
        """The input (h, w, 3) before it is normalised: resized, cropped, padded."""
        height, width = geometry.resized
        (top, left), (window_h, window_w) = geometry.crop, geometry.size
        y0, y1 = max(top, 0), min(top + window_h, height)
        x0, x1 = max(left, 0), min(left + window_w, width)
        if height * width <= _RESIZED_WHOLE:
            visible = resize(photo, (height, width), self.config.interpolation)[y0:y1, x0:x1]
        else:
            picture, method = photo.picture, FILTERS[self.config.interpolation]
            # Resizing a strip of extreme aspect ratio would take gigabytes. Only the crop is
            # computed: the same filter at the same positions, up to the rounding of its weights.
            box_left, box_top, box_right, box_bottom = photo.box
            scale_y, scale_x = (box_bottom - box_top) / height, (box_right - box_left) / width
            source_top, source_bottom = box_top + y0 * scale_y, box_top + y1 * scale_y
            source_left, source_right = box_left + x0 * scale_x, box_left + x1 * scale_x
            first_row, last_row = _reach(source_top, source_bottom, scale_y, picture.height)
            first_column, last_column = _reach(source_left, source_right, scale_x, picture.width)
            part = picture.crop((first_column, first_row, last_column, last_row))
            box = (
                source_left - first_column,
                source_top - first_row,
                source_right - first_column,
                source_bottom - first_row,
            )
            visible = np.asarray(part.resize((x1 - x0, y1 - y0), method, box))
        if (y1 - y0, x1 - x0) == geometry.size:
            return visible
        level = self.config.fill if self.config.resize == "contain" else 0
        out = np.full((window_h, window_w, 3), level, np.uint8)
        out[y0 - top : y1 - top, x0 - left : x1 - left] = visible
        return out


def _by_pillow(photo: Photo, size: tuple[int, int], interpolation: str) -> NDArray[np.uint8]:
    return np.asarray(photo.picture.resize(size[::-1], FILTERS[interpolation], photo.box))


def whole(config: PreprocessConfig, squash: bool = True) -> Preprocess:
    """The preprocessing of a config. With `squash`, an image that it would crop is squashed to its
    size instead, so that the whole image is visible."""
    crops = config.resize not in ("squash", "contain", "patches")
    return Preprocess(replace(config, resize="squash") if squash and crops else config)


def resize(
    image: NDArray[np.uint8], size: tuple[int, int], config: PreprocessConfig
) -> NDArray[np.uint8]:
    """RGB uint8 (H, W, 3) resized to `size` (H, W) by the filter of a preprocessing; the image
    itself if it has that size."""
    if image.shape[:2] == size:
        return image
    picture = Image.fromarray(image).resize(size[::-1], FILTERS[config.interpolation])
    return np.asarray(picture)


def whole_patches(source: tuple[int, int], patch_size: int, most: int) -> tuple[int, int]:
    """The size (H, W) to which a source (H, W) is resized: whole patches, at most `most` of them.

    Both sides are scaled by one factor, then rounded up to whole patches. The factor is the largest
    that the number of patches allows (SigLIP 2's NaFlex; Tschannen et al. 2025, section 2.4.2), at
    most 100. Bisection to 1e-5 finds it, as in transformers' Siglip2ImageProcessor and big_vision:
    a more exact factor would sometimes give another size.
    """
    low, high = 1e-6, 100.0
    while high - low >= 1e-5:
        middle = (low + high) / 2
        rows, columns = (_patches(side * middle, patch_size) for side in source)
        if rows * columns <= most:
            low = middle
        else:
            high = middle
    return (
        _patches(source[0] * low, patch_size) * patch_size,
        _patches(source[1] * low, patch_size) * patch_size,
    )


def _patches(length: float, patch_size: int) -> int:
    """How many patches cover `length` pixels, at least one."""
    return max(1, math.ceil(length / patch_size))


def _reach(start: float, stop: float, scale: float, source: int) -> tuple[int, int]:
    """The range of source pixels on which start..stop depends when it is resized by `scale`.
    Lanczos reaches 3 pixels to each side."""
    margin = 3 * max(scale, 1.0) + 1
    return max(0, math.floor(start - margin)), min(source, math.ceil(stop + margin))
