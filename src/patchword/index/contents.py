"""What is in an index: its rows by id, its columns, the model that made it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from patchword.bundle import Bundle
from patchword.errors import ImageError, IndexStoreError, NoRowError, SameIdError
from patchword.images import ImageLike
from patchword.images.files import Path
from patchword.index import members
from patchword.index.failures import Failures
from patchword.index.schema import id_of
from patchword.index.table import Store
from patchword.options import checked, nearest

LARGE_COLUMNS = {"thumbnail", "vector"}  # columns that `rows` gives only when they are named
IDS_IN_CONDITION = 1000  # ids in one condition


class IndexReader:
    """An index that is read."""

    def __init__(
        self,
        path: Path,
        load: Callable[..., Bundle] | None = None,
        load_for_texts: Callable[..., Bundle] | None = None,
    ) -> None:
        self._store = Store(os.fspath(path))
        self.path = self._store.path
        self._failures = Failures(self.path)
        self._load, self._load_for_texts = load, load_for_texts or load
        self._model: Bundle | None = None
        self._text_model: Bundle | None = None  # embeds texts only; used while `_model` is None

    def __reduce__(self) -> tuple[type[IndexReader], tuple[Any, ...]]:
        """Copies and pickles open the same index, and know no model yet."""
        return type(self), (self.path, self._load, self._load_for_texts)

    def __len__(self) -> int:
        return self._store.count() if self._store.exists() else 0

    def __repr__(self) -> str:
        return f"Index({self.path!r})"

    def __bool__(self) -> bool:
        return True

    @property
    def model_name(self) -> str:
        """The name of the model that made the vectors."""
        return str(self._store.required_metadata()["model"])

    @property
    def fingerprint(self) -> str:
        """The fingerprint of that model."""
        return str(self._store.required_metadata()["fingerprint"])

    @property
    def options(self) -> dict[str, Any]:
        """The options that the model was loaded with, where they change vectors."""
        return dict(self._store.required_metadata().get("options", {}))

    @property
    def dim(self) -> int:
        """D, the length of a vector."""
        return int(self._store.required_metadata()["dim"])

    @property
    def version(self) -> tuple[str, int]:
        """A value that changes with every commit: the table's mark, and its version number."""
        number = self._store.do(lambda table: int(table.version), reads=True)
        return str(self._store.metadata.get("mark", "")), number

    @property
    def columns(self) -> dict[str, str]:
        """The columns, and what each holds: text, number, boolean, time, list, vector or bytes."""
        return self._store.columns()

    @checked
    def rows(
        self, ids: Iterable[int], columns: Iterable[str] | None = None
    ) -> list[dict[str, Any]]:
        """The rows of these ids, in their order, each with the values of its columns by name; by
        default of all but thumbnail and vector. Raises IndexStoreError for an id or a column that
        is not there, and for an id that two rows have: an id is a hash of a path."""
        id_list, existing = list(ids), self.columns
        if columns is None:
            names = [name for name in existing if name not in LARGE_COLUMNS]
        else:
            names = list(columns)
        for name in names:
            if name not in existing:
                raise IndexStoreError(
                    f"{self.path}: no column {name}{nearest(name, existing)}; it has "
                    f"{', '.join(existing)}"
                )
        read_names = list(dict.fromkeys(["id", "path", *names]))
        rows: dict[int, dict[str, Any]] = {}
        for start in range(0, len(id_list), IDS_IN_CONDITION):
            batch = ", ".join(str(int(id_)) for id_ in id_list[start : start + IDS_IN_CONDITION])
            for row in self._store.select(f"id IN ({batch})", read_names).to_pylist():
                if id_of(row["path"]) != row["id"]:
                    raise IndexStoreError(f"{self.path}: the entry of {row['path']!r} is damaged")
                other = rows.setdefault(row["id"], row)
                if other["path"] != row["path"]:
                    raise SameIdError(
                        f"{self.path}: {other['path']!r} and {row['path']!r} have the same id, "
                        f"{row['id']}: rename one of them, and index it again with --prune"
                    )
        for id_ in id_list:
            if id_ not in rows:
                raise NoRowError(f"{self.path}: no row of id {id_}")
        return [{name: rows[id_][name] for name in names} for id_ in id_list]

    @checked
    def row(self, number: int, columns: Iterable[str] | None = None) -> dict[str, Any]:
        """The row of one id, see `rows`."""
        return self.rows([number], columns)[0]

    @checked
    def content(self, number: int) -> ImageLike:
        """The image of one id as models take it: the path of its file, or its bytes where it is
        inside a tar or a table. Raises ImageError where it is not there any more."""
        return members.content(self.row(number, ["path"])["path"])

    @checked
    def paths(self) -> list[str]:
        """The paths of all entries, sorted."""
        return sorted(self._store.files())

    @checked
    def empty(self, column: str) -> list[str]:
        """The paths of the rows whose value of a column is empty, sorted."""
        if column not in self.columns:
            raise IndexStoreError(f"{self.path}: no column {column}")
        return sorted(self._store.select(f"`{column}` IS NULL", ["path"])["path"].to_pylist())

    @checked
    def gone(self) -> list[str]:
        """The paths of the entries whose files are gone, sorted."""
        return sorted(path for path in self._store.files() if members.gone(path))

    @checked
    def errors(self) -> list[ImageError]:
        """The files that could not be read when they were added, and why, by path. They are tried
        again when they have changed, or with `retry`."""
        self._store.required_metadata()
        failures = sorted(self._failures.known().values())
        return [ImageError(failure.path, failure.reason) for failure in failures]
