"""Smooth outlines around parts of a picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from patchword.show.text_drawing import INK, PAPER

Mask = NDArray[np.bool_]  # (H, W)

FINE = 2  # fine pixels along a pixel: lines are drawn in these, then averaged (antialiasing)
BLUR = 0.9  # pixels of a mask
LEVEL = 100  # of 255, above which a blurred mask is inside: a line one pixel wide still is
LIGHT, DARK = 3, 2  # widths of the two lines, in fine pixels


def outlined(picture: Image.Image, mask: Mask) -> Image.Image:
    """A picture with an outline around a mask of any size: a light line with a dark one outside, to
    be visible on any colour. There is no line along the picture's border."""
    inside = np.asarray(enlarged(mask, fine(picture.size), BLUR)) > LEVEL
    with_light = _dilated(inside, LIGHT)
    out = picture.copy()
    paint(out, _dilated(with_light, DARK) & ~with_light, INK)
    paint(out, with_light & ~inside, PAPER)
    return out


def between(numbers: NDArray[np.integer]) -> Mask:
    """The pixels on both sides of a border between different numbers (H, W)."""
    edge = np.zeros(numbers.shape, np.bool_)
    across, down = numbers[:, 1:] != numbers[:, :-1], numbers[1:] != numbers[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge


def enlarged(mask: Mask, size: tuple[int, int], blur: float) -> Image.Image:
    """A mask as grey levels at a size (width, height). An enlarged mask is blurred by `blur` of its
    pixels, so that its edges have no steps."""
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    zoom = max(size[0] / image.width, size[1] / image.height)
    if zoom <= 1:
        return image.resize(size, Image.Resampling.BOX)
    large = image.resize(size, Image.Resampling.NEAREST)
    return large.filter(ImageFilter.GaussianBlur(blur * zoom))


def fine(size: tuple[int, int]) -> tuple[int, int]:
    """A size (width, height) in fine pixels."""
    return size[0] * FINE, size[1] * FINE


def paint(picture: Image.Image, line: Mask, colour: tuple[int, int, int]) -> None:
    """Paint a mask in fine pixels over a picture, antialiased."""
    cover = Image.fromarray(line.astype(np.uint8) * 255)
    picture.paste(colour, mask=cover.resize(picture.size, Image.Resampling.BOX))


def _dilated(mask: Mask, steps: int) -> Mask:
    """A mask that is grown by some pixels in each direction."""
    for _ in range(steps):
        rows = mask.copy()
        rows[1:] |= mask[:-1]
        rows[:-1] |= mask[1:]
        mask = rows.copy()
        mask[:, 1:] |= rows[:, :-1]
        mask[:, :-1] |= rows[:, 1:]
    return mask
