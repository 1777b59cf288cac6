"""Confusion matrices as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from patchword.errors import counted
from patchword.evaluate.metrics import Indices
from patchword.evaluate.run import Classified
from patchword.show.colours import SHARES, shade
from patchword.show.plots import GAP, stacked
from patchword.show.text_drawing import FAINT, INK, PAPER, SMALL, TEXT, font, wrap

# In pixels.
NAMES = 220  # the most room for the names of classes, at the left and above
LARGEST, SMALLEST = 56, 4  # side of a cell
WORDS = 560  # the least width, for title and legend
SIDE = 1400  # of a matrix, unless cells are at their smallest
NUMBERED, READABLE = 34, 15  # side of a cell from which it shows its number, and its row its name


def confusion_picture(answers: Sequence[Classified]) -> Image.Image:
    """The confusion matrix of each answer: a row per right class, a column per predicted class,
    colours by the share of the row, numbers of images. With many classes the numbers are left out,
    with more also the names."""
    return stacked([_matrix(answer) for answer in answers])


def _matrix(answer: Classified) -> Image.Image:
    """One matrix under its title."""
    count = len(answer.classes)
    cell = int(np.clip(SIDE // count, SMALLEST, LARGEST))
    face = font(min(SMALL, cell - 2)) if cell >= READABLE else None
    longest = max(map(face.getlength, answer.classes)) if face else 0
    room = min(NAMES, round(longest) + 14) if face else 0
    side, head = room + cell * count, 2 * GAP + 2 * TEXT
    out = Image.new("RGB", (2 * GAP + max(side, WORDS), head + side + GAP), PAPER)
    draw = ImageDraw.Draw(out)
    title = f"{answer.task}: {answer.top1:.1%} of {counted(answer.images, 'image')} right"
    draw.text((GAP, GAP + TEXT), title, INK, font(TEXT, title, bold=True), anchor="ls")
    legend = "rows: the right class; columns: the answer; colour: share of the row"
    draw.text((GAP, GAP + 2 * TEXT + 8), legend, FAINT, font(SMALL), anchor="ls")
    if room:
        _names(out, answer.classes, (GAP, head), room, cell)
    _cells(out, answer.confusion, (GAP + room, head + room), cell)
    return out


def _names(
    out: Image.Image, names: Sequence[str], at: tuple[int, int], room: int, cell: int
) -> None:
    """Draw the names of classes in `room` pixels, at the left and, rotated, above."""
    left, top = at
    size = min(SMALL, cell - 2)
    for i, name in enumerate(names):
        face = font(size, name)
        line = "".join(wrap(name, face, room - 8, 1))
        strip = Image.new("RGB", (room, cell), PAPER)
        ImageDraw.Draw(strip).text((room - 8, cell // 2), line, INK, face, anchor="rm")
        out.paste(strip, (left, top + room + i * cell))
        turned = strip.transpose(Image.Transpose.ROTATE_270)
        out.paste(turned, (left + room + i * cell, top))


def _cells(out: Image.Image, counts: Indices, at: tuple[int, int], cell: int) -> None:
    """Draw the cells from the upper left corner `at`, with numbers if they fit."""
    left, top = at
    shades = [shade(level / 255, (0.0, 1.0), SHARES) for level in range(256)]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    levels = (shares * 255).astype(np.uint8)
    squares = np.array([fill for fill, _ in shades], np.uint8)[levels]
    pixels = squares.repeat(cell, axis=0).repeat(cell, axis=1)
    if cell >= READABLE:
        pixels[cell - 1 :: cell] = PAPER
        pixels[:, cell - 1 :: cell] = PAPER
    out.paste(Image.fromarray(pixels), at)
    if cell < NUMBERED:
        return
    draw = ImageDraw.Draw(out)
    for row, column in np.argwhere(counts).tolist():
        middle = left + column * cell + cell // 2, top + row * cell + cell // 2
        ink, face = shades[levels[row, column]][1], font(SMALL, bold=row == column)
        draw.text(middle, str(counts[row, column]), ink, face, anchor="mm")
