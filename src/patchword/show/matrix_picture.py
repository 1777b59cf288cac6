"""Matrices of images and texts as pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from patchword.show.colours import MATRIX, Values, colour_bar, ends_of, numbered, shade
from patchword.show.lettering import (
    INK,
    LINE,
    PAPER,
    SMALL,
    TEXT,
    font,
    line_height,
    text_width,
    wrap,
    write,
)
from patchword.show.plots import GAP, Photo, fit

LABEL, LEAST, CELL, THUMB, NAME = 300, 120, 84, 76, 12  # most and least of a label; font of a name


def similarity_matrix(
    thumbs: Sequence[Photo],
    texts: Sequence[str],
    matrix: Values,
    columns: int = 12,
    names: Sequence[str] = (),
    title: str = "",
    scale: tuple[float, float] | None = None,
) -> Image.Image:
    """Cosines (I, T) as coloured numbers: a row per text, `columns` images side by side.

    The best text of each image is framed. NaN is drawn as a dash. names: of the images, under them.
    scale: the ends of the colours; None: the smallest and the largest number, and where there is
    but one number, no colour.
    """
    columns = max(1, min(columns, len(thumbs)))
    wrapped = [wrap(text, font(TEXT, text), LABEL, 3) for text in texts]
    label = GAP + max([LEAST, *(text_width(lines, TEXT) for lines in wrapped)])
    under = [wrap(name, font(NAME, name), CELL - 6, 2) for name in names]
    heights = [max(46, len(lines) * line_height(TEXT) + 12) for lines in wrapped]
    blocks = [range(i, min(i + columns, len(thumbs))) for i in range(0, len(thumbs), columns)]
    head = THUMB + 10 + max(map(len, under), default=0) * line_height(NAME)
    high = head + sum(heights) + GAP
    width = 2 * GAP + label + columns * CELL
    heading = wrap(title, font(TEXT, title, bold=True), width - 2 * GAP, 3)
    above = len(heading) * line_height(TEXT) + (10 if heading else 0)
    scale = scale or ends_of(matrix)
    foot = line_height(SMALL) + 16 if scale[0] < scale[1] else 0
    out = Image.new("RGB", (width, 2 * GAP + above + high * len(blocks) + foot), PAPER)
    draw = ImageDraw.Draw(out)
    write(draw, heading, GAP, GAP, TEXT, bold=True)
    for number, block in enumerate(blocks):
        top = GAP + above + number * high
        for column, i in enumerate(block):
            picture = fit(thumbs[i], THUMB)
            left = GAP + label + column * CELL
            out.paste(picture, (left + (CELL - picture.width) // 2, top + THUMB - picture.height))
            write(draw, under[i] if names else [], left + 3, top + THUMB + 4, NAME)
        top += head
        for t, (lines, height) in enumerate(zip(wrapped, heights, strict=True)):
            middle = top + (height - len(lines) * line_height(TEXT)) // 2
            write(draw, lines, GAP, middle, TEXT)
            for column, i in enumerate(block):
                box = (GAP + label + column * CELL, top, CELL, height)
                best = len(texts) > 1 and bool(np.all(~(matrix[i] > matrix[i, t])))
                _number(draw, box, float(matrix[i, t]), scale, best)
            top += height
    if foot:
        bottom = out.height - GAP - line_height(SMALL) - 8
        colour_bar(draw, MATRIX, numbered(scale), GAP, bottom, width - 2 * GAP)
    return out


def side_by_side(pictures: Sequence[Image.Image], titles: Sequence[str] = ()) -> Image.Image:
    """Pictures side by side, each under its title if there are any."""
    if not titles:
        titles = [""] * len(pictures)
    most = max(
        len(wrap(title, font(TEXT, title, bold=True), each.width - 2 * GAP, 3))
        for each, title in zip(pictures, titles, strict=True)
    )
    top = (GAP if most else 0) + most * line_height(TEXT)
    size = sum(each.width for each in pictures), top + max(each.height for each in pictures)
    out = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(out)
    left = 0
    for each, title in zip(pictures, titles, strict=True):
        lines = wrap(title, font(TEXT, title, bold=True), each.width - 2 * GAP, 3)
        write(draw, lines, left + GAP, GAP, TEXT, bold=True)
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
