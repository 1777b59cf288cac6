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
    name    its name in messages
    image   the path of its file, or the file's content; empty where there is none
    texts   its original texts
    fault   the error of its row; "" where there is none
    """

    number: int
    name: str
    image: str | bytes
    texts: list[str]
    fault: str = ""


class Photos:
    """The images of a table by number; rows that name the same file are one image.

    `digest` (hex, 16 digits): a hash of the images' names, where they are files, and their texts.
    """

    def __init__(self, table: Table, files: Iterable[Path], start: Path) -> None:
        """files: those of the table itself; their sizes are part of the digest, for tables that
        contain images. start: the folder that names are relative to."""
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
        """An image's path relative to the `start` folder; an address as it is."""
        if is_url(path):
            return path
        whole = os.path.abspath(path)
        try:
            return os.path.relpath(whole, self._start)
        except ValueError:  # another drive of Windows
            return whole

    @property
    def left_out(self) -> list[str]:
        """The columns that have values and are none of images or captions."""
        table, rows = self._table, self._table.rows
        parts = rows.parts if isinstance(rows, JoinedColumns) else ()
        read = {table.image, table.caption, *parts, FAULT}
        others = [name for name in rows.columns if name in table.columns and name not in read]
        empty = (None, "")
        return [name for name in others if any(cell not in empty for cell in rows.column(name))]

    def _texts(self, row: Mapping[str, Any]) -> list[str]:
        return texts_of(row[self._table.caption]) if self._table.caption else []

    def _grouped(self, digest: Any) -> list[list[int]]:
        """The row numbers of each image; updates the digest."""
        table = self._table
        paths: Iterable[Any] = repeat("", len(table.rows))
        cells = (table.rows[row][table.image] for row in range(len(table.rows)))
        if isinstance(next((cell for cell in cells if cell is not None), None), str):
            paths = table.rows.column(table.image)
        texts = table.rows.column(table.caption) if table.caption else repeat(None, len(table.rows))
        groups: dict[str | int, list[int]] = {}
        for row, (path, cell) in enumerate(zip(paths, texts, strict=True)):
            whole = resolved(path, table.base) if path and isinstance(path, str) else ""
            known = self.file_name(whole) if whole else ""
            groups.setdefault(known or row, []).append(row)
            digest.update(json.dumps([known, texts_of(cell)]).encode() + b"\n")
        return list(groups.values())


def open_photos(path: str, start: Path, image: str = "", caption: str = "") -> Photos:
    """The images of a folder, a table or tars, as `patchword train` finds them.

    image, caption: columns; "": by their usual names. Raises PatchwordError for data that is not
    there or has no images.
    """
    kind = _kind(path)
    config = SourceConfig(kind, path=path, image=image, caption=caption)  # type: ignore[arg-type]
    (source,) = open_sources([config], PreprocessConfig(), ())
    assert isinstance(source, TableSource)  # of every kind but scenes
    files = [] if kind == "folder" else tables.files(path, (*READERS, *tars.SUFFIXES))
    return Photos(source.table, files, start)


def _kind(path: str) -> str:
    """The kind of source in a recipe that reads this path."""
    suffix = suffix_of(path)
    if os.path.isdir(path):
        return "folder"
    if suffix in tars.SUFFIXES:
        return "webdataset"
    if suffix in READERS:
        return "table"
    known = " ".join([*READERS, *tars.SUFFIXES])
    raise PatchwordError(f"{path}: no such folder, and no file of {known}{advice(path)}")
