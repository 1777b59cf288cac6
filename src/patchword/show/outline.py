"""Lines around parts of a picture, smooth at the picture's own size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from patchword.show.text_drawing import INK, PAPER

Mask = NDArray[np.bool_]  # (H, W)

FINE = 2  # side of a pixel, while a line is drawn: it is averaged afterwards
BLUR, LEVEL = 0.9, 100  # pixels of a mask; what of 255 levels a line one pixel wide still has
LIGHT, DARK = 3, 2  # widths of the two lines, in fine pixels


def outlined(picture: Image.Image, mask: Mask) -> Image.Image:
    """A picture with a line around a part of it, a mask of any size: light, with a dark one
    outside, so that it is seen on any colour; none along the picture's own border."""
    inner = np.asarray(enlarged(mask, fine(picture.size), BLUR)) > LEVEL
    middle = _wider(inner, LIGHT)
    out = picture.copy()
    paint(out, _wider(middle, DARK) & ~middle, INK)
    paint(out, middle & ~inner, PAPER)
    return out


def between(numbers: NDArray[np.integer]) -> Mask:
    """The pixels where numbers (H, W) meet others, on both sides."""
    edge = np.zeros(numbers.shape, np.bool_)
    across, down = numbers[:, 1:] != numbers[:, :-1], numbers[1:] != numbers[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge


def enlarged(mask: Mask, size: tuple[int, int], blur: float) -> Image.Image:
    """A mask as grey levels at a size (width, height); where it becomes larger, blurred by so many
    of its pixels, so that it has no steps."""
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
    """Give a colour to what a mask in fine pixels covers of each pixel."""
    cover = Image.fromarray(line.astype(np.uint8) * 255)
    picture.paste(colour, mask=cover.resize(picture.size, Image.Resampling.BOX))


def _wider(mask: Mask, steps: int) -> Mask:
    """A mask and all pixels up to some steps beside it."""
    for _ in range(steps):
        rows = mask.copy()
        rows[1:] |= mask[:-1]
        rows[:-1] |= mask[1:]
        mask = rows.copy()
        mask[:, 1:] |= rows[:, :-1]
        mask[:, :-1] |= rows[:, 1:]
    return mask
