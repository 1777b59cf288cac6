"""Pictures of similarity matrices, and pictures side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from patchword.show.colours import MATRIX, Values, colour_bar, ends_of, numbered, shade
from patchword.show.plots import BAR_HEIGHT, BAR_ROOM, GAP, Photo, fit
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
NAME, NAME_WIDTH = 13, 150  # font size and greatest width of an image's name, pixels
MIN_CELL, MAX_CELL = 84, 140  # width of a column, pixels
TEXT_LINES = 5  # of a text above its column
COLUMNS = 8  # texts side by side; further texts stand below


def similarity_matrix(
    thumbs: Sequence[Photo],
    texts: Sequence[str],
    matrix: Values,
    names: Sequence[str] = (),
    title: str = "",
    scale: tuple[float, float] | None = None,
) -> Image.Image:
    """Cosines (I, T) as coloured numbers: a row for each image, COLUMNS texts side by side.

    The best text of each image is framed. NaN is drawn as a dash. names: of the images. scale: the
    values at the ends of the colours; None: the smallest and the largest; a single number has no
    colour.
    """
    columns = max(1, min(COLUMNS, len(texts)))
    cell = min(max(MIN_CELL, *(text_width([text], SMALL) // 2 for text in texts)), MAX_CELL)
    text_lines = [wrap(text, font(SMALL, text), cell - 8, TEXT_LINES) for text in texts]
    name_lines = [wrap(name, font(NAME, name), NAME_WIDTH, 3) for name in names]
    label = THUMB + 10 + max((text_width(lines, NAME) + 12 for lines in name_lines), default=0)
    blocks = [range(i, min(i + columns, len(texts))) for i in range(0, len(texts), columns)]
    width = 2 * GAP + label + columns * cell
    head = heading(title, width - 2 * GAP, 3)
    text_heights = [
        max(len(text_lines[t]) for t in block) * line_height(SMALL) + 8 for block in blocks
    ]
    scale = scale or ends_of(matrix)
    has_scale = scale[0] < scale[1]
    height = GAP + head.height + sum(text_heights) + len(blocks) * (len(thumbs) * ROW + GAP)
    if has_scale:
        height += BAR_HEIGHT + GAP
    out = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(out)
    head.write(out, GAP, GAP)
    top = GAP + head.height
    for block, text_height in zip(blocks, text_heights, strict=True):
        for place, t in enumerate(block):
            middle = GAP + label + place * cell + cell // 2
            _draw_above(draw, text_lines[t], middle, top + text_height - 8)
        top += text_height
        for i, thumb in enumerate(thumbs):
            picture = fit(thumb, THUMB)
            left = GAP + (THUMB - picture.width) // 2
            out.paste(picture, (left, top + (ROW - picture.height) // 2))
            lines = name_lines[i] if names else []
            name_top = top + (ROW - len(lines) * line_height(NAME)) // 2
            write(draw, lines, GAP + THUMB + 10, name_top, NAME)
            for place, t in enumerate(block):
                box = (GAP + label + place * cell, top, cell, ROW)
                best = len(texts) > 1 and bool(np.all(~(matrix[i] > matrix[i, t])))
                _draw_number(draw, box, float(matrix[i, t]), scale, best)
            top += ROW
        top += GAP
    if has_scale:
        colour_bar(draw, MATRIX, numbered(scale), GAP, top, min(width - 2 * GAP, BAR_ROOM))
    return out


def _draw_above(draw: ImageDraw.ImageDraw, lines: Sequence[str], middle: int, bottom: int) -> None:
    """Write a text above its column, with its last line at the bottom."""
    for number, line in enumerate(reversed(lines)):
        y = bottom - number * line_height(SMALL)
        draw.text((middle, y), line, INK, font(SMALL, line), anchor="ms")


def side_by_side(pictures: Sequence[Image.Image], titles: Sequence[str] = ()) -> Image.Image:
    """Pictures side by side, each below its title if there are titles."""
    heads = [
        heading(title, picture.width - 2 * GAP, 3)
        for picture, title in zip(pictures, titles or [""] * len(pictures), strict=True)
    ]
    head_height = max(head.height for head in heads)
    top = GAP + head_height - BELOW if head_height else 0
    width = sum(picture.width for picture in pictures)
    height = top + max(picture.height for picture in pictures)
    out = Image.new("RGB", (width, height), PAPER)
    left = 0
    for picture, head in zip(pictures, heads, strict=True):
        head.write(out, left + GAP, GAP)
        out.paste(picture, (left, top))
        left += picture.width
    return out


def _draw_number(
    draw: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    value: float,
    scale: tuple[float, float],
    best: bool,
) -> None:
    """Draw one cell of a matrix; box: left, top, width, height."""
    left, top, width, height = box
    known = bool(np.isfinite(value))
    fill, ink = LINE, INK
    if known and scale[0] < scale[1]:
        fill, ink = shade(value, scale)
    draw.rectangle((left + 1, top + 1, left + width - 2, top + height - 2), fill)
    if best and known:
        draw.rectangle((left + 3, top + 3, left + width - 4, top + height - 4), None, ink, 2)
    text = f"{value:.2f}" if known else "-"
    middle = left + width // 2, top + height // 2
    draw.text(middle, text, ink, font(TEXT, bold=best and known), anchor="mm")
