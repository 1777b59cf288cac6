"""Tables of files, and of the Hugging Face hub.

Parquet and the hub are read by the `datasets` library, which keeps them as memory-mapped Arrow
files in its own cache, once for all processes of a machine; text files are read without it.
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
    """Rows of a `datasets.Dataset`, its images left undecoded."""

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
        for some in self._dataset.select_columns([name]).iter(1000):
            yield from some[name]

    def names(self, column: str) -> tuple[str, ...]:
        """The classes of a column of class labels; () of any other."""
        feature = self._dataset.features[column]
        return tuple(feature.names) if isinstance(feature, _library().ClassLabel) else ()

    def only(self, columns: Sequence[str]) -> DatasetRows:
        """The same without other columns, which are not read then."""
        return DatasetRows(self._dataset.select_columns(list(columns)))


def files(pattern: str, suffixes: Sequence[str]) -> list[Path]:
    """The file of that path, or those that match the pattern, in its order: with braces as in a
    shell ({a,b}, {000..127}), all of which must exist, and *, ?, [...] and **, sorted.

    Raises RecipeError where there is none, one is empty, or they are not of one of the suffixes.
    """
    found = [file for part in _expanded(pattern) for file in _matching(part)]
    if len(set(found)) < len(found):
        raise RecipeError(f"{pattern}: names some files twice")
    for file in found:
        if not file.is_file() or suffix_of(file) not in suffixes:
            raise RecipeError(f"{file}: not a file of {' '.join(suffixes)}{advice(file)}")
        if not file.stat().st_size:
            raise RecipeError(f"{file}: empty")
    return found


def _expanded(pattern: str) -> list[str]:
    """A pattern without its braces, as one or more."""
    if not pattern:
        raise RecipeError("data.path is empty; it names a file, or a pattern of files")
    if os.path.exists(pattern):
        return [pattern]
    try:
        return list(braceexpand(pattern))
    except ValueError as error:
        raise RecipeError(f"{pattern}: {error}; a brace that is opened has to be closed") from error


def _matching(pattern: str) -> list[Path]:
    whole = Path(pattern)
    found = [whole] if whole.is_file() else sorted(map(Path, glob.glob(pattern, recursive=True)))
    if not found:
        raise RecipeError(
            f"{pattern}: no such file; a pattern may have *, ** and ranges such as {{000..127}}"
        )
    return found


def open_table(pattern: str) -> tuple[Rows, Path | None]:
    """The rows of one or more files of one kind, and the folder they are in; None for several."""
    found = files(pattern, tuple(READERS))
    kinds = {READERS[suffix_of(file)] for file in found}
    if len(kinds) > 1:
        raise RecipeError(f"{pattern}: {' and '.join(sorted(kinds))} files; give one kind a source")
    folders = {file.parent for file in found}
    return _read(pattern, kinds.pop(), found), folders.pop() if len(folders) == 1 else None


def _read(pattern: str, kind: str, found: Sequence[Path]) -> Rows:
    if kind == "csv":
        return csv_rows(found)
    if kind == "json":
        return json_rows(found)
    paths = {"train": [glob.escape(str(file.resolve())) for file in found]}
    return _load(pattern, kind, data_files=paths, split="train")


def open_hub(path: str, subset: str, split: str) -> DatasetRows:
    """A split of a dataset of the hub, or of a local folder laid out like one there; "train" where
    none is named."""
    if not path:
        raise RecipeError("data.path is empty; a source of the hub needs organisation/name")
    return _load(path, path, name=subset or None, split=split or "train")


def table_of(where: str, rows: Rows, named: Columns = USUAL, base: Path | None = None) -> Table:
    """`table.table_of` of these rows; of a `datasets` table, without unused columns."""
    if not isinstance(rows, DatasetRows):
        return image_table.table_of(where, rows, named, base)
    table = image_table.table_of(where, rows, named, base, rows.pictures)
    columns = (table.image, table.caption, table.label, table.question, table.answer)
    names = rows.names(table.label) if table.label else ()
    wanted = [name for name in columns if name and name in rows.columns]
    if isinstance(table.rows, JoinedColumns):
        parts = table.rows.parts
        narrow = JoinedColumns(rows.only([*wanted, *parts]), table.rows.name, parts)
        return replace(table, rows=narrow, names=names)
    return replace(table, rows=rows.only(wanted), names=names)


def _load(where: str, kind: str, **arguments: Any) -> DatasetRows:
    library = _library()
    try:
        with _quiet(library):
            return DatasetRows(library.load_dataset(kind, **arguments))
    # What its readers and the hub's client raise; a file without rows stops the reader of JSON.
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
    """A context without the library's progress bars, and its log of errors that are raised
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
