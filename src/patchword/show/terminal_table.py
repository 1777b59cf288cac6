"""Tables in a terminal."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_WORD = re.compile(r"\S+")
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_INDENTED = re.compile(r"^ +\S", re.MULTILINE)
_PART = re.compile(r"-?[^\s/_-]+[/_-]*|[/_-]+")  # of a word: a name breaks after these signs
# What a column is not made narrower than, one after the other until all fit: the longest of these
# pieces, and as many columns as that where its texts are so long.
_LEAST = ((_WORD, 30), (_PART, 20), (_PART, 1), (re.compile("."), 1))


def table(*columns: str, right: Sequence[str] = ()) -> Table:
    """An empty table in patchword's style; columns in `right` are right-aligned.

    In a narrow terminal texts break between words; then names after a slash, a hyphen or an
    underscore; then columns stand closer together; elsewhere in a word texts break only where
    nothing else fits.
    """
    from rich import box
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

    class Fitted(Table):
        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            cells = [[as_text(cell) for cell in (c.header, *c.cells)] for c in self.columns]
            between = len(self.columns) - 1
            room = options.max_width - 3 * between
            if sum(_least(cells, _PART, room // 2)) > room:
                self.padding, room = (0, 0), options.max_width - between
            for column, texts, width in zip(self.columns, cells, widths(cells, room), strict=True):
                column.width = width
                column.header, *rest = [broken(text, width) for text in texts]
                column._cells[:] = rest
            return super().__rich_console__(console, options)

    out = Fitted(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in columns:
        out.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return out


def printable(text: str) -> str:
    """A text whose characters that a terminal obeys, that turn its direction, or that are no UTF-8
    are written out: the names of files may have any. Line ends and tabs stay."""
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)


def as_text(cell: object) -> Text:
    from rich.text import Text

    return cell if isinstance(cell, Text) else Text(printable(str(cell)))


def widths(cells: Sequence[Sequence[Text]], room: int) -> list[int]:
    """How wide each column is, of its texts, so that together they fit: the widest give way."""
    whole = [max(text.cell_len for text in column) for column in cells]
    out = list(whole)
    words = _least(cells, _WORD)
    halves = [max(word, -(-all_of // 2)) for word, all_of in zip(words, whole, strict=True)]
    if sum(halves) <= room:  # names stay whole where texts on two lines or so are enough
        return _narrowed(out, halves, room)
    for pattern, floor in _LEAST:
        longest = _least(cells, pattern, room // 2)
        least = [
            max(length, min(all_of, floor)) for length, all_of in zip(longest, whole, strict=True)
        ]
        out = _narrowed(out, least, room)
    return out


def _least(
    cells: Sequence[Sequence[Text]], piece: re.Pattern[str], most: int = sys.maxsize
) -> list[int]:
    """How wide each column is so that no piece of its texts breaks, but for those that are longer
    than `most`."""
    return [min(max(_longest(text.plain, piece) for text in each), most) for each in cells]


def _narrowed(widths: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """The widest give way until all fit, or all are at their least."""
    out = list(widths)
    while sum(out) > room:
        able = [i for i, width in enumerate(out) if width > least[i]]
        if not able:
            break
        out[max(able, key=out.__getitem__)] -= 1
    return out


def broken(text: Text, width: int) -> Text:
    """A text whose words are broken after a part where they do not fit; an indented line goes on
    as far in as it begins."""
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
