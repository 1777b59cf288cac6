"""Folders of vectors as clip-retrieval and autofaiss write them: img_emb/img_emb_0.npy, ... and
metadata/metadata_0.parquet, ..., the same numbers side by side."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from patchword.data.rows import listed, usual_columns
from patchword.errors import IndexStoreError, counted
from patchword.index.members import PLACES
from patchword.index.metadata import read_table

_VECTORS, _METADATA = "img_emb", "metadata"
_NUMBER = re.compile(r"_(\d+)\.\w+$")


class Part(NamedTuple):
    """One file of vectors (N, D), mapped, with paths and the other columns, a pyarrow.Table."""

    vectors: NDArray[Any]
    paths: list[str]
    columns: Any


def vector_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The files of image vectors in such a folder, by number; none in any other."""
    return _numbered(Path(folder), _VECTORS, ".npy")


def parts(folder: str | os.PathLike[str]) -> list[Part]:
    """All of them. Raises IndexStoreError where a file has no metadata, or not as many rows."""
    vectors = vector_files(folder)
    tables = {_number(file): file for file in _numbered(Path(folder), _METADATA, ".parquet")}
    out = []
    for file in vectors:
        table = tables.get(_number(file))
        if table is None:
            raise IndexStoreError(
                f"{file}: no metadata_{_number(file)}.parquet beside it, which names its images"
            )
        out.append(_part(file, table, Path(folder)))
    return out


class Joined:
    """Several arrays of vectors as one, of which only the rows that are asked for are read."""

    def __init__(self, arrays: Sequence[NDArray[Any]]) -> None:
        self._arrays = arrays
        self.dtype, self.ndim = arrays[0].dtype, arrays[0].ndim
        self.shape = (sum(map(len, arrays)), *arrays[0].shape[1:])
        if any(each.shape[1:] != self.shape[1:] for each in arrays):
            raise IndexStoreError("the files of vectors have vectors of different lengths")

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        start, stop, _ = rows.indices(len(self))
        found = []
        for each in self._arrays:
            if start < len(each) and stop > 0:
                found.append(each[max(start, 0) : stop])
            start, stop = start - len(each), stop - len(each)
        return np.concatenate(found)


def array(file: str | os.PathLike[str]) -> NDArray[Any]:
    """The array in an .npy, mapped. Raises IndexStoreError for any other file."""
    if not os.path.isfile(file):
        raise IndexStoreError(f"{file}: no such file")
    try:
        found = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise IndexStoreError(
            f"{file}: no array of NumPy (.npy), as np.save writes it, or a damaged one"
        ) from error
    if not isinstance(found, np.ndarray):
        raise IndexStoreError(f"{file}: several arrays (.npz): save the one of vectors as an .npy")
    return found


def _part(file: Path, metadata: Path, folder: Path) -> Part:
    vectors = array(file)
    if vectors.ndim != 2:
        raise IndexStoreError(
            f"{file}: vectors are an array (N, D); this has shape {vectors.shape}"
        )
    table = read_table(str(metadata))
    if len(table) != len(vectors):
        raise IndexStoreError(
            f"{file}: {counted(len(vectors), 'vector')}, and {len(table)} in {metadata}"
        )
    for name in usual_columns(table.schema.names, PLACES):
        paths = table.column(name).to_pylist()
        if all(isinstance(p, str) and p for p in paths) and len(set(paths)) == len(paths):
            return Part(vectors, _located(paths, folder), table.drop_columns([name]))
    raise IndexStoreError(
        f"{metadata}: no column names each image by a path or an address of its own; it has "
        f"{listed(table.schema.names)}"
    )


def _located(paths: list[str], folder: Path) -> list[str]:
    """Relative paths from the folder where such files are there, else from the current one."""
    first = paths[0] if paths else "/"
    here = not os.path.isabs(first) and "://" not in first and (folder / first).exists()
    return [os.path.join(folder, path) for path in paths] if here else paths


def _numbered(folder: Path, kind: str, suffix: str) -> list[Path]:
    """The files KIND_NUMBER.SUFFIX in the folder KIND of a folder, or in itself, by number."""
    for place in (folder / kind, folder):
        found = [file for file in place.glob(f"{kind}_*{suffix}") if _NUMBER.search(file.name)]
        if found:
            return sorted(found, key=_number)
    return []


def _number(file: Path) -> int:
    found = _NUMBER.search(file.name)
    return int(found[1]) if found else -1
