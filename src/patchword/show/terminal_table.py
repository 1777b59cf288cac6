"""Tables in a terminal."""

from __future__ import annotations

import math
import re
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_WORD = re.compile(r"\S+")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_INDENTED = re.compile(r"^ +\S", re.MULTILINE)
_PART = re.compile(r"-?[^\s/_-]+[/_-]*|[/_-]+")  # of a word: names break after these characters
# Least widths of a column, tried in turn until the table fits: that of the longest piece that the
# pattern matches, and at least the number, if the column's texts are that long.
_LEAST = ((_WORD, 30), (_PART, 20), (_PART, 1), (re.compile("."), 1))


def table(*columns: str, right: Sequence[str] = ()) -> Table:
    """An empty table in patchword's style; columns in `right` are right-aligned.

    In a narrow terminal, texts break between words; if that is not enough, names break after a
    slash, a hyphen or an underscore; then columns move closer together; words break elsewhere only
    where nothing else fits.
    """
    from rich import box
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

    class Fitted(Table):
        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            cells = [[as_text(cell) for cell in (c.header, *c.cells)] for c in self.columns]
            gaps = len(self.columns) - 1
            room = options.max_width - 3 * gaps
            if sum(_least_widths(cells, _PART, room // 2)) > room:
                self.padding = (0, 0)
                room = options.max_width - gaps
            for column, texts, width in zip(self.columns, cells, widths(cells, room), strict=True):
                column.width = width
                column.header, *column._cells[:] = [broken(text, width) for text in texts]
            return super().__rich_console__(console, options)

    out = Fitted(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in columns:
        out.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return out


def printable(text: str) -> str:
    """A text with escapes for control characters, for characters that change the direction, and for
    bytes that are not UTF-8: file names may contain any. Line ends and tabs stay."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


def as_text(cell: object) -> Text:
    from rich.text import Text

    return cell if isinstance(cell, Text) else Text(printable(str(cell)))


def widths(cells: Sequence[Sequence[Text]], room: int) -> list[int]:
    """The widths of columns (lists of texts) that fit in `room` together; the widest columns are
    narrowed."""
    full = [max(text.cell_len for text in column) for column in cells]
    words = _least_widths(cells, _WORD)
    halves = [max(word, math.ceil(width / 2)) for word, width in zip(words, full, strict=True)]
    if sum(halves) <= room:  # no word breaks if texts take about two lines
        return _narrowed(full, halves, room)
    out = full
    for pattern, floor in _LEAST:
        longest = _least_widths(cells, pattern, room // 2)
        least = [
            max(length, min(width, floor)) for length, width in zip(longest, full, strict=True)
        ]
        out = _narrowed(out, least, room)
    return out


def _least_widths(
    cells: Sequence[Sequence[Text]], piece: re.Pattern[str], limit: int = sys.maxsize
) -> list[int]:
    """For each column the width of the longest piece of its texts, at most `limit`."""
    return [min(max(_longest(text.plain, piece) for text in column), limit) for column in cells]


def _narrowed(widths: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Narrow the widest columns until all fit, or all have their least width."""
    out = list(widths)
    while sum(out) > room:
        shrinkable = [i for i, width in enumerate(out) if width > least[i]]
        if not shrinkable:
            break
        out[max(shrinkable, key=lambda i: out[i])] -= 1
    return out


def broken(text: Text, width: int) -> Text:
    """A text whose words are broken between parts where they do not fit. Broken indented lines keep
    their indentation."""
    from rich.cells import cell_len
    from rich.text import Text

    if _INDENTED.search(text.plain):
        text = Text("\n".join(_hanging(line, width) for line in text.plain.split("\n")))
    cuts = []
    for word in _WORD.finditer(text.plain):
        start = word.start()
        for part in _PART.finditer(text.plain, *word.span()):
            if cell_len(text.plain[start : part.end()]) > width and part.start() > start:
                start = part.start()
                cuts.append(start)
    return Text("\n").join(text.divide(cuts)) if cuts else text


def _hanging(line: str, width: int) -> str:
    indent = line[: len(line) - len(line.lstrip())]
    if not indent:
        return line
    parts = textwrap.wrap(line.strip(), max(width - len(indent), 1), break_long_words=False)
    return "\n".join(indent + part for part in parts)


def _longest(text: str, pattern: re.Pattern[str]) -> int:
    from rich.cells import cell_len

    return max(map(cell_len, pattern.findall(text)), default=0)
