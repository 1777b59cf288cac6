"""A LanceDB table of files and vectors, in the place of an index; independent of models.

Every change is one commit, whole or not at all. Several processes may read and write at once.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from patchword.atomic_write import PART, remove_stale, write
from patchword.errors import IndexStoreError
from patchword.images.files import File
from patchword.images.reading import Seen
from patchword.index import lance
from patchword.index.integrity import intact
from patchword.index.lance import (
    line,
    merge_files,
    no_room,
    of_library,
    path_conditions,
    told_as,
    tried_again,
)
from patchword.index.location import place_of
from patchword.index.schema import (
    FORMAT,
    PRIVATE,
    Vectors,
    arrow,
    file_columns,
    fitting,
    kind,
    overlaid,
    row_columns,
    schema,
)

TABLE = "images"
ERRORS = "errors"  # the table of files that could not be read
VERSION = "version.json"  # beside the table: its newest version, and the rows of that
REPAIRED = "repaired"  # the table that replaces a damaged one
RECALL = "recall.json"  # beside the table: of approximate searches
# What there may be in an index's folder.
OWN = {f"{name}.lance" for name in (TABLE, ERRORS, REPAIRED)} | {VERSION, RECALL}
MATRIX = ".f16"  # ends the names of files that searches make, see `matrix`
# What file managers leave in any folder, and what is no reason to refuse one.
LITTER = {".DS_Store", "Thumbs.db", "desktop.ini", "@eaDir"}
_FEW = 8  # an update of fewer than one row in so many is written as whole rows
_WHOLE = 8192  # of which so many at a time

REPAIR = "if this stays: patchword index --into {path} --repair, and index again"

T = TypeVar("T")
Table = Any  # lancedb.table.LanceTable, half of whose methods are untyped


class Store:
    """The table in a place, which need not exist yet. Methods raise IndexStoreError."""

    def __init__(self, path: str) -> None:
        self.place = place_of(path)
        self.path = self.place.address
        self.about: dict[str, Any] = {}  # what it was created with, and `dim`
        self._lock = threading.Lock()
        self._table: Table | None = None
        self.version = 0  # what the action reads that `do` was last given
        self._whole = 0  # the last version whose rows were found to be as many as noted

    def open(self) -> bool:
        """Whether there is a table; an incomplete one of a killed process does not count."""
        return self._opened() is not None

    def _opened(self) -> Table | None:
        """The table, where there is one. Other threads may open and forget it meanwhile."""
        if not self.place.may_hold(TABLE):
            self._table = None
            return None
        table = self._table
        if table is None:
            try:
                table = self.place.connect().open_table(TABLE)
                self.about = self.check_format(table)
            except BaseException as error:  # see `of_library`
                if isinstance(error, ValueError) and "was not found" in str(error):
                    return None
                if not of_library(error):
                    raise
                raise self._failed(error) from error
            self._table = table
        return table

    def check_format(self, table: Table) -> dict[str, Any]:
        """The metadata that the table was created with. Raises for another format."""
        about = json.loads((table.schema.metadata or {}).get(b"patchword", b"{}"))
        number = about.get("format") if isinstance(about, dict) else None
        if isinstance(about, dict) and number == FORMAT:
            return about
        if not isinstance(number, int) and self.noted():
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

    def create(self, dim: int, about: Mapping[str, Any]) -> None:
        """Create an empty table with the metadata `about`, or keep one that another process just
        made."""
        try:
            self.check_own()
            columns = schema(dim)
            columns = columns.with_metadata({"patchword": self._about_text(columns, about)})
            self.place.connect().create_table(TABLE, schema=columns, exist_ok=True)
        except (RuntimeError, ValueError, OSError) as error:
            if not self.open():  # else another process was sooner, and added columns of its own
                why = self.place.cause(error) or line(error)
                raise IndexStoreError(f"{self.path}: cannot be made: {why}") from error
        if not self.open():
            raise IndexStoreError(f"{self.path}: was deleted while it was made")

    def load(self, batches: Iterator[Any], columns: Any, about: Mapping[str, Any]) -> None:
        """Create the table with all its rows in one commit. batches: pyarrow.RecordBatch of the
        schema `columns`, whose paths are all different. Raises where there is a table."""
        import pyarrow as pa  # type: ignore[import-untyped]

        self.check_own()
        whole = columns.with_metadata({"patchword": self._about_text(columns, about)})
        reader = pa.RecordBatchReader.from_batches(whole, batches)
        with told_as(self._failed):
            if not self.open() and not self.place.remote:
                remove_stale(os.path.join(self.path, f"{TABLE}.lance", "data"))
            self.place.connect().create_table(TABLE, data=reader)
        self.compact()

    def _about_text(self, columns: Any, about: Mapping[str, Any]) -> str:
        dim = columns.field("vector").type.list_size
        mark = secrets.token_hex(8)  # no other table has it
        return json.dumps({"format": FORMAT, "dim": dim, "mark": mark, **about})

    def close(self) -> None:
        """Forget the table; it is opened again when it is needed."""
        self._table = None
        self._whole = 0

    def clear(self) -> None:
        """Delete the index, of whatever format, and keep the folder."""
        self.check_own()
        self.close()
        if self.place.remote:
            self._drop_tables()
            return
        for name in filter(_own, os.listdir(self.path) if os.path.isdir(self.path) else ()):
            place = os.path.join(self.path, name)
            shutil.rmtree(place) if os.path.isdir(place) else os.unlink(place)

    def _drop_tables(self) -> None:
        with told_as(self._failed):
            for name in (TABLE, ERRORS):
                self.place.connect().drop_table(name, ignore_missing=True)

    def check_own(self) -> None:
        """Raise where the folder holds anything but an index. Of an address only the tables are
        ever touched."""
        names = set(os.listdir(self.path)) if os.path.isdir(self.path) else set()
        if not all(map(_own, names - LITTER)):
            raise IndexStoreError(
                f"{self.path}: holds other files; an index needs a folder of its own"
            )

    def described(self) -> dict[str, Any]:
        """`about`. Raises where there is no table."""
        self._there()
        return self.about

    def _there(self) -> Table:
        """The table. Raises where there is none."""
        table = self._opened()
        if table is None:
            make = f"; make one: patchword index FILES_OR_FOLDERS --into {self.path}"
            rather = ", but a file; an index is a folder" if os.path.isfile(self.path) else make
            raise IndexStoreError(f"{self.path}: no index there{rather}")
        return table

    def count(self) -> int:
        """Rows."""
        return int(self.do(lambda table: table.count_rows()))

    def known(self) -> dict[str, File]:
        """The files by path, with size, time and hash at the time they were stored."""
        names = ["path", "size", "mtime", "hash"]
        rows = self.do(lambda table: table.search().select(names).to_arrow())
        columns = (rows.column(name).to_pylist() for name in names)
        return {file.path: file for file in map(File, *columns)}

    def columns(self) -> dict[str, str]:
        """What each column holds, see `schema.kind`; without those that serve the index alone."""
        fields = self.do(lambda table: table.schema)
        return {field.name: kind(field.type) for field in fields if field.name not in PRIVATE}

    def select(self, where: str, columns: Sequence[str]) -> Any:
        """A pyarrow.Table of some columns of the rows that fulfil a condition, which is not
        checked: it must not come from somebody else."""
        names = list(columns)
        return self.do(lambda table: table.search().where(where).select(names).to_arrow())

    def values(self, names: Sequence[str]) -> Any:
        """A pyarrow.Table of those of the columns that there are, of all rows."""

        def read(table: Table) -> Any:
            known = [name for name in names if name in table.schema.names]
            return table.search().select(known).to_arrow()

        return self.do(read)

    def put(
        self, files: Sequence[File], vectors: Vectors, seen: Mapping[str, Seen] | None = None
    ) -> None:
        """Insert or replace the rows of these files; vectors (N, D). seen: what is known of the
        images themselves, by path."""
        if files:
            self.put_rows(arrow(row_columns(files, vectors, seen or {}), vectors.shape[1]))

    def put_rows(self, rows: Any) -> None:
        """Insert or replace rows, a pyarrow.Table."""
        if not len(rows):
            return

        def merge(table: Table) -> None:
            merge = table.merge_insert("path").when_matched_update_all()
            merge.when_not_matched_insert_all().execute(rows)

        self.do(merge)

    def touch(self, files: Sequence[File]) -> None:
        """Store the size, time and hash of files whose vectors stay."""
        if files:
            self.update(arrow(file_columns(files)))

    def check_fit(self, rows: Any) -> None:
        """Raise IndexStoreError where values of a pyarrow.Table are not of the types that the
        columns of the table have."""
        self.do(lambda table: fitting(rows, table.schema), reads=True)

    def update(self, rows: Any) -> None:
        """Replace the values of some columns: a pyarrow.Table with `path`; of paths that have no
        row nothing is stored. Columns that are new are added, empty for all other rows.

        Few rows are read and written whole: LanceDB's merge of some columns reads the table.
        """
        import pyarrow as pa

        def add(table: Table) -> int:
            new = [field for field in rows.schema if field.name not in table.schema.names]
            if new:
                table.add_columns(pa.schema(new))
            return int(table.count_rows())

        if not len(rows):
            return
        if len(rows) * _FEW < self.do(add):
            for start in range(0, len(rows), _WHOLE):
                some = rows.slice(start, _WHOLE)
                self.put_rows(overlaid(self.whole(some["path"].to_pylist()), some))
        else:
            self.do(lambda table: _merge_columns(table, rows))

    def whole(self, paths: Sequence[str]) -> Any:
        """A pyarrow.Table of the rows of these paths, all columns, checked."""
        import pyarrow as pa

        def read(table: Table) -> Any:
            scans = (
                table.search().where(each).select(table.schema.names).to_arrow()
                for each in path_conditions(paths)
            )
            found = pa.concat_tables(scans)
            intact(found, int(self.about["dim"]))
            return found

        return self.do(read)

    def delete(self, paths: Sequence[str]) -> None:
        """Drop the rows of these paths."""
        for each in path_conditions(paths):
            self._delete_where(each)

    def compact(self, most: int | None = None) -> None:
        """Merge the table's files where there are more than `most`, by default `FRAGMENTS`, and
        delete past versions and what killed processes left."""
        if not self.place.remote:
            remove_stale(os.path.join(self.path, f"{TABLE}.lance", "data"), ".tmp")
            remove_stale(self.path, PART)
        self.do(lambda table: merge_files(table, most or lance.FRAGMENTS))

    def _delete_where(self, condition: str) -> None:
        self.do(lambda table: table.delete(condition))

    def do(self, action: Callable[[Table], T], reads: bool = False) -> T:
        """action(table) at its newest version, tried again where that version vanishes. reads: the
        action changes nothing.

        `compact` deletes the files of past versions at once, so that no vector is stored twice; an
        action of another process that was using them fails, and is repeated on the new ones. Every
        action may be repeated: it reads, or stores or deletes the same again.
        """
        with self._lock, told_as(self._failed):  # one version at a time: row ids belong to one
            return tried_again(lambda: self._newest(self._current(), action, reads))

    def _current(self) -> Table:
        """The table; opened again where another one was made in its place since."""
        table, noted = self._there(), self.noted()
        if noted and noted["mark"] not in ("", self.about.get("mark")):
            self.close()
            table = self._there()
        return table

    def _newest(self, table: Table, action: Callable[[Table], T], reads: bool) -> T:
        """action(table) at the newest version, which is noted when the action made it."""
        noted = self.noted()  # first: what is noted was committed before
        table.checkout_latest()
        self.version = before = int(table.version)
        if noted and noted["version"] > before:
            raise IndexStoreError(
                f"{self.path}: its newest version, {noted['version']}, is gone, and version "
                f"{before} is an older one: a file of the folder was deleted or damaged; "
                f"{REPAIR.format(path=self.path)}"
            )
        known = noted if noted and noted["version"] == before != self._whole else None
        if known and known["rows"] != table.count_rows():
            raise IndexStoreError(
                f"{self.path}: has {table.count_rows()} rows instead of {known['rows']}: a file of "
                f"the folder is damaged; {REPAIR.format(path=self.path)}"
            )
        self._whole = before if known else self._whole
        result = action(table)
        if reads:
            return result
        table.checkout_latest()
        if not self.place.remote and table.version > max(before, noted["version"] if noted else 0):
            note: dict[str, Any] = {"version": int(table.version), "rows": int(table.count_rows())}
            note["mark"] = self.about.get("mark", "")
            write(os.path.join(self.path, VERSION), json.dumps(note))
        return result

    def noted(self) -> dict[str, Any] | None:
        """The newest version that was noted, its rows, and the mark of its table; None where none
        was. In object storage, which loses no files, none is."""
        if self.place.remote:
            return None
        try:
            with open(os.path.join(self.path, VERSION), encoding="utf-8") as file:
                note = json.load(file)
            found = {"version": int(note["version"]), "rows": int(note["rows"])}
            return {**found, "mark": str(note.get("mark", ""))}
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise self._failed(error) from error

    def _failed(self, error: BaseException) -> IndexStoreError:
        """The error for what LanceDB raised."""
        if why := self.place.cause(error):
            return IndexStoreError(f"{self.path}: {why}")
        if no_room(error):
            return IndexStoreError(
                f"{self.path}: no room on the disk: {line(error)}; what was committed is kept: "
                "make room, and run it again"
            )
        if os.path.isdir(self.path) and not os.access(self.path, os.W_OK):
            return IndexStoreError(f"{self.path}: nothing can be written there: {line(error)}")
        return IndexStoreError(
            f"{self.path}: the index cannot be read or written: {line(error)}"
            + ("" if self.place.remote else f"; {REPAIR.format(path=self.path)}")
        )


def _own(name: str) -> bool:
    """Whether what is called so in an index's folder is of the index; also what a killed process
    was writing."""
    return name in OWN or name.startswith(PART) or os.path.splitext(name)[1] == MATRIX


def _merge_columns(table: Table, rows: Any) -> None:
    rows = fitting(rows, table.schema)
    table.merge_insert("path").when_matched_update_all().execute(rows)
