"""Tables of text files, kept in memory: csv, and JSON with an object for each row.

Read without the `datasets` library. Every cell of a csv is the text it is, "007" and "NA" too.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TextIO, TypeVar

import pyarrow as pa  # type: ignore[import-untyped]

from patchword.data.rows import ArrowRows, listed
from patchword.errors import RecipeError

BATCH = 100_000  # rows that are Python objects at a time, before they become Arrow's

T = TypeVar("T")


class JsonRows:
    """Rows as JSON texts in memory, each parsed when it is asked for."""

    def __init__(self, texts: pa.Array, columns: Sequence[str]) -> None:
        self._texts = texts
        self._columns = list(columns)

    @property
    def columns(self) -> Sequence[str]:
        return self._columns

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        row = json.loads(self._texts[index].as_py())
        return {name: row.get(name) for name in self._columns}

    def column(self, name: str) -> Iterator[Any]:
        for text in self._texts:
            yield json.loads(text.as_py()).get(name)


def csv_rows(files: Sequence[Path]) -> ArrowRows:
    """The rows of csv files with the same columns; cells stand between commas, or between tabs in a
    .tsv and where the first line has tabs and no comma.

    Raises RecipeError, with the line, for what cannot be read.
    """
    names: list[str] = []
    columns: list[list[pa.Array]] = []
    for file in files:
        rows = _csv_lines(file)
        _, head = next(rows, (0, []))
        if not head or not all(head) or len(set(head)) < len(head):
            raise RecipeError(
                f"{file}: its first line must name the columns; it has {listed(head)}"
            )
        if names and head != names:
            raise RecipeError(f"{file}: it has {listed(head)}, but {files[0]} {listed(names)}")
        names, columns = head, columns or [[] for _ in head]
        for batch in _batches(_whole(file, rows, len(head))):
            for parts, cells in zip(columns, zip(*batch, strict=True), strict=True):
                parts.append(pa.array(cells, pa.large_string()))
    return ArrowRows({name: _joined(parts) for name, parts in zip(names, columns, strict=True)})


def json_rows(files: Sequence[Path]) -> JsonRows:
    """The rows of files with an object a line, or with one list of objects; all their keys are
    columns.

    Raises RecipeError, with the line, for what cannot be read.
    """
    keys: dict[str, None] = {}
    parts = []
    for file in files:
        for batch in _batches(_objects(file)):
            for _, row in batch:
                keys.update(dict.fromkeys(row))
            parts.append(pa.array([text for text, _ in batch], pa.large_string()))
    return JsonRows(_joined(parts), list(keys))


def _joined(parts: Sequence[pa.Array]) -> pa.Array:
    return pa.concat_arrays(parts) if parts else pa.array([], pa.large_string())


def _batches(items: Iterator[T]) -> Iterator[list[T]]:
    while batch := list(islice(items, BATCH)):
        yield batch


@contextmanager
def _opened(file: Path) -> Iterator[TextIO]:
    """A text file. Raises RecipeError, also while it is read."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            yield lines
    except UnicodeDecodeError as error:
        raise RecipeError(f"{file}: not UTF-8: {error.reason}") from error
    except OSError as error:
        raise RecipeError(f"{file}: cannot be read: {error.strerror}") from error


def _csv_lines(file: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, each with the number of its last line."""
    with _opened(file) as lines:
        first = lines.readline()
        tabs = file.suffix.lower() == ".tsv" or ("\t" in first and "," not in first)
        lines.seek(0)
        reader = csv.reader(lines, delimiter="\t" if tabs else ",", strict=True)
        try:
            yield from ((reader.line_num, row) for row in reader if row)
        except csv.Error as error:
            raise RecipeError(f"{file}, line {reader.line_num}: {error}") from error


def _whole(file: Path, rows: Iterator[tuple[int, list[str]]], width: int) -> Iterator[list[str]]:
    for line, row in rows:
        if len(row) != width:
            raise RecipeError(f"{file}, line {line}: {len(row)} cells for {width} columns")
        yield row


def _objects(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object as text, and parsed."""
    with _opened(file) as lines:
        for number, text in enumerate(lines, start=1):
            where = f"{file}, line {number}"
            if number == 1 and text.lstrip().startswith("["):
                for each in _parsed(text + lines.read(), where):
                    yield json.dumps(each), _object(each, where)
                return
            if text.strip():
                yield text, _object(_parsed(text, where), where)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise RecipeError(f"{where}: not JSON ({error})") from error


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RecipeError(f"{where}: not a JSON object")
    return value
