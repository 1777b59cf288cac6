"""Tables in text files, read without the `datasets` library: row by row, or into memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa  # type: ignore[import-untyped]

from patchword.data.csv_files import csv_records
from patchword.data.json_files import json_records
from patchword.data.rows import ArrowRows, listed, suffix_of
from patchword.errors import RecipeError

CSV, JSON = (".csv", ".tsv"), (".json", ".jsonl")
BATCH = 100_000  # rows that are Python objects at a time; they become Arrow arrays

T = TypeVar("T")


class JsonRows:
    """Rows as JSON texts in memory. A row is parsed when it is read."""

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


def records(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row of a text file, with its place: "line 3", or "entry 3" of a list.

    Raises RecipeError, with the place, for a row that cannot be read.
    """
    if suffix_of(file) in JSON:
        for place, _, value in json_records(file):
            yield place, value
        return
    rows = csv_records(file)
    _, names = next(rows)
    for line, cells in rows:
        yield f"line {line}", dict(zip(names, cells, strict=True))


def csv_rows(files: Sequence[Path]) -> ArrowRows:
    """The rows of csv or tsv files with the same columns, see `csv_files`. Raises RecipeError, with
    the line, for a row that cannot be read."""
    names: list[str] = []
    columns: list[list[pa.Array]] = []
    for file in files:
        rows = csv_records(file)
        _, header = next(rows)
        if names and header != names:
            raise RecipeError(f"{file}: it has {listed(header)}, but {files[0]} {listed(names)}")
        names, columns = header, columns or [[] for _ in header]
        for batch in _batches(cells for _, cells in rows):
            for parts, cells in zip(columns, zip(*batch, strict=True), strict=True):
                parts.append(pa.array(cells, pa.large_string()))
    return ArrowRows({name: _joined(parts) for name, parts in zip(names, columns, strict=True)})


def json_rows(files: Sequence[Path]) -> JsonRows:
    """The objects of files, see `json_files`. All their keys are columns. Raises RecipeError, with
    the line or entry, for an object that cannot be read."""
    keys: dict[str, None] = {}  # in order
    parts = []
    for file in files:
        for batch in _batches(json_records(file)):
            for _, _, value in batch:
                keys.update(dict.fromkeys(value))
            parts.append(pa.array([text for _, text, _ in batch], pa.large_string()))
    return JsonRows(_joined(parts), list(keys))


def _joined(parts: Sequence[pa.Array]) -> pa.Array:
    return pa.concat_arrays(parts) if parts else pa.array([], pa.large_string())


def _batches(items: Iterator[T]) -> Iterator[list[T]]:
    while batch := list(islice(items, BATCH)):
        yield batch
