"""Tables of images by row, whatever they were read from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa  # type: ignore[import-untyped]

from patchword.errors import RecipeError

# Usual names of columns, the first that is there being meant; compared in lower case.
IMAGES = (
    *("image", "file_name", "img", "path", "filepath", "file", "filename", "image_path"),
    *("jpg", "jpeg", "png", "webp"),
)
CAPTIONS = ("caption", "captions", "text", "texts", "title", "sentence", "sentences", "description")
LABELS = ("label", "class", "class_name", "category", "cls", "target")


class Rows(Protocol):
    """A table: an image in each row, as a path, bytes, or {"bytes", "path"}."""

    @property
    def columns(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...

    def column(self, name: str) -> Iterator[Any]:
        """All values of a column, in order."""


class ArrowRows:
    """Rows in memory, as Arrow: processes share them without copies."""

    def __init__(self, columns: Mapping[str, pa.Array]) -> None:
        self._columns = dict(columns)

    @property
    def columns(self) -> Sequence[str]:
        return list(self._columns)

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return {name: values[index].as_py() for name, values in self._columns.items()}

    def column(self, name: str) -> Iterator[Any]:
        for value in self._columns[name]:
            yield value.as_py()


def find(columns: Sequence[str], asked: str, usual: Sequence[str], where: str) -> str | None:
    """The column `asked` for, or that of a usual name; None where there is none of those.

    Raises RecipeError, with the columns there are, where there is none as asked.
    """
    if asked and asked not in columns:
        raise RecipeError(f"{where}: no column {asked!r}; it has {listed(columns)}")
    if asked:
        return asked
    return next(iter(called(columns, usual)), None)


def called(columns: Sequence[str], usual: Sequence[str]) -> list[str]:
    """The columns that have one of the usual names, in the order of those."""
    return [name for word in usual for name in columns if name.lower() == word]


def listed(columns: Sequence[str]) -> str:
    """Columns in words."""
    return ", ".join(columns) or "no columns"


def texts_of(value: Any) -> list[str]:
    """The captions in one cell: a text, a list of texts, or nothing."""
    several = value if isinstance(value, (list, tuple)) else [value]
    return [text for text in several if isinstance(text, str) and text.strip()]
