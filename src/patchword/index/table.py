"""A LanceDB table of files and vectors, in the folder of an index; independent of models.

Every change is one commit, whole or not at all. Several processes may read and write at once.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from patchword.atomic_write import write
from patchword.errors import IndexStoreError
from patchword.images.files import File
from patchword.index import condition

IN_MEMORY = 2 << 30  # bytes of vectors kept between searches; a larger table is read each time
BLOCK = 16384  # rows read at a time

_TABLE = "images"
_FORMAT = 2  # 1 had no checksums, and fingerprints that were blind to the architecture
_VERSION = "version.json"  # beside the table: its newest version, and the rows of that
SUMS = ("time_sum", "vector_sum")  # columns of checksums
_UNIT = 1e-3  # how far from 1 the length of a vector may be
_PAUSES = (0.02, 0.05, 0.1, 0.2)  # seconds between attempts
_ODD = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: neighbouring places get very different numbers
_DELETED_AT_ONCE = 1000  # paths in one condition

T = TypeVar("T")
Vectors = NDArray[np.float32]  # (N, D)
Table = Any  # lancedb.table.LanceTable, half of whose methods are untyped


class Block(NamedTuple):
    """Some rows of the table: `paths` and `modified` are pyarrow arrays of text and of int64
    (microseconds since 1970), `kept` the rows (indices) that fulfil the condition."""

    paths: Any
    modified: Any
    vectors: Vectors
    kept: NDArray[np.intp]


class Store:
    """The table in a folder, which need not exist yet. Methods raise IndexStoreError."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.about: dict[str, Any] = {}  # what it was created with, and `dim`
        self._lock = threading.Lock()
        self._table: Table | None = None
        self._cache: tuple[int, _Rows] | None = None  # all rows of a version of the table

    def open(self) -> bool:
        """Whether there is a table; an incomplete one of a killed process does not count."""
        if not os.path.isdir(os.path.join(self.path, f"{_TABLE}.lance")):
            self._table = self._cache = None
        elif self._table is None:
            import lancedb  # imported here, because it takes a second

            try:
                table = lancedb.connect(self.path).open_table(_TABLE)
                self.about = self._described(table)
            except ValueError as error:
                if "was not found" in str(error):
                    return False
                raise self._damaged(error) from error
            except BaseException as error:  # see `_of_library`
                if not _of_library(error):
                    raise
                raise self._damaged(error) from error
            self._table = table
        return self._table is not None

    def _described(self, table: Table) -> dict[str, Any]:
        """The metadata that the table was created with."""
        about = json.loads((table.schema.metadata or {}).get(b"patchword", b"{}"))
        if not isinstance(about, dict) or about.get("format") != _FORMAT:
            earlier = isinstance(about, dict) and about.get("format") == 1
            by = "an earlier version of patchword" if earlier else "something else than patchword"
            raise IndexStoreError(
                f"{self.path}: made by {by}, whose vectors cannot be checked; delete the folder, "
                "or name another one, and index again"
            )
        return about

    def create(self, dim: int, about: Mapping[str, Any]) -> None:
        """Create an empty table with the metadata `about`, or keep one that another process just
        made."""
        import lancedb

        try:
            if os.path.isdir(self.path) and set(os.listdir(self.path)) - {
                f"{_TABLE}.lance",
                _VERSION,
            }:
                raise IndexStoreError(
                    f"{self.path}: holds other files; an index needs a folder of its own"
                )
            text = json.dumps({"format": _FORMAT, "dim": dim, **about})
            schema = _schema(dim).with_metadata({"patchword": text})
            lancedb.connect(self.path).create_table(_TABLE, schema=schema, exist_ok=True)
        except (RuntimeError, ValueError, OSError) as error:
            raise IndexStoreError(f"{self.path}: cannot be made: {_line(error)}") from error
        if not self.open():
            raise IndexStoreError(f"{self.path}: was deleted while it was made")

    def described(self) -> dict[str, Any]:
        """`about`. Raises where there is no table."""
        if not self.open():
            raise IndexStoreError(
                f"{self.path}: no index there; make one: patchword index FILES_OR_FOLDERS "
                f"--into {self.path}"
            )
        return self.about

    def count(self) -> int:
        """Rows."""
        return int(self._do(lambda table: table.count_rows()))

    def known(self) -> dict[str, File]:
        """The files by path, with size, time and hash at the time they were stored."""
        rows = self._do(lambda table: table.search().select(list(File._fields)).to_arrow())
        columns = (rows.column(name).to_pylist() for name in File._fields)
        return {file.path: file for file in map(File, *columns)}

    def put(self, files: Sequence[File], vectors: Vectors) -> None:
        """Insert or replace the rows of these files; vectors (N, D)."""
        rows = _arrow(files, vectors)

        def merge(table: Table) -> None:
            merge = table.merge_insert("path").when_matched_update_all()
            merge.when_not_matched_insert_all().execute(rows)

        if files:
            self._do(merge)

    def touch(self, files: Sequence[File]) -> None:
        """Store the size, time and hash of files whose vectors stay."""
        rows = _arrow(files)
        if files:
            self._do(lambda t: t.merge_insert("path").when_matched_update_all().execute(rows))

    def delete(self, paths: Sequence[str]) -> None:
        """Drop the rows of these paths."""
        for start in range(0, len(paths), _DELETED_AT_ONCE):
            some = paths[start : start + _DELETED_AT_ONCE]
            quoted = ", ".join("'" + path.replace("'", "''") + "'" for path in some)
            self._delete_where(f"path IN ({quoted})")

    def compact(self, most: int) -> None:
        """Merge the table's files where there are more than `most`, and delete past versions."""

        def compact(table: Table) -> None:
            if table.stats()["fragment_stats"]["num_fragments"] > most:
                table.optimize(cleanup_older_than=timedelta(milliseconds=1))

        self._do(compact)

    def visit(self, work: Callable[[Block], T], where: str | None = None) -> list[T]:
        """The results of `work` on every block of rows of the newest version, which is kept in
        memory where it fits."""
        if where is not None:
            condition.check(where)

        def visit(table: Table) -> list[T]:
            wanted = None if where is None else _row_ids(table, where)
            return [work(rows.block(wanted)) for rows in self._rows(table)]

        return self._do(visit)

    def _rows(self, table: Table) -> Iterable[_Rows]:
        dim, count = int(self.about["dim"]), table.count_rows()
        if not 0 < count * dim * 4 <= IN_MEMORY:
            return _scan(table, dim)
        cache = self._cache
        if cache is None or cache[0] != table.version:
            self._cache = None  # the old rows go before the new ones come
            cache = self._cache = (table.version, _joined(_scan(table, dim), count, dim))
        return [cache[1]]

    def _delete_where(self, condition: str) -> None:
        self._do(lambda table: table.delete(condition))

    def _do(self, action: Callable[[Table], T]) -> T:
        """action(table) at its newest version, tried again where that version vanishes.

        `compact` deletes the files of past versions at once, so that no vector is stored twice; an
        action of another process that was using them fails, and is repeated on the new ones. Every
        action may be repeated: it reads, or stores or deletes the same again.
        """
        self.described()
        with self._lock:  # one version at a time: row ids belong to one
            table: Table = self._table
            for pause in (*_PAUSES, None):
                try:
                    return self._newest(table, action)
                except BaseException as error:  # see `_of_library`
                    if not _of_library(error):
                        raise
                    if pause is None:
                        raise self._damaged(error) from error
                time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _newest(self, table: Table, action: Callable[[Table], T]) -> T:
        """action(table) at the newest version, which is noted when the action made it."""
        noted = self._noted()  # first: what is noted was committed before
        table.checkout_latest()
        before = table.version
        if noted and noted["version"] > before:
            raise IndexStoreError(
                f"{self.path}: its newest version, {noted['version']}, is gone, and version "
                f"{before} is an older one: a file of the folder was deleted or damaged. Delete "
                "the folder and index again"
            )
        if noted and noted["version"] == before and noted["rows"] != table.count_rows():
            raise IndexStoreError(
                f"{self.path}: has {table.count_rows()} rows instead of {noted['rows']}: a file of "
                "the folder is damaged. Delete the folder and index again"
            )
        result = action(table)
        table.checkout_latest()
        if table.version > max(before, noted["version"] if noted else 0):
            note = {"version": int(table.version), "rows": int(table.count_rows())}
            write(os.path.join(self.path, _VERSION), json.dumps(note))
        return result

    def _noted(self) -> dict[str, int] | None:
        """The newest version that was noted, and its rows; None where none was."""
        try:
            with open(os.path.join(self.path, _VERSION), encoding="utf-8") as file:
                note = json.load(file)
            return {"version": int(note["version"]), "rows": int(note["rows"])}
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: BaseException) -> IndexStoreError:
        return IndexStoreError(
            f"{self.path}: the index cannot be read or written: {_line(error)}; "
            "if this stays, delete the folder and index again"
        )


def _of_library(error: BaseException) -> bool:
    """Whether LanceDB raised this. A panic of its code is no `Exception` in Python."""
    panics = type(error).__name__ in ("PanicException", "RustPanic")
    return panics or isinstance(error, (RuntimeError, ValueError, OSError))


class _Rows(NamedTuple):
    """Rows as they are read from the table, with LanceDB's row ids."""

    ids: NDArray[np.uint64]
    paths: Any
    modified: Any
    vectors: Vectors

    def block(self, wanted: NDArray[np.uint64] | None) -> Block:
        """With the rows whose ids are among `wanted`, sorted ids; all where that is None."""
        if wanted is None:
            kept = np.arange(len(self.ids))
        else:
            last = np.searchsorted(wanted, self.ids, "right")
            kept = (last > np.searchsorted(wanted, self.ids)).nonzero()[0]
        return Block(self.paths, self.modified, self.vectors, kept)


def _scan(table: Table, dim: int) -> Iterator[_Rows]:
    names = ["_rowid", "path", "modified", "vector", *SUMS]
    for batch in table.search().with_row_id(True).select(names[1:]).to_batches(BLOCK):
        ids, paths, times, vectors, *stored = (batch.column(name) for name in names)
        times, matrix = times.cast("int64"), vectors.flatten().to_numpy().reshape(-1, dim)
        found = checksums(paths.to_pylist(), times.to_numpy(), matrix)
        with np.errstate(over="ignore", invalid="ignore"):
            bad = ~(np.abs(np.linalg.norm(matrix, axis=1) - 1) < _UNIT)
        for name, column in zip(SUMS, stored, strict=True):
            bad |= found[name] != column.to_numpy()
        if bad.any():
            path = paths[int(bad.argmax())].as_py()
            raise ValueError(f"the entry of {path!r} is not what was written")
        yield _Rows(ids.to_numpy(), paths, times, matrix)


def checksums(
    paths: Sequence[str], modified: NDArray[np.int64], vectors: Vectors | None
) -> dict[str, NDArray[np.int64]]:
    """Numbers (N,) of each row by the name of their column: "time_sum" changes with any bit of its
    path or time, "vector_sum" with any of its path or vector. A sum of words, each times an odd
    number of its place, modulo 2^64."""
    names = np.array([zlib.crc32(path.encode()) for path in paths], np.uint64) * np.uint64(_ODD)
    out = {"time_sum": names + modified.astype(np.uint64) * np.uint64(3)}
    if vectors is not None:
        words = np.ascontiguousarray(vectors).view(np.uint32)
        places = np.arange(words.shape[1], dtype=np.uint64)
        out["vector_sum"] = names + words @ (places * np.uint64(_ODD) | np.uint64(1))
    return {name: values.astype(np.int64) for name, values in out.items()}


def _joined(parts: Iterable[_Rows], count: int, dim: int) -> _Rows:
    """All rows as one block, the vectors as one matrix: its product with a query is five times as
    fast as those of parts in Arrow's memory."""
    import pyarrow as pa  # type: ignore[import-untyped]

    vectors = np.empty((count, dim), np.float32)
    rest, done = [], 0
    for part in parts:
        vectors[done : done + len(part.ids)] = part.vectors
        done += len(part.ids)
        rest.append(part._replace(vectors=vectors[:0]))
    return _Rows(
        np.concatenate([part.ids for part in rest]),
        pa.chunked_array([part.paths for part in rest]),
        pa.chunked_array([part.modified for part in rest]),
        vectors,
    )


def _row_ids(table: Table, where: str) -> NDArray[np.uint64]:
    """LanceDB's ids, sorted, of the rows that fulfil a condition."""
    rows = table.search().with_row_id(True).select(["path", "modified"])
    try:
        found = rows.where(f"({where})").to_arrow()
    except (ValueError, RuntimeError) as error:
        # A table that can be read without the condition fails because of it; any other raises here.
        table.search().select(["path", "modified"]).to_arrow()
        raise condition.refused(where, "is no condition") from error
    return np.sort(found.column("_rowid").to_numpy())


def _line(error: BaseException) -> str:
    """LanceDB's message on one line, without the places in its source."""
    text = re.sub(r",? ?/\S+\.rs:\d+:\d+", "", str(error))
    return " ".join(text.split())[:300]


def _schema(dim: int) -> Any:
    import pyarrow as pa

    # With a primary key, two processes that add the same file at once do not both insert it.
    key = {"lance-schema:unenforced-primary-key": "true"}
    return pa.schema(
        [
            pa.field("path", pa.string(), nullable=False, metadata=key),
            pa.field("modified", pa.timestamp("us", tz="UTC")),
            pa.field("size", pa.int64()),
            pa.field("mtime", pa.int64()),
            pa.field("digest", pa.string()),
            pa.field("vector", pa.list_(pa.float32(), dim)),
            *(pa.field(name, pa.int64()) for name in SUMS),
        ]
    )


def _arrow(files: Sequence[File], vectors: Vectors | None = None) -> Any:
    """A pyarrow.Table of files; without vectors (N, D), of the other columns alone."""
    import pyarrow as pa

    columns: dict[str, Any] = {
        name: [getattr(file, name) for file in files] for name in File._fields
    }
    times = pa.array([file.mtime // 1000 for file in files], pa.int64())
    columns["modified"] = times.cast(pa.timestamp("us", tz="UTC"))
    schema = _schema(1)
    sums = checksums(columns["path"], times.to_numpy(), vectors)
    columns |= {name: pa.array(values, pa.int64()) for name, values in sums.items()}
    if vectors is not None:
        dim = vectors.shape[1]
        schema = _schema(dim)
        columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dim)
    return pa.table(columns, schema=pa.schema([schema.field(name) for name in columns]))
