"""Tables of cells: csv with any usual delimiter, and tsv.

A .csv is read as RFC 4180 and Python's csv module define it: a cell may stand in double quotes, and
may then contain the delimiter, line breaks, and a doubled quote for a quote. A .tsv has no quoting:
a quote is a character like any other (IANA, text/tab-separated-values). No cell is converted: "007"
and "NA" stay texts.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from patchword.data.rows import ANSWERS, CAPTIONS, IMAGES, LABELS, QUESTIONS, listed, suffix_of
from patchword.errors import PatchwordError, RecipeError, counted
from patchword.images.files import picture_suffixes
from patchword.text.lines import text_lines

DELIMITERS = ",\t;|"  # in this order where the first line does not decide
_USUAL = {*IMAGES, *CAPTIONS, *LABELS, *QUESTIONS, *ANSWERS}
_STATED = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)  # Excel's own first line


class _Dialect(NamedTuple):
    delimiter: str
    quotes: bool
    spaced: bool = False  # a space behind each delimiter


def csv_records(file: Path) -> Iterator[tuple[int, list[str]]]:
    """The names of the columns, then the cells of each row, as many as there are names; with the
    number of the last line of each. Blank lines are left out, and rows whose cells are all empty,
    as Excel writes them below a table.

    Raises RecipeError, with the line, for what cannot be read: a cell too many or too few, a quote
    that is not closed, a file that is not text.
    """
    try:
        yield from _records(file)
    except RecipeError:
        raise
    except PatchwordError as error:
        raise RecipeError(str(error)) from error


def _records(file: Path) -> Iterator[tuple[int, list[str]]]:
    lines = text_lines(file)
    skipped, first = _next_line(lines)
    dialect = _dialect(file, first)
    if stated := _STATED.fullmatch(first):
        dialect = _Dialect(stated[1], quotes=True)
        more, first = _next_line(lines)
        skipped += more + 1
    lines = chain([first], lines)
    reader = csv.reader(
        lines if dialect.quotes else _unquoted(file, lines, skipped),
        delimiter=dialect.delimiter,
        quoting=csv.QUOTE_MINIMAL if dialect.quotes else csv.QUOTE_NONE,
        skipinitialspace=dialect.spaced,
        strict=True,
    )
    names: list[str] = []
    line = 0  # of `reader`
    try:
        for row in reader:
            before, line = line, reader.line_num
            if not any(map(str.strip, row)):
                continue
            if not names:
                row = names = _names(file, row)
            elif len(row) != len(names) or row == names or line - before > 1:
                _check(file, skipped + before, skipped + line, row, names, dialect)
            yield skipped + line, row
    except csv.Error as error:
        reason = f"{error}; the row begins in line {skipped + line + 1}: is a quote not closed?"
        raise RecipeError(f"{file}, line {skipped + reader.line_num}: {reason}") from error
    if not names:
        raise RecipeError(f"{file}: its first line must name the columns; it has no columns")


def _next_line(lines: Iterator[str]) -> tuple[int, str]:
    """How many blank lines come first, and the line behind them; "" at the end."""
    for number, line in enumerate(lines):
        if line.strip():
            return number, line
    return 0, ""


def _dialect(file: Path, first: str) -> _Dialect:
    """That of a .tsv; else the delimiter that makes the most usual names of the first line, and
    then the most cells."""
    if suffix_of(file) == ".tsv":
        return _Dialect("\t", quotes=False)
    best, cells = (-1, -1), [""]
    delimiter = ","
    for each in DELIMITERS:
        try:
            found = next(csv.reader([first], delimiter=each), [])
        except csv.Error:  # a cell that is too long
            continue
        usual = sum(cell.strip().lower() in _USUAL for cell in found)
        if (usual, len(found)) > best:
            best, cells, delimiter = (usual, len(found)), found, each
    spaced = len(cells) > 1 and all(cell.startswith(" ") for cell in cells[1:])
    return _Dialect(delimiter, quotes=True, spaced=spaced)


def _unquoted(file: Path, lines: Iterable[str], skipped: int) -> Iterator[str]:
    """The lines of a .tsv. Raises RecipeError for one that can only have been written with quotes
    around cells: with doubled quotes between quotes, or with quotes around all names."""
    for number, line in enumerate(lines, start=skipped + 1):
        if '""' in line or (number == skipped + 1 and '"' in line):
            cells = line.rstrip("\r\n").split("\t")
            names = number == skipped + 1 and all(c[:1] == c[-1:] == '"' for c in cells)
            if names or any(map(_is_quoted, cells)):
                raise RecipeError(
                    f"{file}, line {number}: a quoted cell; a .tsv has no quoting: end the name of "
                    "the file in .csv if its cells are quoted"
                )
        yield line


def _names(file: Path, row: Sequence[str]) -> list[str]:
    """The columns that the first row names. An index without a name, as pandas writes it, is called
    as pandas calls it."""
    names = [cell.strip() for cell in row]
    if len(names) > 1 and not names[0]:
        names[0] = "Unnamed: 0"
    if not all(names):
        unnamed = f"; column {names.index('') + 1} has no name" if any(names) else ""
        raise RecipeError(
            f"{file}: its first line must name the columns; it has {listed(names)}{unnamed}"
        )
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise RecipeError(f"{file}: its first line names {twice!r} twice; rename one of them")
    return names


def _check(
    file: Path, before: int, line: int, row: list[str], names: list[str], dialect: _Dialect
) -> None:
    """Raise RecipeError for a row that must be a mistake. before, line: numbers of the last lines
    of the row before, and of this one."""
    where, reason = f"{file}, line {line}", ""
    if len(row) != len(names):
        reason = f"{counted(len(row), 'cell')} for {counted(len(names), 'column')}"
        if dialect.quotes:
            reason += "; a cell with a delimiter or a line break needs quotes around it"
    elif row == names:
        reason = "the names of the columns a second time; delete this line"
    elif line - before > 1 and any(_holds_rows(cell, dialect.delimiter) for cell in row):
        reason = (
            f"a quote that opens after line {before} closes here, and the text between looks "
            "like rows; close the quote earlier, or double it"
        )
    if reason:
        raise RecipeError(f"{where}: {reason}")


def _holds_rows(cell: str, delimiter: str) -> bool:
    """Whether a line within a cell is of several cells, one of them the name of a picture."""
    suffixes = tuple(picture_suffixes())
    return any(
        part.strip().strip('"').lower().endswith(suffixes)
        for text in cell.splitlines()[1:]
        if delimiter in text
        for part in text.split(delimiter)
    )


def _is_quoted(cell: str) -> bool:
    """Whether a cell can only have been written with quoting: doubled quotes between quotes."""
    inner = cell[1:-1]
    return cell[:1] == cell[-1:] == '"' and '""' in inner and '"' not in inner.replace('""', "")
