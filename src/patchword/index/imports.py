"""Folders of vectors as clip-retrieval and autofaiss write them: img_emb/img_emb_0.npy, ... and
metadata/metadata_0.parquet, ...; files of the same number belong together."""

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
    """One file of vectors (N, D), memory-mapped, the paths of its images, and the other columns of
    its metadata, a pyarrow.Table."""

    vectors: NDArray[Any]
    paths: list[str]
    columns: Any


def vector_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The files of image vectors in such a folder, sorted by number; none in any other folder."""
    return _numbered(Path(folder), _VECTORS, ".npy")


def read_parts(folder: str | os.PathLike[str]) -> list[Part]:
    """All parts of a folder. Raises IndexStoreError where a file of vectors has no metadata, or
    metadata of another number of rows."""
    tables = {_number(file): file for file in _numbered(Path(folder), _METADATA, ".parquet")}
    parts = []
    for file in vector_files(folder):
        table = tables.get(_number(file))
        if table is None:
            raise IndexStoreError(
                f"{file}: no metadata_{_number(file)}.parquet beside it, which names its images"
            )
        parts.append(_part(file, table, Path(folder)))
    return parts


class ConcatenatedVectors:
    """Several arrays of vectors as one array, without reading them: a slice reads its rows only."""

    def __init__(self, arrays: Sequence[NDArray[Any]]) -> None:
        self._arrays = arrays
        self.dtype, self.ndim = arrays[0].dtype, arrays[0].ndim
        self.shape = (sum(map(len, arrays)), *arrays[0].shape[1:])
        if any(array.shape[1:] != self.shape[1:] for array in arrays):
            raise IndexStoreError("the files of vectors have vectors of different lengths")

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        start, stop, _ = rows.indices(len(self))
        slices = []
        for array in self._arrays:
            if start < len(array) and stop > 0:
                slices.append(array[max(start, 0) : stop])
            start, stop = start - len(array), stop - len(array)
        return np.concatenate(slices)


def open_array(file: str | os.PathLike[str]) -> NDArray[Any]:
    """The array in an .npy file, memory-mapped. Raises IndexStoreError for any other file."""
    if not os.path.isfile(file):
        raise IndexStoreError(f"{file}: no such file")
    try:
        loaded = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise IndexStoreError(
            f"{file}: no array of NumPy (.npy), as np.save writes it, or a damaged one"
        ) from error
    if not isinstance(loaded, np.ndarray):
        raise IndexStoreError(f"{file}: several arrays (.npz): save the one of vectors as an .npy")
    return loaded


def _part(file: Path, metadata: Path, folder: Path) -> Part:
    vectors = open_array(file)
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
            return Part(vectors, _resolved(paths, folder), table.drop_columns([name]))
    raise IndexStoreError(
        f"{metadata}: no column names each image by a path or an address of its own; it has "
        f"{listed(table.schema.names)}"
    )


def _resolved(paths: list[str], folder: Path) -> list[str]:
    """Relative paths joined with `folder` if the first one is there; else the paths as they are,
    relative to the current directory."""
    if not paths or os.path.isabs(paths[0]) or "://" in paths[0]:
        return paths
    if not (folder / paths[0]).exists():
        return paths
    return [os.path.join(folder, path) for path in paths]


def _numbered(folder: Path, kind: str, suffix: str) -> list[Path]:
    """The files KIND_NUMBER.SUFFIX in the subfolder KIND, or else in the folder itself, sorted by
    number."""
    for parent in (folder / kind, folder):
        files = [file for file in parent.glob(f"{kind}_*{suffix}") if _NUMBER.search(file.name)]
        if files:
            return sorted(files, key=_number)
    return []


def _number(file: Path) -> int:
    match = _NUMBER.search(file.name)
    return int(match[1]) if match else -1
