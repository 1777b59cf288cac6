"""The LanceDB table of an index: files and their vectors. It knows no model.

Every change is one commit, complete or not done at all. Several processes may read and write at
once.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from patchword.atomic_write import PART, remove_stale, write
from patchword.errors import IndexStoreError, NoIndexError
from patchword.images.files import File
from patchword.index import lance
from patchword.index.integrity import checked_vectors
from patchword.index.lance import (
    errors_converted,
    is_disk_full,
    is_lancedb_error,
    merge_files,
    path_conditions,
    retried,
    short_message,
)
from patchword.index.location import location_of
from patchword.index.schema import (
    FORMAT,
    Opened,
    Vectors,
    arrow_table,
    cast_to_schema,
    check_model,
    file_columns,
    row_columns,
    schema,
    visible_columns,
    with_metadata,
    with_replaced_values,
)
from patchword.index.version_note import VERSION_FILE, VersionNote, read_note

TABLE = "images"
ERRORS = "errors"  # the table of files that could not be read

REPAIRED = "repaired"  # the table that replaces a damaged one
RECALL = "recall.json"  # a file beside the table: the recall of approximate searches
# What there may be in an index's folder.
OWN_NAMES = {f"{name}.lance" for name in (TABLE, ERRORS, REPAIRED)} | {VERSION_FILE, RECALL}
MATRIX = ".f16"  # the suffix of files that searches make, see `matrix`
# What file managers leave in any folder: no reason to refuse it.
IGNORED_NAMES = {".DS_Store", "Thumbs.db", "desktop.ini", "@eaDir"}
_FEW = 8  # an update of fewer than one row in 8 is written as full rows
_UPDATE_BATCH = 8192  # full rows that are written at a time

REPAIR = "if this stays: patchword index --into {path} --repair, and index again"

T = TypeVar("T")
Table = Any  # lancedb.table.LanceTable, half of whose methods are untyped


class Store:
    """The table at a location, which need not exist yet. Methods raise IndexStoreError."""

    def __init__(self, path: str) -> None:
        self.location = location_of(path)
        self.path = self.location.address
        self.metadata: dict[str, Any] = {}  # what the table was created with, and its `dim`
        self._lock = threading.Lock()
        self._table: Table | None = None
        self.version = 0  # the version that `do` last gave to an action
        self._verified_version = 0  # the last version that has as many rows as were noted

    def exists(self) -> bool:
        """Whether there is a table; an incomplete one of a killed process does not count."""
        return self._open_table() is not None

    def _open_table(self) -> Table | None:
        """The table; None where there is none. Other threads may call `close` meanwhile."""
        if not self.location.may_have_table(TABLE):
            self._table = None
            return None
        table = self._table
        if table is None:
            try:
                table = self.location.connect().open_table(TABLE)
                self.metadata = self.check_format(table)
            except BaseException as error:  # see `is_lancedb_error`
                if isinstance(error, ValueError) and "was not found" in str(error):
                    return None
                if not is_lancedb_error(error):
                    raise
                raise self._convert(error) from error
            self._table = table
        return table

    def check_format(self, table: Table) -> dict[str, Any]:
        """The metadata that the table was created with. Raises for another format."""
        metadata = json.loads((table.schema.metadata or {}).get(b"patchword", b"{}"))
        number = metadata.get("format") if isinstance(metadata, dict) else None
        if isinstance(metadata, dict) and number == FORMAT:
            return metadata
        if not isinstance(number, int) and self.version_note():
            raise IndexStoreError(
                f"{self.path}: its newest version is damaged; {REPAIR.format(path=self.path)}"
            )
        if not isinstance(number, int):
            raise IndexStoreError(
                f"{self.path}: made by something else than patchword; name another folder"
            )
        by = "an earlier" if number < FORMAT else "a later"
        raise IndexStoreError(
            f"{self.path}: made by {by} version of patchword (format {number}, this one reads "
            f"{FORMAT}); index again: patchword index FILES_OR_FOLDERS --into {self.path} --reindex"
        )

    def create(self, dim: int, metadata: Mapping[str, Any]) -> None:
        """Create an empty table. One that another process just made is kept."""
        try:
            self.check_folder()
            columns = with_metadata(schema(dim), metadata)
            self.location.connect().create_table(TABLE, schema=columns, exist_ok=True)
        except (RuntimeError, ValueError, OSError) as error:
            if not self.exists():  # else another process was first, and has added columns
                reason = self.location.explain(error) or short_message(error)
                raise IndexStoreError(f"{self.path}: cannot be made: {reason}") from error
        if not self.exists():
            raise IndexStoreError(f"{self.path}: was deleted while it was made")

    def create_with_rows(
        self, batches: Iterator[Any], columns: Any, metadata: Mapping[str, Any]
    ) -> None:
        """Create the table with all its rows in one commit. batches: pyarrow.RecordBatch of the
        schema `columns`, whose paths are all different. Raises where there is a table."""
        import pyarrow as pa  # type: ignore[import-untyped]

        self.check_folder()
        reader = pa.RecordBatchReader.from_batches(with_metadata(columns, metadata), batches)
        with errors_converted(self._convert):
            if not self.exists() and not self.location.remote:
                remove_stale(os.path.join(self.path, f"{TABLE}.lance", "data"))
            self.location.connect().create_table(TABLE, data=reader)
        self.compact()

    def close(self) -> None:
        """Forget the table; it is opened again when it is needed."""
        self._table = None
        self._verified_version = 0

    def clear(self) -> None:
        """Delete the index, of whatever format, and keep the folder."""
        self.check_folder()
        self.close()
        if self.location.remote:
            with errors_converted(self._convert):
                for name in (TABLE, ERRORS):
                    self.location.connect().drop_table(name, ignore_missing=True)
        for name in filter(_is_own_name, self._names()):
            path = os.path.join(self.path, name)
            if os.path.isdir(path):
                shutil.rmtree(path)
            else:
                os.unlink(path)

    def _names(self) -> list[str]:
        """The names of what is in the folder; none at an address."""
        if self.location.remote or not os.path.isdir(self.path):
            return []
        return os.listdir(self.path)

    def check_folder(self) -> None:
        """Raise where the folder holds anything but an index. At an address only the tables are
        ever touched, and nothing is checked."""
        if not all(name in IGNORED_NAMES or _is_own_name(name) for name in self._names()):
            raise IndexStoreError(
                f"{self.path}: holds other files; an index needs a folder of its own"
            )

    def required_metadata(self) -> dict[str, Any]:
        """`metadata` of the table as it is now. Raises where there is no table."""
        self._current_table()
        return self.metadata

    def _require_table(self) -> Table:
        """The table. Raises where there is none."""
        table = self._open_table()
        if table is None:
            advice = f"; make one: patchword index FILES_OR_FOLDERS --into {self.path}"
            if os.path.isfile(self.path):
                advice = ", but a file; an index is a folder"
            raise NoIndexError(f"{self.path}: no index there{advice}")
        return table

    def count(self) -> int:
        """The number of rows."""
        return int(self.do(lambda table: table.count_rows()))

    def files(self) -> dict[str, File]:
        """The files by path, with size, time and hash as they were when they were stored."""
        names = ["path", "size", "mtime", "hash"]
        rows = self.do(lambda table: table.search().select(names).to_arrow())
        columns = (rows.column(name).to_pylist() for name in names)
        return {file.path: file for file in map(File, *columns)}

    def columns(self) -> dict[str, str]:
        """The kind of each column (`schema.column_kind`), without those for internal use."""
        return visible_columns(self.do(lambda table: table.schema))

    def select(self, where: str, columns: Sequence[str]) -> Any:
        """A pyarrow.Table of some columns of the rows that fulfil a condition. The condition is not
        checked: it must not come from a user."""
        names = list(columns)
        return self.do(lambda table: table.search().where(where).select(names).to_arrow())

    def values(self, names: Sequence[str]) -> Any:
        """A pyarrow.Table of all rows, with those of the columns `names` that exist."""

        def read(table: Table) -> Any:
            existing = [name for name in names if name in table.schema.names]
            return table.search().select(existing).to_arrow()

        return self.do(read)

    def put(
        self, files: Sequence[File], vectors: Vectors, seen: Opened | None = None, model: str = ""
    ) -> None:
        """Insert or replace the rows of these files; vectors (N, D). model: see `check_model`."""
        if files:
            rows = row_columns(files, vectors, seen or {})
            self.put_rows(arrow_table(rows, vectors.shape[1]), model)

    def put_rows(self, rows: Any, model: str = "") -> None:
        """Insert or replace rows, a pyarrow.Table. model: see `check_model`."""

        def merge(table: Table) -> None:
            check_model(self.path, self.metadata, model)
            merge = table.merge_insert("path").when_matched_update_all()
            merge.when_not_matched_insert_all().execute(rows)

        if len(rows):
            self.do(merge)

    def touch(self, files: Sequence[File]) -> None:
        """Store the size, time and hash of files; their vectors stay."""
        if files:
            self.update(arrow_table(file_columns(files)))

    def check_fit(self, rows: Any) -> None:
        """Raise IndexStoreError where values of a pyarrow.Table do not fit the types of the table's
        columns."""
        self.do(lambda table: cast_to_schema(rows, table.schema), reads=True)

    def update(self, rows: Any) -> None:
        """Replace the values of some columns: a pyarrow.Table with `path`; paths that have no row
        are passed over. New columns are added, empty for all other rows.

        Few rows are read and written completely: LanceDB's merge of some columns reads the whole
        table.
        """
        import pyarrow as pa

        def add_columns(table: Table) -> int:
            new = [field for field in rows.schema if field.name not in table.schema.names]
            if new:
                table.add_columns(pa.schema(new))
            return int(table.count_rows())

        def merge(table: Table) -> None:
            fitting = cast_to_schema(rows, table.schema)
            table.merge_insert("path").when_matched_update_all().execute(fitting)

        if not len(rows):
            return
        if len(rows) * _FEW < self.do(add_columns):
            for start in range(0, len(rows), _UPDATE_BATCH):
                batch = rows.slice(start, _UPDATE_BATCH)
                old = self.full_rows(batch["path"].to_pylist())
                self.put_rows(with_replaced_values(old, batch))
        else:
            self.do(merge)

    def full_rows(self, paths: Sequence[str]) -> Any:
        """A pyarrow.Table of the rows of these paths with all columns. Raises for damaged rows."""
        import pyarrow as pa

        def read(table: Table) -> Any:
            rows = pa.concat_tables(
                table.search().where(condition).select(table.schema.names).to_arrow()
                for condition in path_conditions(paths)
            )
            checked_vectors(rows, int(self.metadata["dim"]))
            return rows

        return self.do(read)

    def delete(self, paths: Sequence[str]) -> None:
        """Drop the rows of these paths."""

        def delete(table: Table) -> None:
            for condition in path_conditions(paths):
                table.delete(condition)

        if paths:
            self.do(delete)

    def compact(self, max_fragments: int | None = None) -> None:
        """Merge the table's files where there are more than `max_fragments`, by default
        `lance.MAX_FRAGMENTS`, and delete past versions and what killed processes left."""
        if not self.location.remote:
            remove_stale(os.path.join(self.path, f"{TABLE}.lance", "data"), ".tmp")
            remove_stale(self.path, PART)
        self.do(lambda table: merge_files(table, max_fragments or lance.MAX_FRAGMENTS))

    def do(self, action: Callable[[Table], T], reads: bool = False) -> T:
        """action(table) at its newest version. reads: the action changes nothing.

        `compact` deletes the files of past versions at once, so that no vector is stored twice. An
        action of another process that was using them fails, and is tried again on the newest
        version. So an action must be repeatable: it reads, or stores or deletes the same again.
        """
        # One action at a time: row ids belong to one version.
        with self._lock, errors_converted(self._convert):
            return retried(lambda: self._at_newest_version(self._current_table(), action, reads))

    def _current_table(self) -> Table:
        """The table; opened again where another one was made in its place since."""
        table, note = self._require_table(), self.version_note()
        if note and note.mark not in ("", self.metadata.get("mark")):
            self.close()
            table = self._require_table()
        return table

    def _at_newest_version(self, table: Table, action: Callable[[Table], T], reads: bool) -> T:
        """action(table) at the newest version. A version that the action makes is noted."""
        note = self.version_note()  # read first: what it names is committed already
        table.checkout_latest()
        self.version = before = int(table.version)
        noted_version = note.version if note else 0
        if noted_version > before:
            raise IndexStoreError(
                f"{self.path}: its newest version, {noted_version}, is gone, and version "
                f"{before} is an older one: a file of the folder was deleted or damaged; "
                f"{REPAIR.format(path=self.path)}"
            )
        if note and noted_version == before != self._verified_version:
            if note.rows != table.count_rows():
                raise IndexStoreError(
                    f"{self.path}: has {table.count_rows()} rows instead of {note.rows}: a file "
                    f"of the folder is damaged; {REPAIR.format(path=self.path)}"
                )
            self._verified_version = before
        result = action(table)
        if reads:
            return result
        table.checkout_latest()
        if not self.location.remote and table.version > max(before, noted_version):
            mark = str(self.metadata.get("mark", ""))
            new_note = VersionNote(int(table.version), int(table.count_rows()), mark)
            write(os.path.join(self.path, VERSION_FILE), json.dumps(new_note._asdict()))
        return result

    def version_note(self) -> VersionNote | None:
        """The note of the newest version; None where there is none. In object storage, which loses
        no files, there is none."""
        if self.location.remote:
            return None
        try:
            return read_note(self.path)
        except ValueError as error:
            raise self._convert(error) from error

    def _convert(self, error: BaseException) -> IndexStoreError:
        """The error to raise instead of one of LanceDB."""
        if reason := self.location.explain(error):
            return IndexStoreError(f"{self.path}: {reason}")
        message = short_message(error)
        if is_disk_full(error):
            return IndexStoreError(
                f"{self.path}: no room on the disk: {message}; what was committed is kept: "
                "make room, and run it again"
            )
        if os.path.isdir(self.path) and not os.access(self.path, os.W_OK):
            return IndexStoreError(f"{self.path}: nothing can be written there: {message}")
        advice = "" if self.location.remote else f"; {REPAIR.format(path=self.path)}"
        return IndexStoreError(
            f"{self.path}: the index cannot be read or written: {message}{advice}"
        )


def _is_own_name(name: str) -> bool:
    """Whether a file or folder of this name belongs to an index; also what a killed process was
    writing."""
    return name in OWN_NAMES or name.startswith(PART) or os.path.splitext(name)[1] == MATRIX
