"""A table of images: its rows, and which columns hold the images, captions and classes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchword.data.rows import (
    ANSWERS,
    IMAGES,
    LABELS,
    QUESTIONS,
    USUAL,
    Columns,
    JoinedColumns,
    Rows,
    caption_columns,
    class_of,
    find_column,
    is_number,
    listed,
)
from patchword.errors import RecipeError

NAME = "__name__"  # column of names for errors; without it, the path or number of a row
FAULT = "__fault__"  # column of errors that were found while rows were read


@dataclass(frozen=True)
class Table:
    """Rows, the names of their columns by content, and the base folder of relative paths."""

    where: str  # its name in errors
    rows: Rows
    image: str
    caption: str | None = None
    label: str | None = None
    question: str | None = None
    answer: str | None = None
    base: Path | None = None
    names: tuple[str, ...] = ()  # of the classes, if the label column holds their numbers
    columns: tuple[str, ...] = ()  # all columns, for errors

    def read_row(self, index: int) -> tuple[str, str | bytes, Mapping[str, Any]]:
        """(name, image, row) of a row. image: a path, the content of a file, or "" for none."""
        row = self.rows[index]
        cell = row[self.image]
        pair = cell if isinstance(cell, Mapping) else {"bytes": cell, "path": cell}
        path = pair["path"] if isinstance(pair.get("path"), str) else ""
        content = pair["bytes"] if isinstance(pair.get("bytes"), bytes) else ""
        if path and not content:
            path = resolved(path, self.base)
            return path, path, row
        note = f" ({path})" if path else ""
        return row.get(NAME) or f"{self.where}, row {index + 1}{note}", content, row

    def classes(self) -> tuple[tuple[str, ...], dict[str, int]]:
        """The names of its classes, and the number of each class by its label as `class_of` reads
        it. They are sorted as numbers if all are numbers, else as texts."""
        if self.names:
            return self.names, {str(number): number for number in range(len(self.names))}
        assert self.label is not None
        labels = {class_of(value) for value in self.rows.column(self.label)}
        names = sorted(name for name in labels if name is not None)
        if not names:
            raise RecipeError(f"{self.where}: no classes in column {self.label!r}")
        if all(map(is_number, names)):
            names.sort(key=float)  # stable: equal numbers stay sorted as texts
        return tuple(names), {name: number for number, name in enumerate(names)}


def resolved(path: str, base: Path | None) -> str:
    """The path in a cell of a table, relative to the folder `base` unless it is absolute or a
    URL."""
    if base is None or os.path.isabs(path) or "://" in path:
        return path
    return os.path.join(base, path)


def table_of(
    where: str,
    rows: Rows,
    named: Columns = USUAL,
    base: Path | None = None,
    pictures: Sequence[str] = (),
) -> Table:
    """The table of these rows.

    named: its columns by content; "" for those with a usual name. pictures: columns that are known
    to contain images. Raises RecipeError for a table without rows or images, and for a column that
    does not exist.
    """
    if not len(rows):
        raise RecipeError(f"{where}: no rows")
    columns = tuple(rows.columns)
    image = find_column(columns, named.image, IMAGES, where)
    if not named.image and pictures and image not in pictures:
        image = pictures[0]
    if image is None:
        raise RecipeError(
            f"{where}: no column of images; it has {listed(columns)}; call the one of images "
            'image, or name it in a recipe, data.0.image="..."'
        )
    others = [name for name in columns if name != image]
    label, question, answer = (
        find_column(others, name, usual, where)
        for name, usual in zip(named[2:], (LABELS, QUESTIONS, ANSWERS), strict=True)
    )
    captions = next(iter(caption_columns(others, named.caption, where)), [])
    caption = " + ".join(captions) or None
    if len(captions) > 1:
        rows = JoinedColumns(rows, " + ".join(captions), captions)
    return Table(where, rows, image, caption, label, question, answer, base, columns=columns)
