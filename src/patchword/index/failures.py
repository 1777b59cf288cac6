"""The files that could not be read, with the reasons: a second table in an index's folder, so that
they are not tried again each time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

from patchword.errors import IndexStoreError
from patchword.images.files import File
from patchword.index.lance import (
    FRAGMENTS,
    line,
    merge_files,
    path_conditions,
    told_as,
    tried_again,
)
from patchword.index.location import place_of
from patchword.index.table import ERRORS

TRIES = 5  # of a change that the table does not show

T = TypeVar("T")


class Failure(NamedTuple):
    """A file as it was when it could not be read, and why not."""

    path: str
    size: int
    mtime: int
    reason: str

    def is_of(self, file: File) -> bool:
        """Whether a file is still as it was then."""
        return (self.size, self.mtime) == (file.size, file.mtime)


class Failures:
    """The table in the folder of an index. Methods raise IndexStoreError."""

    def __init__(self, path: str) -> None:
        self.place = place_of(path)
        self.path = self.place.address

    def known(self) -> dict[str, Failure]:
        """All of them by path."""
        rows = self._do(lambda table: table.search().select(list(Failure._fields)).to_arrow())
        if rows is None:
            return {}
        columns = (rows.column(name).to_pylist() for name in Failure._fields)
        return {each.path: each for each in map(Failure, *columns)}

    def change(self, new: Sequence[Failure], mended: Iterable[str]) -> None:
        """Store some, and drop those of files that can be read now."""
        gone = list(mended)
        conditions = list(path_conditions(gone))

        def change(table: Any) -> None:
            if new:
                columns: dict[str, Any] = {
                    name: [getattr(each, name) for each in new] for name in Failure._fields
                }
                columns["tried"] = [datetime.now(UTC)] * len(new)
                merge = table.merge_insert("path").when_matched_update_all()
                merge.when_not_matched_insert_all().execute(_arrow(columns))
            for condition in conditions:
                table.delete(condition)
            merge_files(table, FRAGMENTS)

        for _ in range(TRIES):
            self._do(change, make=bool(new))
            if self._changed([each.path for each in new], gone):
                return

    def _changed(self, new: list[str], gone: list[str]) -> bool:
        """Whether the table has some paths and not others. Where several processes merge its files
        at once, LanceDB now and then opens it as it was a moment before, and what is deleted then
        stays: seen in 3 of 90 runs of three writers that merged after each change."""

        def read(table: Any) -> set[str]:
            found: set[str] = set()
            for condition in path_conditions([*new, *gone]):
                rows = table.search().where(condition).select(["path"]).to_arrow()
                found.update(rows.column("path").to_pylist())
            return found

        found = self._do(read) or set()
        return found.issuperset(new) and found.isdisjoint(gone)

    def _do(self, action: Callable[[Any], T], make: bool = False) -> T | None:
        """action(the table), tried again where another process merges its files meanwhile, see
        `table.Store.do`; None where there is no table. make: then it is made."""

        def once() -> T | None:
            table = self._table(make)
            return None if table is None else action(table)

        with told_as(self._unreadable):
            return tried_again(once)

    def _table(self, make: bool) -> Any:
        if not make and not self.place.may_hold(ERRORS):
            return None
        folder = self.place.connect()
        try:
            if make:
                return folder.create_table(ERRORS, schema=_arrow({}).schema, exist_ok=True)
            return folder.open_table(ERRORS)
        except ValueError as error:
            if "was not found" in str(error):  # half made by a process that was killed
                return None
            raise

    def _unreadable(self, error: BaseException) -> IndexStoreError:
        if why := self.place.cause(error):
            return IndexStoreError(f"{self.path}: {why}")
        return IndexStoreError(
            f"{self.path}: the table of files that could not be read is damaged: {line(error)}; "
            "patchword index --repair makes a new one"
        )


def _arrow(columns: dict[str, Any]) -> Any:
    import pyarrow as pa  # type: ignore[import-untyped]

    key = {"lance-schema:unenforced-primary-key": "true"}
    schema = pa.schema(
        [
            pa.field("path", pa.string(), nullable=False, metadata=key),
            pa.field("size", pa.int64()),
            pa.field("mtime", pa.int64()),
            pa.field("reason", pa.string()),
            pa.field("tried", pa.timestamp("us", tz="UTC")),
        ]
    )
    return pa.table(columns, schema=schema) if columns else schema.empty_table()
