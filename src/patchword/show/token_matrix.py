"""Pictures of attention between tokens: matrices with words or patches on both axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from patchword.show.colours import MATRIX, Values, colour_bar, digits, numbered, shade, table, unit
from patchword.show.plots import BAR_HEIGHT, BAR_ROOM, GAP, Photo
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

MAX_WIDTH = 2600  # of matrices side by side, pixels
# For up to two matrices, and for more:
SIDES = 1100, 700  # of a matrix, pixels
MAX_PATCHES = 64, 36  # on an axis; more are merged with their neighbours
MIN_CELL, MAX_CELL = 14, 46  # side of a cell, pixels
NUMBERS_FROM = 34  # side of a cell that has room for its number, pixels
MAX_LABEL = 150  # width of a label, pixels
NUMBER = 12  # font size of a number
EXPLANATION = (
    "Each row is a token that attends, each column one that is attended to; a row sums to 1. "
    "Colours follow the square root of a weight."
)

Cells = Sequence[str | Image.Image]  # of an axis: words, or pictures of patches


class View(NamedTuple):
    """A photo as a network sees it.

    photo  (H, W, 3), at the size of the network's input
    patch  side of a patch, pixels
    grid   number of patches (rows, columns)
    first  index of the first patch among the tokens; patches follow row by row
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
    """Attention matrices (K, N, N) side by side, on one colour scale from 0. Colours follow the
    square root, because one token often gets nearly all attention. Exact zeros, which come from a
    mask, stay white."""
    many = int(len(matrices) > 2)
    cells: Cells = tokens
    note = EXPLANATION
    if view is not None:
        matrices, cells, side = merged_patches(matrices, tokens, view, MAX_PATCHES[many])
        if side > 1:
            note += f" A picture is {side} x {side} patches."
    scale = (0.0, float(matrices.max()))
    cell = min(max(SIDES[many] // len(cells), MIN_CELL), MAX_CELL)
    pictures = [
        _matrix(values, name, cells, cell, scale, colours)
        for name, values in zip(titles, matrices, strict=True)
    ]
    return _sheet(pictures, title, note, scale, colours)


def _sheet(
    pictures: Sequence[Image.Image],
    title: str,
    note: str,
    scale: tuple[float, float],
    colours: str,
) -> Image.Image:
    """Pictures of one size in rows, with a title above, and a note and the colour bar below."""
    picture_width, picture_height = pictures[0].size
    columns = min(len(pictures), max((MAX_WIDTH - GAP) // (picture_width + GAP), 1))
    rows = math.ceil(len(pictures) / columns)
    columns = math.ceil(len(pictures) / rows)
    width = max(GAP + columns * (picture_width + GAP), BAR_ROOM + 2 * GAP)
    head = heading(title, width - 2 * GAP, 3)
    note_lines = wrap(note, font(SMALL, note), width - 2 * GAP, 4)
    top = GAP + head.height
    bottom = top + rows * (picture_height + GAP)
    foot = len(note_lines) * line_height(SMALL) + GAP // 2 + BAR_HEIGHT + GAP
    out = Image.new("RGB", (width, bottom + foot), PAPER)
    draw = ImageDraw.Draw(out)
    head.write(out, GAP, GAP)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        left = GAP + column * (picture_width + GAP)
        out.paste(picture, (left, top + row * (picture_height + GAP)))
    write(draw, note_lines, GAP, bottom, SMALL)
    bottom += len(note_lines) * line_height(SMALL) + GAP // 2
    middle = digits(scale[1] / 4, scale)  # the middle of the colours, by the square root
    colour_bar(draw, colours, numbered(scale), GAP, bottom, BAR_ROOM, middle)
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
    labels: dict[str, str] = {}  # token -> what of it fits
    for token in cells:
        if isinstance(token, str):
            lines = wrap(token, font(size, token), MAX_LABEL, 1)
            labels[token] = lines[0] if lines else ""
    before = max([cell, *(text_width([label], size) for label in labels.values())]) + 6
    above = line_height(TEXT) + 6
    side = len(cells) * cell
    out = Image.new("RGB", (before + side, above + before + side), PAPER)
    draw = ImageDraw.Draw(out)
    write(draw, [name], before, 0, TEXT, bold=True)
    top = above + before
    for number, token in enumerate(cells):
        place = number * cell
        if isinstance(token, str):
            _draw_label(out, labels[token], size, before, top, place, cell)
        else:
            thumb = token.resize((cell - 1, cell - 1), Image.Resampling.LANCZOS)
            out.paste(thumb, (before - cell - 2, top + place))
            out.paste(thumb, (before + place, top - cell - 2))
    pixels = table(colours)[(np.sqrt(unit(values, *scale)) * 255).astype(np.uint8)]
    pixels[values == 0] = PAPER
    filled = Image.fromarray(pixels.astype(np.uint8)).resize((side, side), Image.Resampling.NEAREST)
    out.paste(filled, (before, top))
    for place in range(cell, side + 1, cell):  # lines between cells
        draw.line((before, top + place - 1, before + side, top + place - 1), PAPER)
        draw.line((before + place - 1, top, before + place - 1, top + side), PAPER)
    if cell >= NUMBERS_FROM:
        _draw_numbers(draw, values, (before, top), cell, scale, colours)
    draw.rectangle((before - 1, top - 1, before + side - 1, top + side - 1), None, LINE)
    return out


def _draw_label(
    out: Image.Image, label: str, size: int, before: int, top: int, place: int, cell: int
) -> None:
    """Write a word beside its row, and rotated above its column."""
    face = font(size, label)
    middle = (cell - 1) // 2
    draw = ImageDraw.Draw(out)
    draw.text((before - 5, top + place + middle), label, INK, face, anchor="rm")
    strip = Image.new("RGB", (before - 5, cell), PAPER)
    ImageDraw.Draw(strip).text((0, middle), label, INK, face, anchor="lm")
    out.paste(strip.rotate(90, expand=True), (before + place, top - before))


def _draw_numbers(
    draw: ImageDraw.ImageDraw,
    values: Values,
    corner: tuple[int, int],
    cell: int,
    scale: tuple[float, float],
    colours: str,
) -> None:
    """Write each weight that is not 0 in its cell."""
    for row, column in np.argwhere(values):
        value = float(values[row, column])
        middle = corner[0] + column * cell + cell // 2, corner[1] + row * cell + cell // 2
        ink = shade((value / scale[1]) ** 0.5, (0.0, 1.0), colours)[1]
        draw.text(middle, f"{value:.2f}".removeprefix("0"), ink, font(NUMBER), anchor="mm")


def merged_patches(
    matrices: Values, tokens: Sequence[str], view: View, max_patches: int
) -> tuple[Values, Cells, int]:
    """Merge patches into squares, until there are at most `max_patches` of these. Returns matrices
    (K, M, M), an axis of M cells, and the side of a square in patches. Columns are summed, rows
    averaged."""
    rows, columns = view.grid
    side = 1
    while math.ceil(rows / side) * math.ceil(columns / side) > max_patches:
        side += 1
    square_columns = math.ceil(columns / side)
    count = math.ceil(rows / side) * square_columns
    y, x = np.divmod(np.arange(rows * columns), columns)
    cell_of = np.arange(len(tokens))  # token -> its cell
    patches = slice(view.first, view.first + rows * columns)
    cell_of[patches] = view.first + y // side * square_columns + x // side
    cell_of[patches.stop :] += count - rows * columns
    members = np.zeros((cell_of.max() + 1, len(tokens)), matrices.dtype)
    members[cell_of, np.arange(len(tokens))] = 1
    mean = members / members.sum(axis=1, keepdims=True)
    merged: NDArray[np.floating] = mean @ matrices @ members.T
    thumbs = [_thumb(view, side, *divmod(i, square_columns)) for i in range(count)]
    return merged, [*tokens[: view.first], *thumbs, *tokens[patches.stop :]], side


def _thumb(view: View, side: int, row: int, column: int) -> Image.Image:
    """The pixels of a square of `side` by `side` patches; fewer at the border."""
    rows, columns = (
        slice(place * side * view.patch, min((place + 1) * side, count) * view.patch)
        for place, count in zip((row, column), view.grid, strict=True)
    )
    return Image.fromarray(view.photo[rows, columns])
