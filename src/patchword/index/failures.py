"""The files that could not be read, and why: a second table in an index's folder, so that they are
not tried again each time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

from patchword.errors import IndexStoreError
from patchword.images.files import File
from patchword.index.lance import (
    MAX_FRAGMENTS,
    errors_converted,
    merge_files,
    path_conditions,
    retried,
    short_message,
)
from patchword.index.location import location_of
from patchword.index.table import ERRORS

ATTEMPTS = 5  # at a change that the table does not show afterwards

T = TypeVar("T")


class Failure(NamedTuple):
    """A file as it was when it could not be read, and why not."""

    path: str
    size: int
    mtime: int
    reason: str

    def is_of(self, file: File) -> bool:
        """Whether a file still has the size and time that it had then."""
        return (self.size, self.mtime) == (file.size, file.mtime)


class Failures:
    """The table in the folder of an index. Methods raise IndexStoreError."""

    def __init__(self, path: str) -> None:
        self.location = location_of(path)
        self.path = self.location.address

    def known(self) -> dict[str, Failure]:
        """All failures by path."""
        rows = self._do(lambda table: table.search().select(list(Failure._fields)).to_arrow())
        if rows is None:
            return {}
        columns = (rows.column(name).to_pylist() for name in Failure._fields)
        return {failure.path: failure for failure in map(Failure, *columns)}

    def change(self, new: Sequence[Failure], mended: Iterable[str]) -> None:
        """Store new failures, and drop those of the paths `mended`, which can be read now."""
        dropped = list(mended)
        conditions = list(path_conditions(dropped))

        def change(table: Any) -> None:
            if new:
                columns: dict[str, Any] = {
                    name: [getattr(failure, name) for failure in new] for name in Failure._fields
                }
                columns["tried"] = [datetime.now(UTC)] * len(new)
                merge = table.merge_insert("path").when_matched_update_all()
                merge.when_not_matched_insert_all().execute(_arrow(columns))
            for condition in conditions:
                table.delete(condition)
            merge_files(table, MAX_FRAGMENTS)

        for _ in range(ATTEMPTS):
            self._do(change, create=bool(new))
            if self._shows_change([failure.path for failure in new], dropped):
                return

    def _shows_change(self, new: list[str], dropped: list[str]) -> bool:
        """Whether the table has all paths `new`, and none of `dropped`. Where several processes
        merge its files at once, LanceDB now and then opens it as it was a moment before, and what
        is deleted then stays: seen in 3 of 90 runs of three writers that merged after each
        change."""

        def read(table: Any) -> set[str]:
            paths: set[str] = set()
            for condition in path_conditions([*new, *dropped]):
                rows = table.search().where(condition).select(["path"]).to_arrow()
                paths.update(rows.column("path").to_pylist())
            return paths

        stored = self._do(read) or set()
        return stored.issuperset(new) and stored.isdisjoint(dropped)

    def _do(self, action: Callable[[Any], T], create: bool = False) -> T | None:
        """action(the table), tried again where another process merges its files meanwhile, see
        `table.Store.do`. Where there is no table, it is created if `create`, else the result is
        None."""

        def open_and_act() -> T | None:
            table = self._table(create)
            return None if table is None else action(table)

        with errors_converted(self._convert):
            return retried(open_and_act)

    def _table(self, create: bool) -> Any:
        if not create and not self.location.may_have_table(ERRORS):
            return None
        connection = self.location.connect()
        try:
            if create:
                return connection.create_table(ERRORS, schema=_arrow({}).schema, exist_ok=True)
            return connection.open_table(ERRORS)
        except ValueError as error:
            if "was not found" in str(error):  # half made by a process that was killed
                return None
            raise

    def _convert(self, error: BaseException) -> IndexStoreError:
        """The error to raise instead of one of LanceDB."""
        if reason := self.location.explain(error):
            return IndexStoreError(f"{self.path}: {reason}")
        return IndexStoreError(
            f"{self.path}: the table of files that could not be read is damaged: "
            f"{short_message(error)}; patchword index --repair makes a new one"
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
