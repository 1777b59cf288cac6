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
from patchword.index.integrity import checked_vectors
from patchword.index.matrix import DamagedError, Matrix, load_matrix
from patchword.index.schema import SUMS, Vectors, check_model, id_of, visible_columns
from patchword.index.table import Store, Table
from patchword.scope import Scope

BATCH = 4096  # entries that are read at a time

T = TypeVar("T")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Hit:
    """One result: its cosine with the query, and when the file was last changed (UTC). id: of its
    row, see `Index.row`. outside: whether its vector is unlike those of the images that the model
    was trained on; False for a model that does not know these."""

    path: str
    score: float
    modified: datetime
    id: int = field(default=0, compare=False, repr=False)
    outside: bool = field(default=False, compare=False, repr=False)


@dataclass(frozen=True)
class Explained:
    """How an index is searched: "exact" or "approximate", and why.

    rows    in the index
    later   rows added after the approximate search was built, which are all compared
    recall  of the approximate search, if one was built: the share of the true 10 nearest that it
            found then
    """

    way: str
    why: str
    rows: int
    later: int = 0
    recall: approximate.Recall | None = None


class Nearest:
    """Searches the vectors of a store. The matrix of one search is kept for the next."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # The table's mark and version, its matrix, and whether it has an approximate index.
        self._cached: tuple[str, int, Matrix, bool] | None = None

    def find(
        self,
        queries: NDArray[np.float64],
        k: int,
        where: str | None = None,
        offset: int = 0,
        exact: bool = True,
        scope: Scope | None = None,
        model: str = "",
    ) -> list[list[Hit]]:
        """For each query, a unit vector of (Q, D): the k entries with the highest cosines, best
        first, equal ones by path, after the first `offset` of them. exact: never approximate.
        scope: what the model was trained on. model: its fingerprint, see `schema.check_model`."""

        def find(table: Table) -> list[list[Hit]]:
            check_model(self._store.path, self._store.metadata, model)
            ids = None if where is None else row_ids(table, where)
            matrix, indexed = self._matrix_of(table)
            allowed = None if ids is None else np.sort(matrix.rows_of(ids))
            approximately = _reason_for_exact(indexed, where, k + offset, exact) is None
            answers = []
            for query in queries:
                if approximately:
                    near = approximate.candidate_ids(table, len(matrix.ids), query, k + offset)
                    allowed = matrix.rows_of(near)
                rows = candidates(matrix, query, k + offset, allowed)
                hits = top_hits(table, matrix.ids[rows], query, k + offset, scope)
                answers.append(hits[offset:])
            return answers

        return self._do_undamaged(find)

    def on_rows(
        self,
        work: Callable[[Table, Matrix, NDArray[np.intp] | None], T],
        where: str | None = None,
        model: str = "",
    ) -> T:
        """work(table, matrix, rows): the rows of the matrix that meet the condition, in order; None
        without a condition. model: see `schema.check_model`."""

        def on_rows(table: Table) -> T:
            check_model(self._store.path, self._store.metadata, model)
            matrix, _ = self._matrix_of(table)
            rows = None if where is None else np.sort(matrix.rows_of(row_ids(table, where)))
            return work(table, matrix, rows)

        return self._do_undamaged(on_rows)

    def _do_undamaged(self, action: Callable[[Table], T]) -> T:
        """action(table), which reads. It is done once more where the file of vectors was damaged:
        the file is then made anew."""

        def do(table: Table) -> T:
            try:
                return action(table)
            except DamagedError:
                self._cached = None
                return action(table)

        return self._store.do(do, reads=True)

    def count(self, where: str) -> int:
        """How many entries meet a condition. Raises IndexStoreError."""
        return self._store.do(
            lambda table: with_condition(table, where, lambda sql: int(table.count_rows(sql)))
        )

    def explain(self, where: str | None = None, k: int = 10, exact: bool = False) -> Explained:
        """How `find` searches."""

        def explain(table: Table) -> Explained:
            indexed = approximate.has_index(table)
            rows, reason = int(table.count_rows()), _reason_for_exact(indexed, where, k, exact)
            if not indexed:
                return Explained("exact", str(reason), rows)
            recall = approximate.stored_recall(self._store.location.folder(), self._table_mark())
            later = approximate.unindexed_rows(table)
            if reason is None:
                return Explained("approximate", f"{rows} are many", rows, later, recall)
            return Explained("exact", reason, rows, later, recall)

        return self._store.do(explain, reads=True)

    def build(self, texts: Vectors | None = None) -> approximate.Recall:
        """Build the approximate index, or update it, and measure its recall with unit vectors
        (Q, D) of texts; None: random ones."""
        rows, dim = self._store.count(), self._dim()
        if dim % approximate.DIM_MULTIPLE:
            raise IndexStoreError(
                f"{self._store.path}: its vectors have {dim} numbers; an approximate search needs "
                f"a multiple of {approximate.DIM_MULTIPLE}: searches stay exact"
            )
        if rows < approximate.MIN_ROWS:
            raise IndexStoreError(
                f"{self._store.path}: has {rows} vectors; an approximate search needs "
                f"{approximate.MIN_ROWS} or more"
            )
        self._store.do(approximate.build)
        folder, mark = self._store.location.folder(), self._table_mark()
        return self._do_undamaged(
            lambda table: approximate.measure_recall(
                table, self._matrix_of(table)[0], texts, folder, mark
            )
        )

    def due(self) -> bool:
        """Whether an approximate index is worth building, or too many rows were added since."""

        def due(table: Table) -> bool:
            rows, dim = int(table.count_rows()), self._dim()
            if approximate.has_index(table):
                return approximate.unindexed_rows(table) > approximate.MAX_UNINDEXED * rows
            large = rows * dim * 2 >= approximate.MIN_BYTES and rows >= approximate.MIN_ROWS
            return large and dim % approximate.DIM_MULTIPLE == 0

        return self._store.do(due, reads=True)

    def _matrix_of(self, table: Table) -> tuple[Matrix, bool]:
        """The vectors of the version that the table is at, and whether it has an approximate
        index."""
        mark, version = self._table_mark(), self._store.version
        if self._cached is None or self._cached[:2] != (mark, version):
            self._cached = None  # frees the old matrix before the new one is made
            matrix = load_matrix(self._store.location.folder(), table, self._dim(), mark)
            self._cached = (mark, version, matrix, approximate.has_index(table))
        return self._cached[2:]

    def _dim(self) -> int:
        return int(self._store.metadata["dim"])

    def _table_mark(self) -> str:
        return str(self._store.metadata.get("mark", ""))


def top_hits(
    table: Table,
    ids: NDArray[np.uint64],
    query: NDArray[np.float64],
    k: int,
    scope: Scope | None = None,
) -> list[Hit]:
    """The k entries, of those with these ids, with the highest cosines with a query (D,).

    The cosines are computed in float64 from the stored vectors, each by the same additions in the
    same order, so that equal vectors get equal scores wherever they are.
    """
    scored: list[tuple[float, str, int, bool]] = []  # negative scores: the best are sorted first
    for start in range(0, len(ids), BATCH):
        columns = ("path", "modified", "vector", *SUMS)
        rows = read_columns(table, ids[start : start + BATCH], columns)
        vectors = checked_vectors(rows, len(query))
        outside = scope.outside(vectors) if scope else [False] * len(vectors)
        negative = (vectors * -query).sum(axis=1).tolist()
        paths, times = rows.column("path").to_pylist(), rows.column("modified").cast("int64")
        scored += zip(negative, paths, times.to_pylist(), outside, strict=True)
    return [
        Hit(path, -negative, _EPOCH + timedelta(microseconds=time), id_of(path), is_outside)
        for negative, path, time, is_outside in sorted(scored)[:k]
    ]


def _reason_for_exact(indexed: bool, where: str | None, k: int, exact: bool) -> str | None:
    """Why all vectors are compared; None where an approximate search is done."""
    if exact:
        return "that was asked for"
    if where is not None:
        return "those that meet the condition are compared"
    if k > approximate.MAX_K:
        return f"more than {approximate.MAX_K} are wanted"
    return None if indexed else "nothing for another search was built"


def read_columns(table: Table, ids: NDArray[np.uint64], columns: Sequence[str]) -> Any:
    """A pyarrow.Table of some columns of the rows with these ids, in any order."""
    return table.take_row_ids(ids.tolist()).select(list(columns)).to_arrow()


def row_ids(table: Table, where: str) -> NDArray[np.uint64]:
    """LanceDB's ids of the rows that fulfil a condition. Raises IndexStoreError for a condition
    that is not allowed."""
    rows = table.search().with_row_id(True).select(["modified"])
    matching = with_condition(table, where, lambda sql: rows.where(sql).to_arrow())
    ids: NDArray[np.uint64] = matching.column("_rowid").to_numpy()
    return ids


def with_condition(table: Table, where: str, read: Callable[[str], T]) -> T:
    """read(the condition in LanceDB's language). Raises IndexStoreError for a condition that is not
    allowed."""
    kinds = visible_columns(table.schema)
    sql = condition.to_sql(where, kinds)
    try:
        return read(f"({sql})")
    except (ValueError, RuntimeError) as error:
        # Does the table itself fail, without the condition? Then that error is raised here.
        table.search().select(list(kinds)).limit(1).to_arrow()
        raise condition.refused(where, "is no condition", kinds) from error
