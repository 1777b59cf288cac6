"""Pictures of label maps: colours over a photo, and which colour is whose."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from patchword.atomic_write import replacing
from patchword.errors import UnsupportedError
from patchword.show.lettering import PAPER, SMALL, TEXT, font, line_height, wrap, write
from patchword.show.plots import GAP, Photo, fit

SIDE = 480  # longer side of the photo, pixels
NARROWEST = 320  # of the picture's halves, pixels
OPACITY = 0.6
SWATCH = 18  # side of a colour in the legend, pixels
COLOURS = 255  # of a PNG's palette beside the background's; labels beyond them begin again
STEPS = 9  # of each channel, among whose combinations colours are chosen
MIDDLE, REACH = 0.67, 0.25  # of colours' lightness, 0 to 1
# The first colours are the ones that people tell apart best (Okabe & Ito 2008); black is the
# background's, which is left bare.
FIRST = (
    (0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115), (213, 94, 0), (0, 114, 178),
    (204, 121, 167), (240, 228, 66),
)  # fmt: skip


def picture(
    image: Photo,
    labels: NDArray[np.integer],
    legend: Sequence[tuple[int, str]],
    title: str = "",
    boxes: Sequence[tuple[int, Sequence[int]]] = (),
) -> Image.Image:
    """The photo, and beside it the same under the colours of its labels (H, W).

    legend  the number of a label, 0 for the background, and what stands beside its colour
    boxes   the number of a label, and x1, y1, x2, y2 in the photo's pixels
    """
    photo = fit(image, SIDE)
    coloured = overlay(photo, labels)
    _boxes(coloured, boxes, photo.width / image.shape[1])
    cell = max(photo.width, NARROWEST)
    width = 3 * GAP + 2 * cell
    heading = wrap(title, font(TEXT, title, bold=True), width - 2 * GAP, 4) if title else []
    top = GAP + len(heading) * line_height(TEXT) + (GAP // 2 if heading else 0)
    columns = max(min((width - GAP) // (NARROWEST + GAP), len(legend)), 1)
    lines = -(-len(legend) // columns)
    height = top + photo.height + GAP + lines * (SWATCH + 10) + GAP
    out = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(out)
    write(draw, heading, GAP, GAP, TEXT, bold=True)
    out.paste(photo, (GAP, top))
    out.paste(coloured, (2 * GAP + cell, top))
    room = (width - GAP) // columns - GAP
    for place, row in enumerate(legend):
        x = GAP + place // lines * (room + GAP)
        y = top + photo.height + GAP + place % lines * (SWATCH + 10)
        _row(draw, row, (x, y), room)
    return out


def _boxes(picture: Image.Image, boxes: Sequence[tuple[int, Sequence[int]]], zoom: float) -> None:
    """Draw boxes, light outside and their label's colour inside."""
    draw = ImageDraw.Draw(picture)
    for number, box in boxes:
        x1, y1, x2, y2 = (round(side * zoom) for side in box)
        outer = (x1 - 1, y1 - 1, max(x2, x1 + 2), max(y2, y1 + 2))
        draw.rectangle(outer, outline=PAPER, width=4)
        inner = (outer[0] + 1, outer[1] + 1, max(outer[2] - 1, x1 + 1), max(outer[3] - 1, y1 + 1))
        draw.rectangle(inner, outline=tuple(palette()[_entry(number)].tolist()), width=2)


def _row(draw: ImageDraw.ImageDraw, row: tuple[int, str], at: tuple[int, int], room: int) -> None:
    """A line of the legend: the colour and the words."""
    (number, words), (x, y) = row, at
    colour = tuple(palette()[_entry(number)].tolist()) if number else PAPER
    draw.rectangle((x, y, x + SWATCH, y + SWATCH), colour, outline=(112, 112, 122))
    left = x + SWATCH + 10
    write(draw, wrap(words, font(SMALL, words), room - SWATCH - 10, 1), left, y, SMALL)


def overlay(photo: Image.Image, labels: NDArray[np.integer]) -> Image.Image:
    """A photo under the colours of its labels (H, W), with a light line where labels meet; the
    background is left bare."""
    rows = np.arange(photo.height) * labels.shape[0] // photo.height
    columns = np.arange(photo.width) * labels.shape[1] // photo.width
    small = labels[rows][:, columns]
    pixels = np.asarray(photo, np.float32)
    grey = 0.4 * pixels + 0.6 * pixels.mean(axis=-1, keepdims=True)
    painted = grey + OPACITY * (palette()[_entries(small)] - grey)
    out = np.where((small > 0)[..., None], painted, grey)
    edge = np.zeros(small.shape, np.bool_)
    edge[:, 1:] |= small[:, 1:] != small[:, :-1]
    edge[1:] |= small[1:] != small[:-1]
    out[edge] = PAPER
    return Image.fromarray(out.astype(np.uint8))


def save(labels: NDArray[np.integer], path: str | os.PathLike[str]) -> None:
    """Write a label map (H, W), uint8 or uint16, as a PNG whose pixels are the numbers. Raises
    UnsupportedError for another suffix."""
    if Path(path).suffix.lower() != ".png":
        raise UnsupportedError(f"a label map is saved as .png, which keeps numbers: {str(path)!r}")
    with replacing(path) as part:
        numbered(labels).save(part, "PNG")


def numbered(labels: NDArray[np.integer]) -> Image.Image:
    """A label map (H, W), uint8 or uint16, as a picture whose pixels are the numbers, of up to 255
    labels in their colours."""
    out = Image.fromarray(labels)
    if labels.dtype == np.uint8:
        out.putpalette(palette().ravel().tolist())
    return out


def colour_of(number: int) -> str:
    """The colour of a label, 0 the background's, as CSS writes it: "#rrggbb"."""
    return "#{:02x}{:02x}{:02x}".format(*palette()[_entry(number)].tolist())


@lru_cache(maxsize=1)
def palette() -> NDArray[np.uint8]:
    """The colours of labels 0 to 255, (256, 3): after `FIRST` always the one that is the farthest
    from all before, as eyes see it."""
    levels = np.linspace(0, 255, STEPS).round()
    every = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    every = every[np.abs(_oklab(every)[:, 0] - MIDDLE) < REACH]
    places = _oklab(every)
    chosen = [np.array(colour, np.float64) for colour in FIRST]
    avoided = _oklab(np.array([*FIRST, PAPER, (128, 128, 128)], np.float64))
    distance = np.linalg.norm(places[:, None] - avoided, axis=-1).min(axis=1)
    while len(chosen) < COLOURS + 1:
        best = int(distance.argmax())
        chosen.append(every[best])
        distance = np.minimum(distance, np.linalg.norm(places - places[best], axis=-1))
    return np.array(chosen).astype(np.uint8)


def _entry(number: int) -> int:
    """The number of a label's colour."""
    return (number - 1) % COLOURS + 1 if number else 0


def _entries(labels: NDArray[np.integer]) -> NDArray[np.intp]:
    return np.where(labels > 0, (labels.astype(np.intp) - 1) % COLOURS + 1, 0)


def _oklab(colours: NDArray[np.floating]) -> NDArray[np.float64]:
    """sRGB (N, 3), 0 to 255, where distances are those that eyes see (Ottosson 2020, "A perceptual
    color space for image processing")."""
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
