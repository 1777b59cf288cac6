"""Token-token attention as coloured matrices, with words or patches on both axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from patchword.show.colours import MATRIX, Values, colour_bar, digits, numbered, shade, table, unit
from patchword.show.plots import BAR_ROOM, GAP, Photo
from patchword.show.text_drawing import (
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

WIDE = 2600  # pixels: of matrices side by side
SIDES = {True: 1100, False: 700}  # of a matrix, pixels: of at most two, and of more
MOST = {True: 64, False: 36}  # patches on an axis; neighbours of more are drawn as one
CELL, LARGEST = 14, 46  # sides of a cell, pixels
WRITTEN = 34  # from that side on the number is in the cell
LABEL, NUMBER = 150, 12  # most of a label, font of a number, pixels
READ = (
    "Each row is a token that attends, each column one that is attended to; a row sums to 1. "
    "Colours follow the square root of a weight."
)

Cells = Sequence[str | Image.Image]  # of an axis: words or patches


class View(NamedTuple):
    """What a network sees of a photo.

    photo  (H, W, 3), at the size of its input
    patch  pixels of it a side of a patch
    grid   patches (rows, columns)
    first  which of the tokens is the first patch; they are row by row
    """

    photo: Photo
    patch: int
    grid: tuple[int, int]
    first: int


def token_matrices(
    matrices: Values,
    titles: Sequence[str],
    tokens: Sequence[str],
    view: View | None = None,
    title: str = "",
    colours: str = MATRIX,
) -> Image.Image:
    """Matrices (K, N, N) of attention side by side, on one colour scale from 0, by the square root:
    one token often takes nearly all. Exact zeros, which a mask leaves, stay white."""
    few = len(matrices) <= 2
    cells: Cells = tokens
    note = READ
    if view is not None:
        matrices, cells, side = merged_patches(matrices, tokens, view, MOST[few])
        note += f" A picture is {side} x {side} patches." if side > 1 else ""
    scale = (0.0, float(matrices.max()))
    cell = min(max(SIDES[few] // len(cells), CELL), LARGEST)
    each = [
        _matrix(values, name, cells, cell, scale, colours)
        for name, values in zip(titles, matrices, strict=True)
    ]
    return _sheet(each, title, note, scale, colours)


def _sheet(
    each: Sequence[Image.Image],
    title: str,
    note: str,
    scale: tuple[float, float],
    colours: str,
) -> Image.Image:
    """Pictures of one size in rows, a title above, a note and the colours below."""
    wide, high = each[0].size
    columns = min(len(each), max((WIDE - GAP) // (wide + GAP), 1))
    rows = math.ceil(len(each) / columns)
    columns = math.ceil(len(each) / rows)
    width = max(GAP + columns * (wide + GAP), BAR_ROOM + 2 * GAP)
    head = heading(title, width - 2 * GAP, 3)
    said = wrap(note, font(SMALL, note), width - 2 * GAP, 4)
    top = GAP + head.height
    foot = len(said) * line_height(SMALL) + GAP // 2 + 12 + line_height(SMALL) + GAP
    out = Image.new("RGB", (width, top + rows * (high + GAP) + foot), PAPER)
    draw = ImageDraw.Draw(out)
    head.write(out, GAP, GAP)
    for number, picture in enumerate(each):
        left = GAP + number % columns * (wide + GAP)
        out.paste(picture, (left, top + number // columns * (high + GAP)))
    bottom = top + rows * (high + GAP)
    write(draw, said, GAP, bottom, SMALL)
    bottom += len(said) * line_height(SMALL) + GAP // 2
    colour_bar(draw, colours, numbered(scale), GAP, bottom, BAR_ROOM, digits(scale[1] / 4, scale))
    return out


def _matrix(
    values: Values,
    name: str,
    cells: Cells,
    cell: int,
    scale: tuple[float, float],
    colours: str,
) -> Image.Image:
    """One matrix (N, N) under its name."""
    size = min(SMALL, cell)
    labels = [each for each in cells if isinstance(each, str)]
    cut = {each: next(iter(wrap(each, font(size, each), LABEL, 1)), "") for each in labels}
    before = max([cell, *(text_width([each], size) for each in cut.values())]) + 6
    above = line_height(TEXT) + 6
    side = len(cells) * cell
    out = Image.new("RGB", (before + side, above + before + side), PAPER)
    draw = ImageDraw.Draw(out)
    write(draw, [name], before, 0, TEXT, bold=True)
    top = above + before
    for number, label in enumerate(cells):
        place = number * cell
        if isinstance(label, str):
            _label(out, cut[label], size, before, top, place, cell)
        else:
            thumb = label.resize((cell - 1, cell - 1), Image.Resampling.LANCZOS)
            out.paste(thumb, (before - cell - 2, top + place))
            out.paste(thumb, (before + place, top - cell - 2))
    pixels = table(colours)[(np.sqrt(unit(values, *scale)) * 255).astype(np.uint8)]
    pixels[values == 0] = PAPER
    filled = Image.fromarray(pixels.astype(np.uint8)).resize((side, side), Image.Resampling.NEAREST)
    out.paste(filled, (before, top))
    for place in range(cell, side + 1, cell):  # lines between cells
        draw.line((before, top + place - 1, before + side, top + place - 1), PAPER)
        draw.line((before + place - 1, top, before + place - 1, top + side), PAPER)
    if cell >= WRITTEN:
        _numbers(draw, values, (before, top), cell, scale, colours)
    draw.rectangle((before - 1, top - 1, before + side - 1, top + side - 1), None, LINE)
    return out


def _label(
    out: Image.Image, label: str, size: int, before: int, top: int, place: int, cell: int
) -> None:
    """A word beside its row, and turned over its column."""
    face = font(size, label)
    middle = (cell - 1) // 2
    draw = ImageDraw.Draw(out)
    draw.text((before - 5, top + place + middle), label, INK, face, anchor="rm")
    strip = Image.new("RGB", (before - 5, cell), PAPER)
    ImageDraw.Draw(strip).text((0, middle), label, INK, face, anchor="lm")
    out.paste(strip.rotate(90, expand=True), (before + place, top - before))


def _numbers(
    draw: ImageDraw.ImageDraw,
    values: Values,
    corner: tuple[int, int],
    cell: int,
    scale: tuple[float, float],
    colours: str,
) -> None:
    """Each weight but zeros in its cell."""
    for row, column in np.argwhere(values):
        value = float(values[row, column])
        middle = corner[0] + column * cell + cell // 2, corner[1] + row * cell + cell // 2
        ink = shade((value / scale[1]) ** 0.5, (0.0, 1.0), colours)[1]
        draw.text(middle, f"{value:.2f}".removeprefix("0"), ink, font(NUMBER), anchor="mm")


def merged_patches(
    matrices: Values, tokens: Sequence[str], view: View, most: int
) -> tuple[Values, Cells, int]:
    """Matrices (K, M, M) and an axis of M cells, with as many neighbours as one picture as make at
    most so many: side by side of patches; the columns summed, the mean of rows."""
    rows, columns = view.grid
    side = next(n for n in range(1, 1000) if math.ceil(rows / n) * math.ceil(columns / n) <= most)
    wide = math.ceil(columns / side)
    y, x = np.divmod(np.arange(rows * columns), columns)
    owner = np.arange(len(tokens))
    patches = slice(view.first, view.first + rows * columns)
    owner[patches] = view.first + y // side * wide + x // side
    count = math.ceil(rows / side) * wide
    owner[patches.stop :] += count - rows * columns
    member = np.zeros((owner.max() + 1, len(tokens)), matrices.dtype)
    member[owner, np.arange(len(tokens))] = 1
    mean = member / member.sum(axis=1, keepdims=True)
    merged: NDArray[np.floating] = mean @ matrices @ member.T
    thumbs = [_thumb(view, side, i // wide, i % wide) for i in range(count)]
    return merged, [*tokens[: view.first], *thumbs, *tokens[patches.stop :]], side


def _thumb(view: View, side: int, row: int, column: int) -> Image.Image:
    """Of `side` by `side` patches what the network sees; fewer at the border."""
    rows, columns = (
        slice(place * side * view.patch, min((place + 1) * side, most) * view.patch)
        for place, most in zip((row, column), view.grid, strict=True)
    )
    return Image.fromarray(view.photo[rows, columns])
