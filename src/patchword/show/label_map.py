"""Pictures of label maps: colours over a photo, and a legend."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from patchword.atomic_write import replacing
from patchword.errors import UnsupportedError
from patchword.show.outline import FINE, between, enlarged, fine, paint
from patchword.show.plots import GAP, Photo, fit, side_of
from patchword.show.text_drawing import (
    FAINT,
    PAPER,
    SMALL,
    font,
    heading,
    text_width,
    wrap,
    write,
)

Entry = tuple[int, str, str]  # of a legend: number of a label, its name, and a text at the right

SIDE = 480  # longer side of the photo, pixels
WIDE = 2.0  # width by height, above which the photo stands above its labels, not beside them
MIN_LEGEND, MAX_LEGEND = 180, 420  # width of a column of the legend, pixels
ROW = 28  # height of its rows, pixels
MIN_ROWS, MAX_COLUMNS = 16, 3  # of the legend
OPACITY = 0.6
SWATCH = 18  # side of a colour in the legend, pixels
BLUR = 0.6  # pixels of a map: more would lose a label that is one pixel wide
MAX_SMOOTHED = 40  # labels; in maps of more, borders keep the steps of pixels
COLOURS = 255  # of a PNG's palette besides the background; further labels repeat them
STEPS = 9  # of each channel: colours are chosen among their combinations
MIDDLE, REACH = 0.67, 0.25  # of the colours' lightness, 0 to 1: 0.67 plus or minus 0.25
# The colours that people distinguish best (Okabe & Ito 2008); black is the background, which is not
# painted.
FIRST = (
    (0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115), (213, 94, 0), (0, 114, 178),
    (204, 121, 167), (240, 228, 66),
)  # fmt: skip


def picture(
    image: Photo,
    labels: NDArray[np.integer],
    legend: Sequence[Entry],
    title: str = "",
    boxes: Sequence[tuple[int, Sequence[int]]] = (),
) -> Image.Image:
    """The photo, the same photo under the colours of its labels (H, W), and a legend.

    legend  see `Entry`; 0 is the background
    boxes   number of a label, and (x1, y1, x2, y2) in pixels of the photo
    """
    if any(number > COLOURS for number, *_ in legend):
        title += f"\nMore labels than colours: after {COLOURS} they begin again."
    photo = fit(image, side_of(image, SIDE))
    coloured = overlay(photo, labels)
    _draw_boxes(coloured, boxes, image.shape[:2])
    if photo.width > WIDE * photo.height:
        right, down = 0, photo.height + GAP
    else:
        right, down = photo.width + GAP, 0
    both_width, both_height = photo.width + right, photo.height + down
    rows = max(both_height // ROW, MIN_ROWS, math.ceil(len(legend) / MAX_COLUMNS))
    columns = [legend[i : i + rows] for i in range(0, len(legend), rows)]
    column_width = _column_width(legend)
    width = 2 * GAP + both_width + len(columns) * (GAP + column_width)
    head = heading(title, width - 2 * GAP)
    top = GAP + head.height
    height = max([both_height, *(len(column) * ROW for column in columns)])
    out = Image.new("RGB", (width, top + height + GAP), PAPER)
    head.write(out, GAP, GAP)
    out.paste(photo, (GAP, top))
    out.paste(coloured, (GAP + right, top + down))
    draw = ImageDraw.Draw(out)
    for number, column in enumerate(columns):
        left = 2 * GAP + both_width + number * (GAP + column_width)
        for row, entry in enumerate(column):
            _draw_entry(draw, entry, (left, top + row * ROW), column_width)
    return out


def _column_width(legend: Sequence[Entry]) -> int:
    """The width of a column of the legend."""
    texts = [text_width([name], SMALL) + text_width([value], SMALL) for _, name, value in legend]
    widest = max(texts, default=0) + SWATCH + 10 + 24
    return min(max(MIN_LEGEND, widest), MAX_LEGEND)


def _draw_boxes(
    picture: Image.Image, boxes: Sequence[tuple[int, Sequence[int]]], size: Sequence[int]
) -> None:
    """Draw boxes: light outside, and inside in the label's colour. size: (H, W) of the image whose
    pixels the boxes are in."""
    draw = ImageDraw.Draw(picture)
    zoom = picture.width / size[1], picture.height / size[0]
    for number, box in boxes:
        x1, y1, x2, y2 = (round(side * zoom[i % 2]) for i, side in enumerate(box))
        outer = (x1 - 1, y1 - 1, max(x2, x1 + 2), max(y2, y1 + 2))
        draw.rectangle(outer, outline=PAPER, width=4)
        inner = (outer[0] + 1, outer[1] + 1, max(outer[2] - 1, x1 + 1), max(outer[3] - 1, y1 + 1))
        draw.rectangle(inner, outline=_rgb(number), width=2)


def _draw_entry(
    draw: ImageDraw.ImageDraw, entry: Entry, corner: tuple[int, int], width: int
) -> None:
    """Draw a row of the legend."""
    (number, name, value), (x, y) = entry, corner
    colour = _rgb(number) if number else PAPER
    draw.rectangle((x, y, x + SWATCH, y + SWATCH), colour, outline=FAINT)
    draw.text((x + width, y + SMALL), value, FAINT, font(SMALL, value), anchor="rs")
    left = x + SWATCH + 10
    room = x + width - left - text_width([value], SMALL) - 12
    write(draw, wrap(name, font(SMALL, name), room, 1), left, y, SMALL)


def overlay(photo: Image.Image, labels: NDArray[np.integer]) -> Image.Image:
    """A photo under the colours of its labels (H, W), with a light line between labels. The
    background is not painted."""
    pixels = np.asarray(photo, np.float32)
    grey = Image.fromarray((0.4 * pixels + 0.6 * pixels.mean(axis=-1, keepdims=True)).astype("u1"))
    numbers = _enlarged(labels, fine(photo.size))
    colours = Image.fromarray(palette()[_palette_index(numbers)])
    opacity = Image.fromarray(((numbers > 0) * round(255 * OPACITY)).astype(np.uint8))
    large = grey.resize(colours.size, Image.Resampling.NEAREST)
    large.paste(colours, mask=opacity)
    out = large.resize(photo.size, Image.Resampling.BOX)
    paint(out, between(numbers), PAPER)
    return out


def _enlarged(labels: NDArray[np.integer], size: tuple[int, int]) -> NDArray[np.integer]:
    """Labels (H, W) at a size (width, height); the borders of a map that is much smaller are
    smoothed."""
    rows = np.arange(size[1]) * labels.shape[0] // size[1]
    columns = np.arange(size[0]) * labels.shape[1] // size[0]
    out: NDArray[np.integer] = labels[rows][:, columns]
    present = np.unique(out)
    if size[0] <= FINE * labels.shape[1] or len(present) > MAX_SMOOTHED:
        return out
    highest = np.full(out.shape, -1, np.int16)
    for number in present.tolist():
        level = np.asarray(enlarged(labels == number, size, BLUR))
        out[level > highest] = number
        highest = np.maximum(highest, level)
    return out


def save(labels: NDArray[np.integer], path: str | os.PathLike[str]) -> None:
    """Write a label map (H, W), uint8 or uint16, as a PNG whose pixels are the numbers. Raises
    UnsupportedError for another suffix."""
    if Path(path).suffix.lower() != ".png":
        raise UnsupportedError(f"a label map is saved as .png, which keeps numbers: {str(path)!r}")
    with replacing(path) as part:
        numbered(labels).save(part, "PNG")


def numbered(labels: NDArray[np.integer]) -> Image.Image:
    """A label map (H, W), uint8 or uint16, as a picture whose pixels are the numbers; a uint8 one
    with a palette of colours."""
    out = Image.fromarray(labels)
    if labels.dtype == np.uint8:
        out.putpalette(palette().ravel().tolist())
    return out


def colour_of(number: int) -> str:
    """The colour of a label, 0 the background's, as CSS writes it: "#rrggbb"."""
    return "#{:02x}{:02x}{:02x}".format(*_rgb(number))


def _rgb(number: int) -> tuple[int, int, int]:
    red, green, blue = palette()[_palette_index(np.array(number))].tolist()
    return red, green, blue


@lru_cache(maxsize=1)
def palette() -> NDArray[np.uint8]:
    """The colours of labels 0 to 255, (256, 3): after `FIRST`, each is the one that looks most
    different from all before."""
    levels = np.linspace(0, 255, STEPS).round()
    candidates = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    candidates = candidates[np.abs(_oklab(candidates)[:, 0] - MIDDLE) < REACH]
    places = _oklab(candidates)
    chosen = [np.array(colour, np.float64) for colour in FIRST]
    avoided = _oklab(np.array([*FIRST, PAPER, (128, 128, 128)], np.float64))
    distance = np.linalg.norm(places[:, None] - avoided, axis=-1).min(axis=1)
    while len(chosen) < COLOURS + 1:
        best = int(distance.argmax())
        chosen.append(candidates[best])
        distance = np.minimum(distance, np.linalg.norm(places - places[best], axis=-1))
    return np.array(chosen).astype(np.uint8)


def _palette_index(labels: NDArray[np.integer]) -> NDArray[np.intp]:
    return np.where(labels > 0, (labels.astype(np.intp) - 1) % COLOURS + 1, 0)


def _oklab(colours: NDArray[np.floating]) -> NDArray[np.float64]:
    """sRGB (N, 3), 0 to 255, in a space whose distances are perceived differences (Ottosson 2020,
    "A perceptual color space for image processing")."""
    unit = colours / 255
    linear = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
    cones = linear @ np.array(
        [
            [0.4122214708, 0.2119034982, 0.0883024619],
            [0.5363325363, 0.6806995451, 0.2817188376],
            [0.0514459929, 0.1073969566, 0.6299787005],
        ]
    )
    out: NDArray[np.float64] = np.cbrt(cones) @ np.array(
        [
            [0.2104542553, 1.9779984951, 0.0259040371],
            [0.7936177850, -2.4285922050, 0.7827717662],
            [-0.0040720468, 0.4505937099, -0.8086757660],
        ]
    )
    return out
