"""Tables of files and of the Hugging Face hub.

Parquet and the hub are read by the `datasets` library. It keeps them in its cache as memory-mapped
Arrow files, which all processes of a machine share. Text files are read without it.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from braceexpand import braceexpand

from patchword.data import table as image_table
from patchword.data.rows import USUAL, Columns, JoinedColumns, Rows, advice, suffix_of
from patchword.data.table import Table
from patchword.data.text_tables import CSV, JSON, csv_rows, json_rows
from patchword.errors import RecipeError
from patchword.optional import optional

READERS = {
    **dict.fromkeys(CSV, "csv"),
    **dict.fromkeys(JSON, "json"),
    ".parquet": "parquet",
}


class DatasetRows:
    """Rows of a `datasets.Dataset`, whose images are not decoded."""

    def __init__(self, dataset: Any) -> None:
        library = _library()
        self.pictures = [
            name for name, feature in dataset.features.items() if isinstance(feature, library.Image)
        ]
        for name in self.pictures:
            dataset = dataset.cast_column(name, library.Image(decode=False))
        self._dataset = dataset

    @property
    def columns(self) -> Sequence[str]:
        return list(self._dataset.column_names)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self._dataset[index]  # type: ignore[no-any-return]

    def column(self, name: str) -> Iterator[Any]:
        for batch in self._dataset.select_columns([name]).iter(1000):
            yield from batch[name]

    def names(self, column: str) -> tuple[str, ...]:
        """The class names of a column of ClassLabel; () for other columns."""
        feature = self._dataset.features[column]
        return tuple(feature.names) if isinstance(feature, _library().ClassLabel) else ()

    def only(self, columns: Sequence[str]) -> DatasetRows:
        """The rows with these columns alone; the others are not read then."""
        return DatasetRows(self._dataset.select_columns(list(columns)))


def files(pattern: str, suffixes: Sequence[str]) -> list[Path]:
    """The file at a path, or the files that match a pattern. A pattern may have *, ?, [...] and **,
    whose matches are sorted, and braces as in a shell ({a,b}, {000..127}), which are expanded in
    order, and of which every one must exist.

    Raises RecipeError if there is no file, one is empty, or one has none of the suffixes.
    """
    paths = [file for part in _expanded(pattern) for file in _matching(part)]
    if len(set(paths)) < len(paths):
        raise RecipeError(f"{pattern}: names some files twice")
    for file in paths:
        if not file.is_file() or suffix_of(file) not in suffixes:
            raise RecipeError(f"{file}: not a file of {' '.join(suffixes)}{advice(file)}")
        if not file.stat().st_size:
            raise RecipeError(f"{file}: empty")
    return paths


def _expanded(pattern: str) -> list[str]:
    """The patterns without braces that a pattern with braces stands for."""
    if not pattern:
        raise RecipeError("data.path is empty; it names a file, or a pattern of files")
    if os.path.exists(pattern):
        return [pattern]
    try:
        return list(braceexpand(pattern))
    except ValueError as error:
        raise RecipeError(f"{pattern}: {error}; a brace that is opened has to be closed") from error


def _matching(pattern: str) -> list[Path]:
    if Path(pattern).is_file():
        return [Path(pattern)]
    paths = sorted(map(Path, glob.glob(pattern, recursive=True)))
    if not paths:
        raise RecipeError(
            f"{pattern}: no such file; a pattern may have *, ** and ranges such as {{000..127}}"
        )
    return paths


def open_table(pattern: str) -> tuple[Rows, Path | None]:
    """The rows of one or more files of one kind, and their folder; None if they are in several."""
    paths = files(pattern, tuple(READERS))
    kinds = {READERS[suffix_of(file)] for file in paths}
    if len(kinds) > 1:
        raise RecipeError(f"{pattern}: {' and '.join(sorted(kinds))} files; give one kind a source")
    folders = {file.parent for file in paths}
    folder = folders.pop() if len(folders) == 1 else None
    return _read(pattern, kinds.pop(), paths), folder


def _read(pattern: str, kind: str, paths: Sequence[Path]) -> Rows:
    if kind == "csv":
        return csv_rows(paths)
    if kind == "json":
        return json_rows(paths)
    data_files = {"train": [glob.escape(str(file.resolve())) for file in paths]}
    return _load(pattern, kind, data_files=data_files, split="train")


def open_hub(path: str, subset: str, split: str) -> DatasetRows:
    """A split ("" is "train") of a dataset of the hub, or of a local folder that is laid out like
    one."""
    if not path:
        raise RecipeError("data.path is empty; a source of the hub needs organisation/name")
    return _load(path, path, name=subset or None, split=split or "train")


def table_of(where: str, rows: Rows, named: Columns = USUAL, base: Path | None = None) -> Table:
    """The same as `table.table_of`; from a `datasets` table, unused columns are removed."""
    if not isinstance(rows, DatasetRows):
        return image_table.table_of(where, rows, named, base)
    table = image_table.table_of(where, rows, named, base, rows.pictures)
    columns = (table.image, table.caption, table.label, table.question, table.answer)
    names = rows.names(table.label) if table.label else ()
    used = [name for name in columns if name and name in rows.columns]
    if isinstance(table.rows, JoinedColumns):
        parts = table.rows.parts
        joined = JoinedColumns(rows.only([*used, *parts]), table.rows.name, parts)
        return replace(table, rows=joined, names=names)
    return replace(table, rows=rows.only(used), names=names)


def _load(where: str, kind: str, **arguments: Any) -> DatasetRows:
    library = _library()
    try:
        with _quiet(library):
            return DatasetRows(library.load_dataset(kind, **arguments))
    # What its readers and the hub's client raise; the JSON reader raises StopIteration for no rows.
    except (
        library.exceptions.DatasetsError,
        OSError,
        ValueError,
        RuntimeError,
        StopIteration,
    ) as error:
        cause = error.__cause__ if error.__cause__ and "generating" in str(error) else error
        reason = " ".join(str(cause).split()) or "no rows"
        raise RecipeError(f"{where}: cannot be read: {reason[:400]}") from error


@contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """Context without the library's progress bars, and without its log: errors are raised
    anyway."""
    bars, level = library.is_progress_bar_enabled(), library.logging.get_verbosity()
    library.disable_progress_bars()
    library.logging.set_verbosity(library.logging.CRITICAL)
    try:
        yield
    finally:
        library.logging.set_verbosity(level)
        if bars:
            library.enable_progress_bars()


def _library() -> Any:
    return optional("datasets", "train", "a source of parquet or of the hub", RecipeError)
