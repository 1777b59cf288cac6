"""Tables of cells: csv with any usual delimiter, and tsv.

A .csv is read as RFC 4180 and Python's csv module define it: a cell in double quotes may contain
the delimiter, line breaks, and a doubled quote that stands for a quote. A .tsv has no quoting: a
quote is an ordinary character (IANA, text/tab-separated-values). Cells are not converted: "007" and
"NA" stay texts.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from patchword.data.rows import (
    ANSWERS,
    CAPTIONS,
    IMAGES,
    LABELS,
    QUESTIONS,
    listed,
    recipe_lines,
    suffix_of,
)
from patchword.errors import RecipeError, counted
from patchword.images.files import picture_suffixes

DELIMITERS = ",\t;|"  # in this order if the first line fits several
_USUAL = {*IMAGES, *CAPTIONS, *LABELS, *QUESTIONS, *ANSWERS}
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)  # Excel writes it first


class _Dialect(NamedTuple):
    delimiter: str
    quotes: bool
    spaced: bool = False  # a space after each delimiter


def csv_records(file: Path) -> Iterator[tuple[int, list[str]]]:
    """The names of the columns, then the cells of each row, as many as there are names. Each comes
    with the number of its last line. Blank lines are left out, and so are rows of empty cells,
    which Excel writes below a table.

    Raises RecipeError, with the line, for a row with too many or too few cells, a quote that is not
    closed, and a file that is not text.
    """
    lines = recipe_lines(file)
    skipped, first = _next_line(lines)
    dialect = _dialect(file, first)
    separator = _SEPARATOR_LINE.fullmatch(first)
    if separator:
        dialect = _Dialect(separator[1], quotes=True)
        blank, first = _next_line(lines)
        skipped += blank + 1
    lines = chain([first], lines)
    reader = csv.reader(
        lines if dialect.quotes else _unquoted(file, lines, skipped),
        delimiter=dialect.delimiter,
        quoting=csv.QUOTE_MINIMAL if dialect.quotes else csv.QUOTE_NONE,
        skipinitialspace=dialect.spaced,
        strict=True,
    )
    names: list[str] = []
    line = 0  # the last line of a row, counted by `reader`
    try:
        for row in reader:
            before, line = line, reader.line_num
            if not any(map(str.strip, row)):
                continue
            if not names:
                row = names = _names(file, row)
            elif len(row) != len(names) or row == names or line - before > 1:
                _check_row(file, skipped + before, skipped + line, row, names, dialect)
            yield skipped + line, row
    except csv.Error as error:
        reason = f"{error}; the row begins in line {skipped + line + 1}: is a quote not closed?"
        raise RecipeError(f"{file}, line {skipped + reader.line_num}: {reason}") from error
    if not names:
        raise RecipeError(f"{file}: its first line must name the columns; it has no columns")


def _next_line(lines: Iterator[str]) -> tuple[int, str]:
    """The number of blank lines, and the next other line; "" at the end of the file."""
    for number, line in enumerate(lines):
        if line.strip():
            return number, line
    return 0, ""


def _dialect(file: Path, first: str) -> _Dialect:
    """The dialect of a file. The delimiter of a .csv is the one with which the first line has the
    most usual names of columns; of several, the one with which it has the most cells."""
    if suffix_of(file) == ".tsv":
        return _Dialect("\t", quotes=False)
    best_score, best_cells, best_delimiter = (-1, -1), [""], ","
    for delimiter in DELIMITERS:
        try:
            cells = next(csv.reader([first], delimiter=delimiter), [])
        except csv.Error:  # a cell that is too long
            continue
        usual = sum(cell.strip().lower() in _USUAL for cell in cells)
        score = (usual, len(cells))
        if score > best_score:
            best_score, best_cells, best_delimiter = score, cells, delimiter
    others = best_cells[1:]
    spaced = bool(others) and all(cell.startswith(" ") for cell in others)
    return _Dialect(best_delimiter, quotes=True, spaced=spaced)


def _unquoted(file: Path, lines: Iterable[str], skipped: int) -> Iterator[str]:
    """The lines of a .tsv. Raises RecipeError for a line that was certainly written with quotes
    around cells: it has doubled quotes between quotes, or it is the first and all its names have
    quotes around them."""
    first = skipped + 1
    for number, line in enumerate(lines, start=first):
        if '""' in line or (number == first and '"' in line):
            cells = line.rstrip("\r\n").split("\t")
            quoted_names = number == first and all(c[:1] == c[-1:] == '"' for c in cells)
            if quoted_names or any(map(_is_quoted, cells)):
                raise RecipeError(
                    f"{file}, line {number}: a quoted cell; a .tsv has no quoting: end the name of "
                    "the file in .csv if its cells are quoted"
                )
        yield line


def _names(file: Path, row: Sequence[str]) -> list[str]:
    """The columns that the first row names. A first column without a name, which pandas writes for
    an index, gets the name that pandas gives it."""
    names = [cell.strip() for cell in row]
    if len(names) > 1 and not names[0]:
        names[0] = "Unnamed: 0"
    if not all(names):
        unnamed = f"; column {names.index('') + 1} has no name" if any(names) else ""
        raise RecipeError(
            f"{file}: its first line must name the columns; it has {listed(names)}{unnamed}"
        )
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate:
        raise RecipeError(f"{file}: its first line names {duplicate!r} twice; rename one of them")
    return names


def _check_row(
    file: Path, before: int, line: int, row: list[str], names: list[str], dialect: _Dialect
) -> None:
    """Raise RecipeError for a row that must be a mistake. before, line: the last lines of the
    previous row and of this one."""
    reason = ""
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
        raise RecipeError(f"{file}, line {line}: {reason}")


def _holds_rows(cell: str, delimiter: str) -> bool:
    """Whether a cell contains a line that looks like a row: several cells, one of which is the name
    of a picture."""
    suffixes = tuple(picture_suffixes())
    return any(
        part.strip().strip('"').lower().endswith(suffixes)
        for line in cell.splitlines()[1:]
        if delimiter in line
        for part in line.split(delimiter)
    )


def _is_quoted(cell: str) -> bool:
    """Whether a cell was certainly written with quoting: it has doubled quotes between quotes."""
    inner = cell[1:-1]
    return cell[:1] == cell[-1:] == '"' and '""' in inner and '"' not in inner.replace('""', "")
