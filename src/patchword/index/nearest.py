"""The nearest entries of an index: exact, or, in a large one, approximate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from patchword.errors import IndexStoreError
from patchword.index import approximate, condition
from patchword.index.exact import candidates
from patchword.index.integrity import intact
from patchword.index.matrix import DamagedError, Matrix, matrix
from patchword.index.schema import PRIVATE, SUMS, Vectors, id_of, kind
from patchword.index.table import Store, Table
from patchword.scope import Scope

PIECE = 4096  # entries whose vectors are read at a time

T = TypeVar("T")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Hit:
    """One answer: its cosine with the query, and when the file had last been changed (UTC). id: of
    its row, see `Index.row`; outside: whether it is unlike what the model was trained on, by its
    vector, of a model that knows."""

    path: str
    score: float
    modified: datetime
    id: int = field(default=0, compare=False, repr=False)
    outside: bool = field(default=False, compare=False, repr=False)


@dataclass(frozen=True)
class Explained:
    """How an index is searched: "exact" or "approximate", and why.

    rows    of the index
    later   those that came after the approximate index was built, which are all compared
    recall  of the approximate search, where one was built: the share of the true 10 nearest that
            it found when it was built
    """

    way: str
    why: str
    rows: int
    later: int = 0
    recall: approximate.Recall | None = None


class Nearest:
    """Searches of a store, which keep what they read from one to the next."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # With the table's mark and version, and whether an approximate search was built.
        self._matrix: tuple[str, int, Matrix, bool] | None = None

    def find(
        self,
        queries: NDArray[np.float64],
        k: int,
        where: str | None = None,
        offset: int = 0,
        exact: bool = True,
        scope: Scope | None = None,
    ) -> list[list[Hit]]:
        """For each of the queries, unit vectors (Q, D), the k entries with the largest products
        with it, best first, equal ones by path, without the first `offset` of them. exact: never
        approximate. scope: what the model was trained on."""

        def find(table: Table) -> list[list[Hit]]:
            wanted = None if where is None else row_ids(table, where)
            found, built = self._read(table)
            rows = None if wanted is None else np.sort(found.places(wanted))
            quick = _why_exact(built, where, k + offset, exact) is None
            hits = []
            for query in queries:
                near = approximate.near(table, len(found.ids), query, k + offset) if quick else None
                kept = rows if near is None else found.places(near)
                places = candidates(found, query, k + offset, kept)
                hits.append(best(table, found.ids[places], query, k + offset, scope)[offset:])
            return hits

        return self._do(find)

    def on_rows(
        self,
        work: Callable[[Table, Matrix, NDArray[np.intp] | None], T],
        where: str | None = None,
    ) -> T:
        """work(table, matrix, its rows that meet the condition, in order; None without one)."""

        def on_rows(table: Table) -> T:
            found = self.matrix(table)
            wanted = None if where is None else np.sort(found.places(row_ids(table, where)))
            return work(table, found, wanted)

        return self._do(on_rows)

    def _do(self, action: Callable[[Table], T]) -> T:
        """action(table), which reads; once more where the file of vectors was damaged, which is
        then made anew."""

        def do(table: Table) -> T:
            try:
                return action(table)
            except DamagedError:
                self._matrix = None
                return action(table)

        return self._store.do(do, reads=True)

    def count(self, where: str) -> int:
        """How many entries meet a condition. Raises IndexStoreError."""
        return self._store.do(
            lambda table: meeting(table, where, lambda sql: int(table.count_rows(sql)))
        )

    def explain(self, where: str | None = None, k: int = 10, exact: bool = False) -> Explained:
        """How `find` searches."""

        def explain(table: Table) -> Explained:
            built = approximate.built(table)
            rows, why = int(table.count_rows()), _why_exact(built, where, k, exact)
            if not built:
                return Explained("exact", str(why), rows)
            recall = approximate.noted(self._store.place.folder(), self._mark())
            way, why = ("approximate", f"{rows} are many") if why is None else ("exact", why)
            return Explained(way, why, rows, approximate.later(table), recall)

        return self._store.do(explain, reads=True)

    def build(self, texts: Vectors | None = None) -> approximate.Recall:
        """Build what approximate search reads, or bring it up to date, and measure its recall with
        unit vectors (Q, D) of texts; None: made up."""
        rows, dim = self._store.count(), self._dim()
        if dim % approximate.STEP:
            raise IndexStoreError(
                f"{self._store.path}: its vectors have {dim} numbers; an approximate search needs "
                f"a multiple of {approximate.STEP}: searches stay exact"
            )
        if rows < approximate.FEWEST:
            raise IndexStoreError(
                f"{self._store.path}: has {rows} vectors; an approximate search needs "
                f"{approximate.FEWEST} or more"
            )
        self._store.do(approximate.build)
        folder, mark = self._store.place.folder(), self._mark()
        return self._do(
            lambda table: approximate.measured(table, self.matrix(table), texts, folder, mark)
        )

    def due(self) -> bool:
        """Whether an approximate search is worth building, or has too many rows that came later."""

        def due(table: Table) -> bool:
            rows, dim = int(table.count_rows()), self._dim()
            if approximate.built(table):
                return approximate.later(table) > approximate.UNREAD * rows
            large = rows * dim * 2 >= approximate.FROM and rows >= approximate.FEWEST
            return large and dim % approximate.STEP == 0

        return self._store.do(due, reads=True)

    def matrix(self, table: Table) -> Matrix:
        """The vectors of the version that the table is at."""
        return self._read(table)[0]

    def _read(self, table: Table) -> tuple[Matrix, bool]:
        """`matrix`, and whether that version has an approximate index."""
        mark, version = self._mark(), self._store.version
        if self._matrix is None or self._matrix[:2] != (mark, version):
            self._matrix = None  # the old one goes before the new one comes
            found = matrix(self._store.place.folder(), table, self._dim(), mark)
            self._matrix = (mark, version, found, approximate.built(table))
        return self._matrix[2:]

    def _dim(self) -> int:
        return int(self._store.about["dim"])

    def _mark(self) -> str:
        return str(self._store.about.get("mark", ""))


def best(
    table: Table,
    ids: NDArray[np.uint64],
    query: NDArray[np.float64],
    k: int,
    scope: Scope | None = None,
) -> list[Hit]:
    """The k best of the entries with these ids, by the stored vectors.

    Their scores are computed in float64, each by the same additions in the same order, so that
    equal vectors get equal scores wherever they are.
    """
    scored: list[tuple[float, str, int, bool]] = []
    for start in range(0, len(ids), PIECE):
        rows = taken(table, ids[start : start + PIECE], ("path", "modified", "vector", *SUMS))
        vectors = intact(rows, len(query))
        outside = scope.outside(vectors) if scope else [False] * len(vectors)
        negative = (vectors * -query).sum(axis=1).tolist()
        paths, times = rows.column("path").to_pylist(), rows.column("modified").cast("int64")
        scored += zip(negative, paths, times.to_pylist(), outside, strict=True)
    return [
        Hit(path, -negative, _EPOCH + timedelta(microseconds=time), id_of(path), unlike)
        for negative, path, time, unlike in sorted(scored)[:k]
    ]


def _why_exact(built: bool, where: str | None, k: int, exact: bool) -> str | None:
    """Why all vectors are compared; None where an approximate search is done."""
    reasons = {
        "that was asked for": exact,
        "those that meet the condition are compared": where is not None,
        f"more than {approximate.MOST} are wanted": k > approximate.MOST,
    }
    why = next((reason for reason, holds in reasons.items() if holds), None)
    return why or (None if built else "nothing for another search was built")


def taken(table: Table, ids: NDArray[np.uint64], columns: Sequence[str]) -> Any:
    """A pyarrow.Table of some columns of the rows with these ids, in any order."""
    return table.take_row_ids(ids.tolist()).select(list(columns)).to_arrow()


def row_ids(table: Table, where: str) -> NDArray[np.uint64]:
    """LanceDB's ids of the rows that fulfil a condition. Raises IndexStoreError for what is not
    allowed in one."""
    rows = table.search().with_row_id(True).select(["modified"])
    found = meeting(table, where, lambda sql: rows.where(sql).to_arrow())
    ids: NDArray[np.uint64] = found.column("_rowid").to_numpy()
    return ids


def meeting(table: Table, where: str, read: Callable[[str], T]) -> T:
    """read(the condition as LanceDB reads it). Raises IndexStoreError for what is not allowed in
    one."""
    kinds = {each.name: kind(each.type) for each in table.schema if each.name not in PRIVATE}
    checked = condition.check(where, kinds)
    try:
        return read(f"({checked})")
    except (ValueError, RuntimeError) as error:
        # A table that can be read without the condition fails because of it; any other raises here.
        table.search().select(list(kinds)).limit(1).to_arrow()
        raise condition.refused(where, "is no condition", kinds) from error
