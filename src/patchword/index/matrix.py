"""The vectors of one version of a table as one float16 matrix: what every search reads.

A large one is a file beside the table, `vectors-VERSION.f16`, which all processes map and so hold
in memory once. It is made from the table, in seconds, by the first that needs it, and deleted when
the table has changed: it may be lost, damaged or deleted at any time.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from patchword.atomic_write import PART, replacing
from patchword.errors import warn
from patchword.index.checks import intact
from patchword.index.schema import SUMS
from patchword.index.table import MATRIX, Table

IN_MEMORY = 32 << 20  # bytes: a smaller matrix has no file, each process makes it anew
BLOCK = 4096  # rows read at a time
_NAME = "vectors-"  # begins the name of the file
_PAGE = 4096  # bytes of the header, and what the matrix is filled up to
_STALE = 600  # seconds after which a file that nobody goes on writing is of a killed process

Half = NDArray[np.float16]  # (N, D)


class Matrix(NamedTuple):
    """The vectors of a version of the table, with LanceDB's row ids."""

    ids: NDArray[np.uint64]  # (N,)
    half: Half  # (N, D), unit vectors rounded to float16
    error: float  # length of the largest difference between a stored vector and its row here
    order: NDArray[np.intp] | None  # (N,): sorts the ids; None where they are sorted

    def places(self, ids: NDArray[np.uint64]) -> NDArray[np.intp]:
        """The rows (M,) of these ids, which must be there, in the order of the ids."""
        ids = np.sort(ids)  # neighbours are near each other in memory
        places = np.searchsorted(self.ids, ids, sorter=self.order)
        return places if self.order is None else self.order[places]


def matrix(folder: str, table: Table, dim: int, mark: str) -> Matrix:
    """The matrix of the version that the table is at: mapped, or made where no file of it is there.

    mark: tells tables apart that were made in the same folder one after the other.
    """
    count = int(table.count_rows())
    if count * dim * 2 <= IN_MEMORY:
        return _in_memory(table, dim, count)
    about = {"mark": mark, "version": int(table.version), "rows": count, "dim": dim}
    path = os.path.join(folder, f"{_NAME}{table.version}{MATRIX}")
    found = _mapped(path, about)
    if found is None:
        try:
            _write(path, table, about)
        except OSError as error:
            warn(
                f"{folder}: the file of vectors for searches cannot be written, so that they are "
                f"held in memory: {error.strerror or error}",
            )
            return _in_memory(table, dim, count)
        found = _mapped(path, about)
        if found is None:
            raise ValueError(f"{path} is not what was written")
    _remove_others(folder, int(table.version))
    return found


def _rows(table: Table, dim: int) -> Iterator[tuple[NDArray[np.uint64], Half, float]]:
    """The table block by block: ids, vectors in float16, and their largest rounding error. Raises
    ValueError for rows that are not what was written.

    Each block is a read of its own: LanceDB's own batches pile up where they are not used at once.
    """
    columns = ["path", "modified", "vector", *SUMS]
    for start in range(0, int(table.count_rows()), BLOCK):
        block = table.search().with_row_id(True).select(columns).limit(BLOCK).offset(start)
        rows = block.to_arrow()
        vectors = intact(rows, dim)
        exact = torch.from_numpy(np.require(vectors, requirements="W"))
        half = exact.half()  # five times as fast as NumPy's
        error = float((exact - half.float()).norm(dim=1).max())
        yield rows.column("_rowid").to_numpy(), half.numpy(), error


def _in_memory(table: Table, dim: int, count: int) -> Matrix:
    ids, half, largest = np.empty(count, np.uint64), np.empty((count, dim), np.float16), 0.0
    done = 0
    for some, rows, error in _rows(table, dim):
        ids[done : done + len(some)], half[done : done + len(some)] = some, rows
        done, largest = done + len(some), max(largest, error)
    return _with_order(ids, half, largest)


def _with_order(ids: NDArray[np.uint64], half: Half, error: float) -> Matrix:
    if (ids[1:] > ids[:-1]).all():
        return Matrix(ids, half, error, None)
    order = np.argsort(ids)
    if (ids[order][1:] == ids[order][:-1]).any():
        raise ValueError("rows were read twice")
    return Matrix(ids, half, error, order)


def _write(path: str, table: Table, about: dict[str, Any]) -> None:
    """A page with the header, the matrix, filled up to a page, and the ids, filled up too."""
    ids, largest = [], 0.0
    with replacing(path) as part, open(part, "r+b") as file:
        file.seek(_PAGE)
        for some, rows, error in _rows(table, about["dim"]):
            file.write(rows.data)
            ids.append(some)
            largest = max(largest, error)
        file.write(bytes(-file.tell() % _PAGE))
        file.write(np.concatenate(ids).data)
        file.write(bytes(-file.tell() % _PAGE))
        file.flush()
        text = json.dumps({**about, "error": largest, "sum": _sum(part)})
        file.seek(0)
        file.write(f"{zlib.crc32(text.encode()):08x} {text}\n".encode())


def _sum(path: str | os.PathLike[str]) -> int:
    """The sum of the 64-bit words behind the header, modulo 2^64, which any one of them changes."""
    words = np.memmap(path, np.uint64, "r", _PAGE)
    return int(np.add.reduce(words, dtype=np.uint64))


def _mapped(path: str, about: dict[str, Any]) -> Matrix | None:
    """The matrix in a file; None where it is not there, of another table, or damaged."""
    try:
        with open(path, "rb") as file:
            digest, _, text = file.read(_PAGE).partition(b"\n")[0].partition(b" ")
            size = os.fstat(file.fileno()).st_size
        if digest != b"%08x" % zlib.crc32(text):
            return None
        header = json.loads(text)
        rows, dim = about["rows"], about["dim"]
        wide = _PAGE + rows * dim * 2
        start = wide + -wide % _PAGE
        if not about.items() <= header.items() or size != start + rows * 8 + -(rows * 8) % _PAGE:
            return None
        if header["sum"] != _sum(path):
            return None
        # Copy on write: torch takes no array that cannot be written, and none is.
        half = np.memmap(path, np.float16, "c", _PAGE, (rows, dim)).view(np.ndarray)
        ids = np.memmap(path, np.uint64, "r", start, (rows,)).view(np.ndarray)
    except (FileNotFoundError, ValueError):
        return None
    return _with_order(ids, half, float(header["error"]))


def _remove_others(folder: str, version: int) -> None:
    """Delete the files of past versions, which stay with those who have mapped them, and what
    killed processes left."""
    for entry in os.scandir(folder):
        name, suffix = os.path.splitext(entry.name)
        number = name.removeprefix(_NAME)
        with suppress(OSError):  # another process deletes them too
            past = name != number and number.isdigit() and int(number) < version
            left = name.startswith(PART) and time.time() - entry.stat().st_mtime > _STALE
            if suffix == MATRIX and (past or left):
                os.unlink(entry.path)
