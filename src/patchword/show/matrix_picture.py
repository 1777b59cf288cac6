"""Matrices of images and texts as pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from patchword.show.colours import MATRIX, Values, colour_bar, ends_of, numbered, shade
from patchword.show.plots import BAR_ROOM, GAP, Photo, fit
from patchword.show.text_drawing import (
    BELOW,
    INK,
    LINE,
    PAPER,
    SMALL,
    TEXT,
    font,
    heading,
    line_height,
    text_width,
    wrap,
    write,
)

THUMB, ROW = 60, 68  # side of a thumbnail, height of a row, pixels
NAME, NAMED = 13, 150  # font of an image's name, most of its width
CELL, WIDEST = 84, 140  # least and most of the width of a column
HEAD = 5  # lines of a text above its column
COLUMNS = 8  # texts side by side; more stand below


def similarity_matrix(
    thumbs: Sequence[Photo],
    texts: Sequence[str],
    matrix: Values,
    names: Sequence[str] = (),
    title: str = "",
    scale: tuple[float, float] | None = None,
) -> Image.Image:
    """Cosines (I, T) as coloured numbers: a row per image, COLUMNS texts side by side.

    The best text of each image is framed. NaN is drawn as a dash. names: of the images, beside
    them. scale: the ends of the colours; None: the smallest and the largest number, and where there
    is but one number, no colour.
    """
    columns = max(1, min(COLUMNS, len(texts)))
    cell = min(max(CELL, *(text_width([text], SMALL) // 2 for text in texts)), WIDEST)
    above = [wrap(text, font(SMALL, text), cell - 8, HEAD) for text in texts]
    beside = [wrap(name, font(NAME, name), NAMED, 3) for name in names]
    label = THUMB + 10 + max((text_width(lines, NAME) + 12 for lines in beside), default=0)
    blocks = [range(i, min(i + columns, len(texts))) for i in range(0, len(texts), columns)]
    width = 2 * GAP + label + columns * cell
    head = heading(title, width - 2 * GAP, 3)
    high = [max(len(above[t]) for t in block) * line_height(SMALL) + 8 for block in blocks]
    scale = scale or ends_of(matrix)
    foot = line_height(SMALL) + 12 + GAP if scale[0] < scale[1] else 0
    height = GAP + head.height + sum(high) + len(blocks) * (len(thumbs) * ROW + GAP) + foot
    out = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(out)
    head.write(out, GAP, GAP)
    top = GAP + head.height
    for block, room in zip(blocks, high, strict=True):
        for place, t in enumerate(block):
            middle = GAP + label + place * cell + cell // 2
            _above(draw, above[t], middle, top + room - 8)
        top += room
        for i, thumb in enumerate(thumbs):
            picture = fit(thumb, THUMB)
            left = GAP + (THUMB - picture.width) // 2
            out.paste(picture, (left, top + (ROW - picture.height) // 2))
            lines = beside[i] if names else []
            middle = top + (ROW - len(lines) * line_height(NAME)) // 2
            write(draw, lines, GAP + THUMB + 10, middle, NAME)
            for place, t in enumerate(block):
                box = (GAP + label + place * cell, top, cell, ROW)
                best = len(texts) > 1 and bool(np.all(~(matrix[i] > matrix[i, t])))
                _number(draw, box, float(matrix[i, t]), scale, best)
            top += ROW
        top += GAP
    if foot:
        colour_bar(draw, MATRIX, numbered(scale), GAP, top, min(width - 2 * GAP, BAR_ROOM))
    return out


def _above(draw: ImageDraw.ImageDraw, lines: Sequence[str], middle: int, bottom: int) -> None:
    """A text over its column, whose last line stands at the bottom."""
    for number, line in enumerate(reversed(lines)):
        y = bottom - number * line_height(SMALL)
        draw.text((middle, y), line, INK, font(SMALL, line), anchor="ms")


def side_by_side(pictures: Sequence[Image.Image], titles: Sequence[str] = ()) -> Image.Image:
    """Pictures side by side, each under its title if there are any."""
    heads = [
        heading(title, each.width - 2 * GAP, 3)
        for each, title in zip(pictures, titles or [""] * len(pictures), strict=True)
    ]
    most = max(head.height for head in heads)
    top = most and GAP + most - BELOW
    size = sum(each.width for each in pictures), top + max(each.height for each in pictures)
    out = Image.new("RGB", size, PAPER)
    left = 0
    for each, head in zip(pictures, heads, strict=True):
        head.write(out, left + GAP, GAP)
        out.paste(each, (left, top))
        left += each.width
    return out


def _number(
    draw: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    value: float,
    scale: tuple[float, float],
    best: bool,
) -> None:
    """One cell of a matrix; box is left, top, width, height."""
    left, top, width, height = box
    known = bool(np.isfinite(value))
    fill, ink = shade(value, scale) if known and scale[0] < scale[1] else (LINE, INK)
    draw.rectangle((left + 1, top + 1, left + width - 2, top + height - 2), fill)
    if best and known:
        draw.rectangle((left + 3, top + 3, left + width - 4, top + height - 4), None, ink, 2)
    words = f"{value:.2f}" if known else "–"
    middle = left + width // 2, top + height // 2
    draw.text(middle, words, ink, font(TEXT, bold=best and known), anchor="mm")
