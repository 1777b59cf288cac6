"""The vectors of one version of a table as one float16 matrix: what every search reads.

A large one is a file beside the table, `vectors-VERSION.f16`, which all processes map and so hold
in memory once. It is made from the table, in seconds, by the first that needs it, from then on of
what has changed alone, and deleted when there is a newer one: it may be lost, damaged or deleted at
any time. Its vectors are checked as they are read, all else when it is mapped.
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
from patchword.index.integrity import intact
from patchword.index.quantized import Codes, encoded
from patchword.index.schema import SUMS
from patchword.index.table import MATRIX, Table

IN_MEMORY = 32 << 20  # bytes: a smaller matrix has no file, each process makes it anew
BLOCK = 4096  # rows read at a time
FORM = 3  # of the file; 1 had no codes, 2 one sum of all vectors
_NAME = "vectors-"  # begins the name of the file
_PAGE = 4096  # bytes of the header, and what each part of the file is filled up to
_STALE = 600  # seconds after which a file that nobody goes on writing is of a killed process
_SUM = "vector_sum"  # the column that changes with a row's path or vector

Half = NDArray[np.float16]  # (N, D)


class Matrix(NamedTuple):
    """The vectors of a version of the table, with LanceDB's row ids."""

    ids: NDArray[np.uint64]  # (N,)
    # Of these rows (M,), None: of all, the unit vectors rounded to float16, (M, D). Raises
    # DamagedError for a file that is not what was written.
    read: Callable[[NDArray[np.intp] | None], Half]
    error: float  # length of the largest difference between a stored vector and its row here
    order: NDArray[np.intp] | None  # (N,): sorts the ids; None where they are sorted
    codes: Codes | None = None  # of the same vectors, where they are a mapped file

    def places(self, ids: NDArray[np.uint64]) -> NDArray[np.intp]:
        """The rows (M,) of these ids, which must be there, in the order of the ids."""
        ids = np.sort(ids)  # neighbours are near each other in memory
        places = np.searchsorted(self.ids, ids, sorter=self.order)
        return places if self.order is None else self.order[places]


class DamagedError(IndexStoreError):
    """A file of vectors that is not what was written, and can be made anew."""


class _File(NamedTuple):
    """A file that is mapped."""

    path: str
    matrix: Matrix
    sums: NDArray[np.int64]  # (N,), the column `_SUM`


def matrix(folder: str, table: Table, dim: int, mark: str) -> Matrix:
    """The matrix of the version that the table is at: mapped, or made where no file of it is there.

    mark: tells tables apart that were made in the same folder one after the other.
    """
    count, version = int(table.count_rows()), int(table.version)
    if count * dim * 2 <= IN_MEMORY:
        return _in_memory(table, dim, count)
    about = {"mark": mark, "dim": dim, "form": FORM}
    path = _named(folder, version)
    found = _mapped(path, about)
    if found is None or len(found.sums) != count:
        try:
            _make(path, table, about, _before(folder, version, about))
        except OSError as error:
            warn(
                f"{folder}: the file of vectors for searches cannot be written, so that they are "
                f"held in memory: {error.strerror or error}",
            )
            return _in_memory(table, dim, count)
        found = _mapped(path, about)
        if found is None:
            raise ValueError(f"{path} is not what was written")
    _remove_others(folder, version)
    return found.matrix


def _block(table: Table, start: int, dim: int) -> tuple[NDArray[np.uint64], Half, float]:
    """BLOCK rows of the table from the row `start` on: ids, vectors in float16, and their largest
    rounding error. Raises ValueError for rows that are not what was written.

    Each block is a read of its own: LanceDB's own batches pile up where they are not used at once.
    """
    columns = ["path", "modified", "vector", *SUMS]
    block = table.search().with_row_id(True).select(columns).limit(BLOCK).offset(start)
    rows = block.to_arrow()
    vectors = intact(rows, dim)
    exact = torch.from_numpy(np.require(vectors, requirements="W"))
    half = exact.half()  # five times as fast as NumPy's
    error = float((exact - half.float()).norm(dim=1).max())
    return rows.column("_rowid").to_numpy(), half.numpy(), error


def _in_memory(table: Table, dim: int, count: int) -> Matrix:
    ids, half, largest = np.empty(count, np.uint64), np.empty((count, dim), np.float16), 0.0
    for start in range(0, count, BLOCK):
        some, rows, error = _block(table, start, dim)
        ids[start : start + len(some)], half[start : start + len(some)] = some, rows
        largest = max(largest, error)
    return _with_order(ids, lambda rows: half if rows is None else half[rows], largest)


def _with_order(
    ids: NDArray[np.uint64],
    read: Callable[[NDArray[np.intp] | None], Half],
    error: float,
    codes: Codes | None = None,
) -> Matrix:
    if (ids[1:] > ids[:-1]).all():
        return Matrix(ids, read, error, None, codes)
    order = np.argsort(ids)
    if (ids[order][1:] == ids[order][:-1]).any():
        raise ValueError("rows were read twice")
    return Matrix(ids, read, error, order, codes)


def _make(path: str, table: Table, about: dict[str, Any], old: _File | None) -> None:
    """Make the file of the version that the table is at. old: of an earlier version, whose rows are
    copied where the table still has them; where it has no others, as after the building of an
    approximate index, the file gets a second name."""
    rows = table.search().with_row_id(True).select([_SUM]).to_arrow()
    ids, sums = rows.column("_rowid").to_numpy(), rows.column(_SUM).to_numpy()
    if old and np.array_equal(old.matrix.ids, ids) and np.array_equal(old.sums, sums):
        with suppress(OSError):  # not every file system can
            os.link(old.path, path)
            return
    _write(path, table, about, ids, sums, old)


def _write(
    path: str,
    table: Table,
    about: dict[str, Any],
    ids: NDArray[np.uint64],
    sums: NDArray[np.int64],
    old: _File | None,
) -> None:
    """A page with the header, and the columns of `_columns`."""
    places = _places(old, ids, sums)
    largest = old.matrix.error if old else 0.0
    columns, size = _columns(len(ids), about["dim"])
    with replacing(path) as part, open(part, "r+b") as file:

        def put(name: str, values: NDArray[Any], start: int = 0) -> None:
            column = columns[name]
            file.seek(column.offset + start * column.row)
            file.write(np.ascontiguousarray(values, column.dtype).data)

        total = np.zeros(about["dim"])
        for start in range(0, len(ids), BLOCK):
            some = places[start : start + BLOCK]
            if old and (some >= 0).all():
                rows = old.matrix.read(some)
            else:
                found, rows, error = _block(table, start, about["dim"])
                if not np.array_equal(found, ids[start : start + BLOCK]):
                    raise ValueError("rows were read in another order")
                largest = max(largest, error)
            put("half", rows, start)
            put("checks", _checks(rows), start)
            total += rows.sum(axis=0, dtype=np.float64)
        put("ids", ids)
        put("sums", sums)
        known = old.matrix.codes if old else None
        mean = known.mean if known else (total / max(len(ids), 1)).astype(np.float32)
        put("mean", mean)
        file.truncate(size)
        file.flush()
        half = columns["half"].mapped(part)
        for start in range(0, len(ids), BLOCK):
            some = places[start : start + BLOCK]
            if known and (some >= 0).all():
                codes = known.numbers[some], known.scale[some], known.left[some]
            else:
                codes = encoded(half[start : start + BLOCK], mean)
            for name, values in zip(("numbers", "scale", "left"), codes, strict=True):
                put(name, np.asarray(values), start)
        del half
        file.flush()
        known_sum = _sum(part, columns["checks"].offset, size)
        text = json.dumps({**about, "rows": len(ids), "error": largest, "sum": known_sum})
        file.seek(0)
        file.write(f"{zlib.crc32(text.encode()):08x} {text}\n".encode())


class _Column(NamedTuple):
    """Where numbers of a kind are in a file."""

    dtype: type[np.generic]
    shape: tuple[int, ...]
    offset: int

    @property
    def row(self) -> int:
        """Bytes."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape[1:])

    def mapped(self, path: str | os.PathLike[str]) -> NDArray[Any]:
        """Copied on write: torch takes no array that cannot be written, and none is."""
        return np.memmap(path, self.dtype, "c", self.offset, self.shape).view(np.ndarray)


def _columns(rows: int, dim: int) -> tuple[dict[str, _Column], int]:
    """The columns of a file by name, each filled up to a page, and the size of the file."""
    kinds: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
        "half": (np.float16, (rows, dim)),
        "checks": (np.uint32, (rows,)),
        "ids": (np.uint64, (rows,)),
        "sums": (np.int64, (rows,)),
        "numbers": (np.int8, (rows, dim)),
        "scale": (np.float32, (rows,)),
        "left": (np.float32, (rows,)),
        "mean": (np.float32, (dim,)),
    }
    columns, offset = {}, _PAGE
    for name, (dtype, shape) in kinds.items():
        columns[name] = _Column(dtype, shape, offset)
        offset = _filled(offset + shape[0] * columns[name].row)
    return columns, offset


def _places(
    old: _File | None, ids: NDArray[np.uint64], sums: NDArray[np.int64]
) -> NDArray[np.intp]:
    """Where each row of the table (N,) is in an old file; -1 for what is not there, or changed."""
    if old is None or not len(old.sums):
        return np.full(len(ids), -1)
    order = old.matrix.order
    found = np.searchsorted(old.matrix.ids, ids, sorter=order).clip(max=len(old.sums) - 1)
    found = found if order is None else order[found]
    same = (old.matrix.ids[found] == ids) & (old.sums[found] == sums)
    return np.where(same, found, -1)


def _before(folder: str, version: int, about: dict[str, Any]) -> _File | None:
    """The newest file of an earlier version."""
    earlier = sorted((past for past in _versions(folder) if past < version), reverse=True)
    for file in (_mapped(_named(folder, past), about) for past in earlier):
        with suppress(DamagedError):
            if file and len(file.matrix.read(None)):
                return file
    return None


def _sum(path: str | os.PathLike[str], start: int, stop: int) -> int:
    """The sum of the 64-bit words of some bytes of a file, modulo 2^64, which any one of them
    changes."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        if hasattr(mmap, "MADV_WILLNEED"):  # read ahead of the sum: a third of the time on a disk
            mapped.madvise(mmap.MADV_WILLNEED, start, stop - start)
        words = np.frombuffer(mapped, np.uint64, (stop - start) // 8, start)
        total = int(np.add.reduce(words, dtype=np.uint64))
        del words  # which the map cannot be closed beside
    return total


def _mapped(path: str, about: dict[str, Any]) -> _File | None:
    """What is in a file; None where it cannot be read, is of another table, or damaged."""
    try:
        with open(path, "rb") as file:
            line, _, rest = file.read(_PAGE).partition(b"\n")
            size = os.fstat(file.fileno()).st_size
        digest, _, text = line.partition(b" ")
        if digest != b"%08x" % zlib.crc32(text) or rest.strip(b"\0"):
            return None
        header = json.loads(text)
        columns, filled = _columns(header["rows"], about["dim"])
        if not about.items() <= header.items() or size != filled:
            return None
        if header["sum"] != _sum(path, columns["checks"].offset, filled):
            return None
        found = {name: column.mapped(path) for name, column in columns.items()}
    except (OSError, ValueError, KeyError):
        return None

    read = _Read(path, found["half"], found["checks"])
    codes = Codes(*(found[name] for name in Codes._fields))
    return _File(path, _with_order(found["ids"], read, header["error"], codes), found["sums"])


class _Read:
    """The vectors of a mapped file, each checked as it is read: most searches read few."""

    def __init__(self, path: str, half: Half, checks: NDArray[np.uint32]) -> None:
        self._path, self._half, self._checks = path, half, checks
        self._checked = False  # all of them

    def __call__(self, rows: NDArray[np.intp] | None) -> Half:
        half, checks = self._half, self._checks
        if rows is not None:
            half, checks = half[rows], checks[rows]
        if not (self._checked or np.array_equal(_checks(half), checks)):
            with suppress(OSError):  # another process deletes it too
                os.unlink(self._path)
            raise DamagedError(f"{self._path}: was damaged, and is made anew: search again")
        self._checked |= rows is None
        return half


def _checks(half: Half) -> NDArray[np.uint32]:
    """The sum of the 16-bit words of each row (N, D), which any one of them changes."""
    sums: NDArray[np.uint32] = half.view(np.uint16).sum(axis=1, dtype=np.uint32)
    return sums


def _filled(size: int) -> int:
    """A number of bytes, filled up to a page."""
    return size + -size % _PAGE


def _named(folder: str, version: int) -> str:
    return os.path.join(folder, f"{_NAME}{version}{MATRIX}")


def _versions(folder: str) -> list[int]:
    """Of which there are files."""
    if not os.path.isdir(folder):
        return []
    names = (os.path.splitext(name) for name in os.listdir(folder))
    numbers = (name.removeprefix(_NAME) for name, suffix in names if suffix == MATRIX)
    return [int(number) for number in numbers if number.isdigit()]


def _remove_others(folder: str, version: int) -> None:
    """Delete the files of past versions, which stay with those who have mapped them, and what
    killed processes left."""
    for past in _versions(folder):
        if past < version:
            with suppress(OSError):  # another process deletes them too
                os.unlink(_named(folder, past))
    for entry in os.scandir(folder):
        with suppress(OSError):
            left = entry.name.startswith(PART) and entry.name.endswith(MATRIX)
            if left and time.time() - entry.stat().st_mtime > _STALE:
                os.unlink(entry.path)
