"""Recover the whole rows of a damaged index."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchword.errors import IndexStoreError
from patchword.index.failures import Failures
from patchword.index.integrity import damaged
from patchword.index.lance import library, line, of_library, told_as
from patchword.index.location import is_remote
from patchword.index.schema import id_of
from patchword.index.table import ERRORS, REPAIRED, TABLE, VERSION, Store, Table

_PIECE = 1024  # rows read at a time; of a piece that cannot be read, its halves
_FRAGMENT = np.uint64(32)  # bits of a row's id below the number of its file
_LEAST = 16  # rows that are given up together
_ASIDE = "_unreadable"  # the folder of versions that are to be dropped


class Repaired(NamedTuple):
    """How many rows were whole and kept, and how many there had been; None where that is unknown:
    the newest version cannot be read."""

    kept: int
    of: int | None


def repair(path: str) -> Repaired:
    """Make a damaged index one of its whole rows. What was lost is embedded again when its files
    are added. Nothing is changed where all is whole. Raises IndexStoreError where nothing can be
    recovered."""
    if is_remote(path):
        raise IndexStoreError(
            f"{path}: only an index in a folder is repaired: copy this one to a disk, repair it "
            "there, and copy it back; or index again with --reindex"
        )
    images, new = (os.path.join(path, f"{name}.lance") for name in (TABLE, REPAIRED))
    if os.path.isdir(new):  # of a repair that was killed
        if os.path.isdir(images):
            shutil.rmtree(new)
        else:
            os.rename(new, images)
    if not os.path.isdir(images):
        raise IndexStoreError(f"{path}: no index there")
    _mend_errors(path)
    noted = _noted(path)
    table, dropped = _opened(path)

    def lost(error: BaseException) -> IndexStoreError:
        why = f"nothing can be recovered: {line(error)}"
        return IndexStoreError(f"{path}: {why}; index again with --reindex")

    with told_as(lost):
        found = np.sort(_row_ids(table))
        pieces = list(_whole(table, found))
    kept = sum(map(len, pieces))
    before: int | None = max(noted["rows"] if noted else 0, len(found))
    now = {"version": int(table.version), "rows": kept}
    if kept == len(found) and noted and noted | now == noted:
        return Repaired(kept, before)
    dropped = dropped or (noted is not None and noted["version"] > now["version"])
    if dropped and kept == before:
        before = None
    if kept < len(found):
        _replace(path, table, pieces)
    if os.path.exists(os.path.join(path, VERSION)):
        os.unlink(os.path.join(path, VERSION))
    Store(path).compact(1)  # notes the version
    return Repaired(kept, before)


def _noted(path: str) -> dict[str, Any] | None:
    """What was noted last, see `Store.noted`; None where that note is damaged or missing."""
    try:
        return Store(path).noted()
    except IndexStoreError:
        return None


def _mend_errors(path: str) -> None:
    """Drop the table of files that could not be read, where it is damaged."""
    try:
        Failures(path).known()
    except IndexStoreError:
        shutil.rmtree(os.path.join(path, f"{ERRORS}.lance"))


def _opened(path: str) -> tuple[Table, bool]:
    """The table at its newest version that can be opened, and whether there were newer ones, which
    are dropped. Where none can be, all stay: the reason may be another than damage."""
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
            except BaseException as error:  # see `of_library`
                if not of_library(error) and not isinstance(error, IndexStoreError):
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
    if isinstance(first, IndexStoreError):  # of another program, or another format
        raise first
    raise IndexStoreError(f"{path}: no version of it can be read; index again with --reindex")


def _row_ids(table: Table) -> NDArray[np.uint64]:
    found = table.search().with_row_id(True).select(["_rowid"]).to_arrow()
    ids: NDArray[np.uint64] = found.column("_rowid").to_numpy()
    return ids


def _whole(table: Table, ids: NDArray[np.uint64]) -> Iterator[Any]:
    """The rows that can be read and are what was written, as pyarrow.Tables."""
    for each in np.split(ids, np.flatnonzero(np.diff(ids >> _FRAGMENT)) + 1):  # files of the table
        for start in range(0, len(each), _PIECE):
            yield from _read(table, each[start : start + _PIECE])


def _read(table: Table, ids: NDArray[np.uint64]) -> Iterator[Any]:
    import pyarrow as pa  # type: ignore[import-untyped]

    try:
        rows = table.take_row_ids(ids.tolist()).to_arrow()
        bad = damaged(rows, rows.schema.field("vector").type.list_size)
        numbers = zip(rows.column("path").to_pylist(), rows.column("id").to_pylist(), strict=True)
        bad |= np.array([id_of(path) != number for path, number in numbers], bool)
        yield rows.filter(pa.array(~bad))
    except BaseException as error:  # see `of_library`
        if not of_library(error):
            raise
        if len(ids) > _LEAST:
            yield from _read(table, ids[: len(ids) // 2])
            yield from _read(table, ids[len(ids) // 2 :])


def _replace(path: str, table: Table, pieces: list[Any]) -> None:
    """Write the rows into a new table, and put that in the place of the old one."""
    import pyarrow as pa

    images, new = (os.path.join(path, f"{name}.lance") for name in (TABLE, REPAIRED))
    batches = (batch for piece in pieces for batch in piece.cast(table.schema).to_batches())
    reader = pa.RecordBatchReader.from_batches(table.schema, batches)
    library().connect(path).create_table(REPAIRED, data=reader)
    if os.path.exists(os.path.join(path, VERSION)):
        os.unlink(os.path.join(path, VERSION))
    shutil.rmtree(images)
    os.rename(new, images)
