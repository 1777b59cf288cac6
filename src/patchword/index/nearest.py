"""The nearest entries of an index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchword.index import condition
from patchword.index.checks import intact
from patchword.index.exact import candidates
from patchword.index.matrix import Matrix, matrix
from patchword.index.schema import SUMS
from patchword.index.table import Store, Table

PIECE = 4096  # entries whose vectors are read at a time

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Hit:
    """One answer: its cosine with the query, and when the file had last been changed (UTC)."""

    path: str
    score: float
    modified: datetime


class Nearest:
    """Searches of a store, which keep what they read from one to the next."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._matrix: tuple[str, int, Matrix] | None = None  # with the table's mark and version

    def find(
        self, queries: NDArray[np.float64], k: int, where: str | None = None, offset: int = 0
    ) -> list[list[Hit]]:
        """For each of the queries, unit vectors (Q, D), the k entries with the largest products
        with it, best first, equal ones by path, without the first `offset` of them."""
        if where is not None:
            condition.check(where)

        def find(table: Table) -> list[list[Hit]]:
            kept = None if where is None else row_ids(table, where)
            found = self._newest(table)
            rows = None if kept is None else np.sort(found.places(kept))
            each = (candidates(found, query, k + offset, rows) for query in queries)
            best = (
                _best(table, found.ids[places], query, k + offset)[offset:]
                for query, places in zip(queries, each, strict=True)
            )
            return list(best)

        return self._store.do(find)

    def _newest(self, table: Table) -> Matrix:
        """The vectors of the version that the table is at."""
        about = self._store.about
        mark, version = str(about.get("mark", "")), int(table.version)
        if self._matrix is None or self._matrix[:2] != (mark, version):
            self._matrix = None  # the old one goes before the new one comes
            found = matrix(self._store.path, table, int(about["dim"]), mark)
            self._matrix = (mark, version, found)
        return self._matrix[2]


def _best(table: Table, ids: NDArray[np.uint64], query: NDArray[np.float64], k: int) -> list[Hit]:
    """The k best of the entries with these ids, by the stored vectors.

    Their scores are computed in float64, each by the same additions in the same order, so that
    equal vectors get equal scores wherever they are.
    """
    scored: list[tuple[float, str, int]] = []
    for start in range(0, len(ids), PIECE):
        rows = taken(table, ids[start : start + PIECE], ("path", "modified", "vector", *SUMS))
        negative = (intact(rows, len(query)) * -query).sum(axis=1).tolist()
        paths, times = rows.column("path").to_pylist(), rows.column("modified").cast("int64")
        scored += zip(negative, paths, times.to_pylist(), strict=True)
    return [
        Hit(path, -negative, _EPOCH + timedelta(microseconds=time))
        for negative, path, time in sorted(scored)[:k]
    ]


def taken(table: Table, ids: NDArray[np.uint64], columns: Sequence[str]) -> Any:
    """Some columns of the rows with these ids, in any order."""
    return table.take_row_ids(ids.tolist()).select(list(columns)).to_arrow()


def row_ids(table: Table, where: str) -> NDArray[np.uint64]:
    """LanceDB's ids of the rows that fulfil a condition, which was checked."""
    rows = table.search().with_row_id(True).select(["path", "modified"])
    try:
        found = rows.where(f"({where})").to_arrow()
    except (ValueError, RuntimeError) as error:
        # A table that can be read without the condition fails because of it; any other raises here.
        table.search().select(["path", "modified"]).to_arrow()
        raise condition.refused(where, "is no condition") from error
    ids: NDArray[np.uint64] = found.column("_rowid").to_numpy()
    return ids
