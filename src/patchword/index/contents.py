"""What is in an index: its rows by number, its columns, the model that made it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from patchword.bundle import Bundle
from patchword.errors import ImageError, IndexStoreError
from patchword.images import ImageLike
from patchword.images.files import Path
from patchword.index import members
from patchword.index.failures import Failures
from patchword.index.schema import id_of
from patchword.index.table import Store
from patchword.options import checked, nearest

LARGE = {"thumbnail", "vector"}  # columns that `rows` gives only when they are named
ROWS = 1000  # ids in one condition


class Stored:
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
        self._reader: Bundle | None = None  # of texts alone, until there is a model

    def __reduce__(self) -> tuple[type[Stored], tuple[Any, ...]]:
        """Copies and pickles open the same index, and know no model yet."""
        return type(self), (self.path, self._load, self._load_for_texts)

    def __len__(self) -> int:
        return self._store.count() if self._store.open() else 0

    def __repr__(self) -> str:
        return f"Index({self.path!r})"

    def __bool__(self) -> bool:
        return True

    @property
    def model_name(self) -> str:
        """The name of the model that made the vectors."""
        return str(self._store.described()["model"])

    @property
    def fingerprint(self) -> str:
        """The fingerprint of that model."""
        return str(self._store.described()["fingerprint"])

    @property
    def options(self) -> dict[str, Any]:
        """The options that the model was loaded with, where they change vectors."""
        return dict(self._store.described().get("options", {}))

    @property
    def dim(self) -> int:
        """D, the length of a vector."""
        return int(self._store.described()["dim"])

    @property
    def version(self) -> tuple[str, int]:
        """What changes with every commit: the mark of its table, and the number of the newest."""
        number = self._store.do(lambda table: int(table.version), reads=True)
        return str(self._store.about.get("mark", "")), number

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
        wanted, known = list(ids), self.columns
        names = [n for n in known if n not in LARGE] if columns is None else list(columns)
        for name in names:
            if name not in known:
                raise IndexStoreError(
                    f"{self.path}: no column {name}{nearest(name, known)}; it has "
                    f"{', '.join(known)}"
                )
        read = list(dict.fromkeys(["id", "path", *names]))
        found: dict[int, dict[str, Any]] = {}
        paths: dict[int, str] = {}
        for start in range(0, len(wanted), ROWS):
            some = ", ".join(str(int(each)) for each in wanted[start : start + ROWS])
            for row in self._store.select(f"id IN ({some})", read).to_pylist():
                if id_of(row["path"]) != row["id"]:
                    raise IndexStoreError(f"{self.path}: the entry of {row['path']!r} is damaged")
                if (other := paths.setdefault(row["id"], row["path"])) != row["path"]:
                    raise IndexStoreError(
                        f"{self.path}: {other!r} and {row['path']!r} have the same id, "
                        f"{row['id']}: rename one of them, and index it again with --prune"
                    )
                found[row["id"]] = {name: row[name] for name in names}
        if lost := [each for each in wanted if each not in found]:
            raise IndexStoreError(f"{self.path}: no row of id {lost[0]}")
        return [found[each] for each in wanted]

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
        return sorted(self._store.known())

    @checked
    def empty(self, column: str) -> list[str]:
        """The paths of the rows whose value of a column is empty, sorted."""
        if column not in self.columns:
            raise IndexStoreError(f"{self.path}: no column {column}")
        return sorted(self._store.select(f"{column} IS NULL", ["path"])["path"].to_pylist())

    @checked
    def gone(self) -> list[str]:
        """The paths of the entries whose files are gone, sorted."""
        return sorted(path for path in self._store.known() if members.gone(path))

    @checked
    def errors(self) -> list[ImageError]:
        """The files that could not be read when they were added, and why, by path. They are tried
        again when they have changed, or with `retry`."""
        self._store.described()
        known = self._failures.known().values()
        return [ImageError(each.path, each.reason) for each in sorted(known)]
