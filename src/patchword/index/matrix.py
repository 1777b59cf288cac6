"""The vectors of one version of a table as one float16 matrix: what every search reads.

A large matrix is a file beside the table, `vectors-VERSION.f16`. All processes memory-map it, so
that it is in memory once. The first process that needs the file of a version makes it: unchanged
rows are copied from the file of an earlier version, the others are read from the table. Files of
earlier versions are then deleted. A file may be lost, damaged or deleted at any time: it is made
again. Its vectors are verified as they are read, everything else when it is mapped.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from patchword.atomic_write import PART, replacing
from patchword.errors import IndexStoreError, warn
from patchword.index.integrity import checked_vectors
from patchword.index.quantized import Codes, encode
from patchword.index.schema import SUMS
from patchword.index.table import MATRIX, Table

MAX_IN_MEMORY = 32 << 20  # bytes; a smaller matrix has no file, each process reads the table
BLOCK = 4096  # rows read at a time
FORM = 3  # the format of the file; 1 had no codes, 2 one checksum of all vectors
_PREFIX = "vectors-"  # of the name of the file
_PAGE = 4096  # bytes of the header; each column of the file starts at a multiple of this
_STALE_SECONDS = 600  # an unfinished file that is older is from a killed process
_CHECKSUM_COLUMN = "vector_sum"  # of the table; changes with a row's path or vector

Half = NDArray[np.float16]  # (N, D)


class Matrix(NamedTuple):
    """The vectors of a version of the table, with LanceDB's row ids.

    ids    (N,)
    read   gives the unit vectors of rows (M,), or of all rows for None, rounded to float16, (M, D).
           Raises DamagedError for a file that is not what was written
    error  the largest distance of a stored vector from its row here
    order  (N,), sorts the ids; None if they are sorted
    codes  of the same vectors; None unless they are a mapped file
    """

    ids: NDArray[np.uint64]
    read: Callable[[NDArray[np.intp] | None], Half]
    error: float
    order: NDArray[np.intp] | None
    codes: Codes | None = None

    def rows_of(self, ids: NDArray[np.uint64]) -> NDArray[np.intp]:
        """The rows (M,) of these ids, in the order of sorted ids. All must be in the matrix."""
        ids = np.sort(ids)  # neighbours are near each other in memory
        rows = np.searchsorted(self.ids, ids, sorter=self.order)
        return rows if self.order is None else self.order[rows]


class DamagedError(IndexStoreError):
    """A file of vectors that is not what was written, and can be made anew."""


class _MappedFile(NamedTuple):
    """A file that is mapped. sums: (N,), the column `_CHECKSUM_COLUMN` of the table."""

    path: str
    matrix: Matrix
    sums: NDArray[np.int64]


def load_matrix(folder: str, table: Table, dim: int, mark: str) -> Matrix:
    """The matrix of the version that the table is at. Its file is mapped, or made first.

    mark: of the table; another table in the same folder has another one.
    """
    count, version = int(table.count_rows()), int(table.version)
    if count * dim * 2 <= MAX_IN_MEMORY:
        return _in_memory(table, dim, count)
    identity = {"mark": mark, "dim": dim, "form": FORM}
    path = _file_path(folder, version)
    mapped = _map_file(path, identity)
    if mapped is None or len(mapped.sums) != count:
        try:
            _make_file(path, table, identity, _newest_earlier(folder, version, identity))
        except OSError as error:
            warn(
                f"{folder}: the file of vectors for searches cannot be written, so that they are "
                f"held in memory: {error.strerror or error}"
            )
            return _in_memory(table, dim, count)
        mapped = _map_file(path, identity)
        if mapped is None:
            raise ValueError(f"{path} is not what was written")
    _remove_others(folder, version)
    return mapped.matrix


def _read_block(table: Table, start: int, dim: int) -> tuple[NDArray[np.uint64], Half, float]:
    """BLOCK rows of the table from the row `start` on: ids, vectors in float16, and their largest
    rounding error. Raises ValueError for rows that are not what was written.

    Each block is a query of its own: LanceDB reads batches ahead, and they would fill the memory.
    """
    columns = ["path", "modified", "vector", *SUMS]
    block = table.search().with_row_id(True).select(columns).limit(BLOCK).offset(start)
    rows = block.to_arrow()
    vectors = checked_vectors(rows, dim)
    exact = torch.from_numpy(np.require(vectors, requirements="W"))
    half = exact.half()  # five times as fast as in NumPy
    error = float((exact - half.float()).norm(dim=1).max())
    return rows.column("_rowid").to_numpy(), half.numpy(), error


def _in_memory(table: Table, dim: int, count: int) -> Matrix:
    ids, half = np.empty(count, np.uint64), np.empty((count, dim), np.float16)
    max_error = 0.0
    for start in range(0, count, BLOCK):
        block_ids, vectors, error = _read_block(table, start, dim)
        end = start + len(block_ids)
        ids[start:end], half[start:end] = block_ids, vectors
        max_error = max(max_error, error)
    return _with_order(ids, lambda rows: half if rows is None else half[rows], max_error)


def _with_order(
    ids: NDArray[np.uint64],
    read: Callable[[NDArray[np.intp] | None], Half],
    error: float,
    codes: Codes | None = None,
) -> Matrix:
    """A Matrix with the order of its ids."""
    if (ids[1:] > ids[:-1]).all():
        return Matrix(ids, read, error, None, codes)
    order = np.argsort(ids)
    if (ids[order][1:] == ids[order][:-1]).any():
        raise ValueError("rows were read twice")
    return Matrix(ids, read, error, order, codes)


def _make_file(path: str, table: Table, identity: dict[str, Any], old: _MappedFile | None) -> None:
    """Make the file of the version that the table is at. old: of an earlier version; rows that the
    table still has are copied from it. If no row has changed, for example because an approximate
    index was built, the new file is a link to the old one."""
    rows = table.search().with_row_id(True).select([_CHECKSUM_COLUMN]).to_arrow()
    ids, sums = rows.column("_rowid").to_numpy(), rows.column(_CHECKSUM_COLUMN).to_numpy()
    if old and np.array_equal(old.matrix.ids, ids) and np.array_equal(old.sums, sums):
        with suppress(OSError):  # not every file system has links
            os.link(old.path, path)
            return
    _write_file(path, table, identity, ids, sums, old)


def _write_file(
    path: str,
    table: Table,
    identity: dict[str, Any],
    ids: NDArray[np.uint64],
    sums: NDArray[np.int64],
    old: _MappedFile | None,
) -> None:
    """Write a page with the header, and then the columns of `_columns`."""
    copied_rows = _rows_in_old(old, ids, sums)
    max_error = old.matrix.error if old else 0.0
    columns, size = _columns(len(ids), identity["dim"])
    with replacing(path) as part, open(part, "r+b") as file:

        def put(name: str, values: NDArray[Any], start: int = 0) -> None:
            column = columns[name]
            file.seek(column.offset + start * column.row_size)
            file.write(np.ascontiguousarray(values, column.dtype).data)

        total = np.zeros(identity["dim"])
        for start in range(0, len(ids), BLOCK):
            old_rows = copied_rows[start : start + BLOCK]
            if old and (old_rows >= 0).all():
                rows = old.matrix.read(old_rows)
            else:
                ids_read, rows, error = _read_block(table, start, identity["dim"])
                if not np.array_equal(ids_read, ids[start : start + BLOCK]):
                    raise ValueError("rows were read in another order")
                max_error = max(max_error, error)
            put("half", rows, start)
            put("checks", _row_checksums(rows), start)
            total += rows.sum(axis=0, dtype=np.float64)
        put("ids", ids)
        put("sums", sums)
        old_codes = old.matrix.codes if old else None
        mean = old_codes.mean if old_codes else (total / max(len(ids), 1)).astype(np.float32)
        put("mean", mean)
        file.truncate(size)
        file.flush()
        half = columns["half"].mapped(part)
        for start in range(0, len(ids), BLOCK):
            old_rows = copied_rows[start : start + BLOCK]
            if old_codes and (old_rows >= 0).all():
                numbers = old_codes.numbers[old_rows]
                scales = old_codes.scales[old_rows]
                residuals = old_codes.residuals[old_rows]
            else:
                numbers, scales, residuals = encode(half[start : start + BLOCK], mean)
            put("numbers", numbers, start)
            put("scales", scales, start)
            put("residuals", residuals, start)
        del half
        file.flush()
        checksum = _file_checksum(part, columns["checks"].offset, size)
        text = json.dumps({**identity, "rows": len(ids), "error": max_error, "sum": checksum})
        file.seek(0)
        file.write(f"{zlib.crc32(text.encode()):08x} {text}\n".encode())


class _Column(NamedTuple):
    """Where an array is in a file."""

    dtype: type[np.generic]
    shape: tuple[int, ...]
    offset: int  # bytes

    @property
    def row_size(self) -> int:
        """Bytes of one row."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape[1:])

    def mapped(self, path: str | os.PathLike[str]) -> NDArray[Any]:
        """The array, memory-mapped. Copied on write: torch only takes writable arrays. Nobody
        writes to it."""
        return np.memmap(path, self.dtype, "c", self.offset, self.shape).view(np.ndarray)


def _columns(rows: int, dim: int) -> tuple[dict[str, _Column], int]:
    """The columns of a file by name, each padded to full pages, and the size of the file."""
    kinds: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
        "half": (np.float16, (rows, dim)),
        "checks": (np.uint32, (rows,)),
        "ids": (np.uint64, (rows,)),
        "sums": (np.int64, (rows,)),
        "numbers": (np.int8, (rows, dim)),
        "scales": (np.float32, (rows,)),
        "residuals": (np.float32, (rows,)),
        "mean": (np.float32, (dim,)),
    }
    columns, offset = {}, _PAGE
    for name, (dtype, shape) in kinds.items():
        columns[name] = _Column(dtype, shape, offset)
        offset += shape[0] * columns[name].row_size
        offset = math.ceil(offset / _PAGE) * _PAGE
    return columns, offset


def _rows_in_old(
    old: _MappedFile | None, ids: NDArray[np.uint64], sums: NDArray[np.int64]
) -> NDArray[np.intp]:
    """Where each row of the table (N,) is in an old file; -1 for rows that are new or changed."""
    if old is None or not len(old.sums):
        return np.full(len(ids), -1)
    order = old.matrix.order
    rows = np.searchsorted(old.matrix.ids, ids, sorter=order).clip(max=len(old.sums) - 1)
    rows = rows if order is None else order[rows]
    same = (old.matrix.ids[rows] == ids) & (old.sums[rows] == sums)
    return np.where(same, rows, -1)


def _newest_earlier(folder: str, version: int, identity: dict[str, Any]) -> _MappedFile | None:
    """The newest undamaged file of an earlier version."""
    for earlier in sorted(_versions(folder), reverse=True):
        if earlier >= version:
            continue
        file = _map_file(_file_path(folder, earlier), identity)
        with suppress(DamagedError):
            if file and len(file.matrix.read(None)):
                return file
    return None


def _file_checksum(path: str | os.PathLike[str], start: int, stop: int) -> int:
    """The sum of the 64-bit words in a range of bytes of a file, modulo 2^64: it changes with any
    one of them."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        if hasattr(mmap, "MADV_WILLNEED"):  # read ahead: a third of the time on a disk
            mapped.madvise(mmap.MADV_WILLNEED, start, stop - start)
        words = np.frombuffer(mapped, np.uint64, (stop - start) // 8, start)
        total = int(np.add.reduce(words, dtype=np.uint64))
        del words  # else the map cannot be closed
    return total


def _map_file(path: str, identity: dict[str, Any]) -> _MappedFile | None:
    """Map a file. None where it cannot be read, belongs to another table, or is damaged."""
    try:
        with open(path, "rb") as file:
            line, _, rest = file.read(_PAGE).partition(b"\n")
            size = os.fstat(file.fileno()).st_size
        digest, _, text = line.partition(b" ")
        if digest != b"%08x" % zlib.crc32(text) or rest.strip(b"\0"):
            return None
        header = json.loads(text)
        columns, expected_size = _columns(header["rows"], identity["dim"])
        if not identity.items() <= header.items() or size != expected_size:
            return None
        if header["sum"] != _file_checksum(path, columns["checks"].offset, size):
            return None
        arrays = {name: column.mapped(path) for name, column in columns.items()}
    except (OSError, ValueError, KeyError):
        return None

    read = _CheckedReader(path, arrays["half"], arrays["checks"])
    codes = Codes(*(arrays[name] for name in Codes._fields))
    matrix = _with_order(arrays["ids"], read, header["error"], codes)
    return _MappedFile(path, matrix, arrays["sums"])


class _CheckedReader:
    """Reads rows of a mapped file, and verifies those that it reads: most searches read few."""

    def __init__(self, path: str, half: Half, checksums: NDArray[np.uint32]) -> None:
        self._path, self._half, self._checksums = path, half, checksums
        self._all_checked = False

    def __call__(self, rows: NDArray[np.intp] | None) -> Half:
        half, checksums = self._half, self._checksums
        if rows is not None:
            half, checksums = half[rows], checksums[rows]
        if not (self._all_checked or np.array_equal(_row_checksums(half), checksums)):
            with suppress(OSError):  # another process may have deleted it
                os.unlink(self._path)
            raise DamagedError(f"{self._path}: was damaged, and is made anew: search again")
        if rows is None:
            self._all_checked = True
        return half


def _row_checksums(half: Half) -> NDArray[np.uint32]:
    """The sum of the 16-bit words of each row (N, D): it changes with any one of them."""
    sums: NDArray[np.uint32] = half.view(np.uint16).sum(axis=1, dtype=np.uint32)
    return sums


def _file_path(folder: str, version: int) -> str:
    return os.path.join(folder, f"{_PREFIX}{version}{MATRIX}")


def _versions(folder: str) -> list[int]:
    """The versions that there are files of."""
    if not os.path.isdir(folder):
        return []
    names = (os.path.splitext(name) for name in os.listdir(folder))
    numbers = (name.removeprefix(_PREFIX) for name, suffix in names if suffix == MATRIX)
    return [int(number) for number in numbers if number.isdigit()]


def _remove_others(folder: str, version: int) -> None:
    """Delete the files of earlier versions, which stay readable to processes that have mapped them,
    and unfinished files of killed processes."""
    for earlier in _versions(folder):
        if earlier < version:
            with suppress(OSError):  # another process may have deleted it
                os.unlink(_file_path(folder, earlier))
    for entry in os.scandir(folder):
        with suppress(OSError):
            unfinished = entry.name.startswith(PART) and entry.name.endswith(MATRIX)
            if unfinished and time.time() - entry.stat().st_mtime > _STALE_SECONDS:
                os.unlink(entry.path)
