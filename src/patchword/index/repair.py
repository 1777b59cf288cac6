"""Recover the undamaged rows of a damaged index."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchword.errors import IndexStoreError, NoIndexError
from patchword.index.failures import Failures
from patchword.index.integrity import damaged_rows
from patchword.index.lance import errors_converted, is_lancedb_error, library, short_message
from patchword.index.location import is_remote
from patchword.index.schema import id_of
from patchword.index.table import ERRORS, REPAIRED, TABLE, Store, Table
from patchword.index.version_note import VERSION_FILE, VersionNote

_BATCH = 1024  # rows read at a time; a batch that cannot be read is halved
_FRAGMENT = np.uint64(32)  # bits of a row id below the number of its file
_MIN_BATCH = 16  # a batch that cannot be read and is no larger than this is given up
_ASIDE = "_unreadable"  # the folder of versions that are to be dropped


class Repaired(NamedTuple):
    """How many rows were whole and kept, and how many there had been; None where that is unknown:
    the newest version cannot be read."""

    kept: int
    of: int | None


def repair(path: str) -> Repaired:
    """Make a damaged index one of its undamaged rows. What was lost is embedded again when its
    files are added. An undamaged index is not changed. Raises IndexStoreError where nothing can be
    recovered."""
    if is_remote(path):
        raise IndexStoreError(
            f"{path}: only an index in a folder is repaired: copy this one to a disk, repair it "
            "there, and copy it back; or index again with --reindex"
        )
    images, repaired = (os.path.join(path, f"{name}.lance") for name in (TABLE, REPAIRED))
    if os.path.isdir(repaired):  # from a repair that was killed
        if os.path.isdir(images):
            shutil.rmtree(repaired)
        else:
            os.rename(repaired, images)
    if not os.path.isdir(images):
        raise NoIndexError(f"{path}: no index there")
    _drop_damaged_errors(path)
    note = _version_note(path)
    table, versions_dropped = _open_newest_readable(path)

    def convert(error: BaseException) -> IndexStoreError:
        reason = f"nothing can be recovered: {short_message(error)}"
        return IndexStoreError(f"{path}: {reason}; index again with --reindex")

    with errors_converted(convert):
        ids = np.sort(_row_ids(table))
        pieces = list(_undamaged_rows(table, ids))
    kept = sum(map(len, pieces))
    before: int | None = max(note.rows if note else 0, len(ids))
    version = int(table.version)
    if kept == len(ids) and note and (note.version, note.rows) == (version, kept):
        return Repaired(kept, before)
    if note and note.version > version:
        versions_dropped = True
    if versions_dropped and kept == before:
        before = None
    if kept < len(ids):
        _replace(path, table, pieces)
    Path(path, VERSION_FILE).unlink(missing_ok=True)
    Store(path).compact(1)  # notes the version
    return Repaired(kept, before)


def _version_note(path: str) -> VersionNote | None:
    """The note of the newest version; None where it is damaged or missing."""
    try:
        return Store(path).version_note()
    except IndexStoreError:
        return None


def _drop_damaged_errors(path: str) -> None:
    """Drop the table of files that could not be read, where it is damaged."""
    try:
        Failures(path).known()
    except IndexStoreError:
        shutil.rmtree(os.path.join(path, f"{ERRORS}.lance"))


def _open_newest_readable(path: str) -> tuple[Table, bool]:
    """The table at its newest version that can be opened, and whether there were newer ones. These
    are dropped. If none can be opened, all stay: the reason may be another than damage."""
    versions = os.path.join(path, f"{TABLE}.lance", "_versions")
    aside = os.path.join(path, f"{TABLE}.lance", _ASIDE)
    os.makedirs(aside, exist_ok=True)
    manifests = sorted(os.listdir(versions)) if os.path.isdir(versions) else []
    first: BaseException | None = None
    try:
        for name in manifests:  # Lance numbers them downwards: the newest comes first
            try:
                table = library().connect(path).open_table(TABLE)
                Store(path).check_format(table)
            except BaseException as error:  # see `is_lancedb_error`
                if not is_lancedb_error(error) and not isinstance(error, IndexStoreError):
                    raise
                first = first or error
                os.rename(os.path.join(versions, name), os.path.join(aside, name))
                continue
            shutil.rmtree(aside)
            os.mkdir(aside)
            return table, first is not None
    finally:
        for name in os.listdir(aside):
            os.rename(os.path.join(aside, name), os.path.join(versions, name))
        os.rmdir(aside)
    if isinstance(first, IndexStoreError):  # an index of another program, or of another format
        raise first
    raise IndexStoreError(f"{path}: no version of it can be read; index again with --reindex")


def _row_ids(table: Table) -> NDArray[np.uint64]:
    rows = table.search().with_row_id(True).select(["_rowid"]).to_arrow()
    ids: NDArray[np.uint64] = rows.column("_rowid").to_numpy()
    return ids


def _undamaged_rows(table: Table, ids: NDArray[np.uint64]) -> Iterator[Any]:
    """The rows that can be read and are what was written, as pyarrow.Tables."""
    file_starts = np.flatnonzero(np.diff(ids >> _FRAGMENT)) + 1  # of the table's data files
    for ids_of_file in np.split(ids, file_starts):
        for start in range(0, len(ids_of_file), _BATCH):
            yield from _read(table, ids_of_file[start : start + _BATCH])


def _read(table: Table, ids: NDArray[np.uint64]) -> Iterator[Any]:
    """The undamaged ones of these rows. Where reading fails, halves of them are tried."""
    import pyarrow as pa  # type: ignore[import-untyped]

    try:
        rows = table.take_row_ids(ids.tolist()).to_arrow()
        bad = damaged_rows(rows, rows.schema.field("vector").type.list_size)
        numbers = zip(rows.column("path").to_pylist(), rows.column("id").to_pylist(), strict=True)
        bad |= np.array([id_of(path) != number for path, number in numbers], bool)
        yield rows.filter(pa.array(~bad))
    except BaseException as error:  # see `is_lancedb_error`
        if not is_lancedb_error(error):
            raise
        if len(ids) > _MIN_BATCH:
            yield from _read(table, ids[: len(ids) // 2])
            yield from _read(table, ids[len(ids) // 2 :])


def _replace(path: str, table: Table, pieces: list[Any]) -> None:
    """Write the rows into a new table, and replace the old table with it."""
    import pyarrow as pa

    images, repaired = (os.path.join(path, f"{name}.lance") for name in (TABLE, REPAIRED))
    batches = (batch for piece in pieces for batch in piece.cast(table.schema).to_batches())
    reader = pa.RecordBatchReader.from_batches(table.schema, batches)
    library().connect(path).create_table(REPAIRED, data=reader)
    Path(path, VERSION_FILE).unlink(missing_ok=True)
    shutil.rmtree(images)
    os.rename(repaired, images)
