"""The input of capfilt: the images of a dataset, each with its original texts."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

from patchword.config import PreprocessConfig
from patchword.data import SourceConfig, open_sources, tables, tars
from patchword.data.rows import JoinedColumns, advice, suffix_of, texts_of
from patchword.data.table import FAULT, Table, resolved
from patchword.data.table_source import TableSource
from patchword.data.tables import READERS
from patchword.errors import PatchwordError
from patchword.images.urls import is_url


@dataclass(frozen=True)
class Photo:
    """One image.

    number  its index among the images of the dataset
    name    its name in errors
    image   the path of its file, or the file's content; empty if the row has no image
    texts   its original texts
    fault   the error of its row; "" if there is none
    """

    number: int
    name: str
    image: str | bytes
    texts: list[str]
    fault: str = ""


class Photos:
    """The images of a table by number. Rows that name the same file are one image.

    digest: a hash (16 hex digits) of the texts, and of the names of images that are files.
    """

    def __init__(self, table: Table, files: Iterable[Path], start: Path) -> None:
        """files: the files of the table itself. Their sizes are part of the digest: a table may
        contain the images. start: the folder to which names are relative."""
        self._table = table
        self._start = os.path.realpath(start)
        digest = hashlib.sha256(json.dumps([file.stat().st_size for file in files]).encode())
        self._rows = self._grouped(digest)
        self.digest = digest.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Photo:
        rows = self._rows[number]
        name, image, row = self._table.read_row(rows[0])
        texts = self._texts(row)
        for other in rows[1:]:
            texts += self._texts(self._table.rows[other])
        fault = row.get(FAULT) or ("" if image else "no image in this row")
        return Photo(number, name, b"" if fault else image, texts, fault)

    def file_name(self, path: str) -> str:
        """An image's path relative to the `start` folder; URLs are returned unchanged."""
        if is_url(path):
            return path
        absolute = os.path.abspath(path)
        try:
            return os.path.relpath(absolute, self._start)
        except ValueError:  # on another drive of Windows
            return absolute

    @property
    def left_out(self) -> list[str]:
        """The columns with values that are neither images nor captions."""
        table, rows = self._table, self._table.rows
        parts = rows.parts if isinstance(rows, JoinedColumns) else ()
        written = {table.image, table.caption, *parts, FAULT}
        others = [name for name in rows.columns if name in table.columns and name not in written]
        return [
            name for name in others if any(cell not in (None, "") for cell in rows.column(name))
        ]

    def _texts(self, row: Mapping[str, Any]) -> list[str]:
        return texts_of(row[self._table.caption]) if self._table.caption else []

    def _grouped(self, digest: Any) -> list[list[int]]:
        """The row numbers of each image. Updates the digest."""
        table, count = self._table, len(self._table.rows)
        paths: Iterable[Any] = repeat("", count)
        cells = (table.rows[number][table.image] for number in range(count))
        if isinstance(next((cell for cell in cells if cell is not None), None), str):
            paths = table.rows.column(table.image)
        texts = table.rows.column(table.caption) if table.caption else repeat(None, count)
        groups: dict[str | int, list[int]] = {}  # by file name; without a file, by row number
        for number, (path, text) in enumerate(zip(paths, texts, strict=True)):
            name = ""
            if path and isinstance(path, str):
                name = self.file_name(resolved(path, table.base))
            groups.setdefault(name or number, []).append(number)
            digest.update(json.dumps([name, texts_of(text)]).encode() + b"\n")
        return list(groups.values())


def open_photos(path: str, start: Path, image: str = "", caption: str = "") -> Photos:
    """The images of a folder, a table or tars, found as `patchword train` finds them.

    start: the folder to which names are relative. image, caption: columns; "": those with usual
    names. Raises PatchwordError for data that is missing or has no images.
    """
    kind = _kind(path)
    config = SourceConfig(kind, path=path, image=image, caption=caption)  # type: ignore[arg-type]
    (source,) = open_sources([config], PreprocessConfig(), ())
    assert isinstance(source, TableSource)  # as all kinds but scenes
    files = [] if kind == "folder" else tables.files(path, (*READERS, *tars.SUFFIXES))
    return Photos(source.table, files, start)


def _kind(path: str) -> str:
    """The kind of source that reads this path, as in a recipe."""
    suffix = suffix_of(path)
    if os.path.isdir(path):
        return "folder"
    if suffix in tars.SUFFIXES:
        return "webdataset"
    if suffix in READERS:
        return "table"
    known = " ".join([*READERS, *tars.SUFFIXES])
    raise PatchwordError(f"{path}: no such folder, and no file of {known}{advice(path)}")
