"""Rows of an index's table as matrices of vectors, checked as they are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchword.index import condition
from patchword.index.schema import SUMS, Vectors, checksums

BLOCK = 16384  # rows read at a time
UNIT = 1e-3  # how far from 1 the length of a vector may be

Table = Any  # lancedb.table.LanceTable


class Block(NamedTuple):
    """Some rows of the table: `paths` and `modified` are pyarrow arrays of text and of int64
    (microseconds since 1970), `kept` the rows (indices) that fulfil the condition."""

    paths: Any
    modified: Any
    vectors: Vectors
    kept: NDArray[np.intp]


class Rows(NamedTuple):
    """Rows as they are read from the table, with LanceDB's row ids."""

    ids: NDArray[np.uint64]
    paths: Any
    modified: Any
    vectors: Vectors

    def block(self, wanted: NDArray[np.uint64] | None) -> Block:
        """With the rows whose ids are among `wanted`, sorted ids; all where that is None."""
        if wanted is None:
            kept = np.arange(len(self.ids))
        else:
            last = np.searchsorted(wanted, self.ids, "right")
            kept = (last > np.searchsorted(wanted, self.ids)).nonzero()[0]
        return Block(self.paths, self.modified, self.vectors, kept)


def scan(table: Table, dim: int) -> Iterator[Rows]:
    names = ["_rowid", "path", "modified", "vector", *SUMS]
    for batch in table.search().with_row_id(True).select(names[1:]).to_batches(BLOCK):
        ids, paths, times, vectors, *stored = (batch.column(name) for name in names)
        times, matrix = times.cast("int64"), vectors.flatten().to_numpy().reshape(-1, dim)
        found = checksums(paths.to_pylist(), times.to_numpy(), matrix)
        with np.errstate(over="ignore", invalid="ignore"):
            bad = ~(np.abs(np.linalg.norm(matrix, axis=1) - 1) < UNIT)
        for name, column in zip(SUMS, stored, strict=True):
            bad |= found[name] != column.to_numpy()
        if bad.any():
            path = paths[int(bad.argmax())].as_py()
            raise ValueError(f"the entry of {path!r} is not what was written")
        yield Rows(ids.to_numpy(), paths, times, matrix)


def joined(parts: Iterable[Rows], count: int, dim: int) -> Rows:
    """All rows as one block, the vectors as one matrix: its product with a query is five times as
    fast as those of parts in Arrow's memory."""
    import pyarrow as pa  # type: ignore[import-untyped]

    vectors = np.empty((count, dim), np.float32)
    rest, done = [], 0
    for part in parts:
        vectors[done : done + len(part.ids)] = part.vectors
        done += len(part.ids)
        rest.append(part._replace(vectors=vectors[:0]))
    return Rows(
        np.concatenate([part.ids for part in rest]),
        pa.chunked_array([part.paths for part in rest]),
        pa.chunked_array([part.modified for part in rest]),
        vectors,
    )


def row_ids(table: Table, where: str) -> NDArray[np.uint64]:
    """LanceDB's ids, sorted, of the rows that fulfil a condition."""
    rows = table.search().with_row_id(True).select(["path", "modified"])
    try:
        found = rows.where(f"({where})").to_arrow()
    except (ValueError, RuntimeError) as error:
        # A table that can be read without the condition fails because of it; any other raises here.
        table.search().select(["path", "modified"]).to_arrow()
        raise condition.refused(where, "is no condition") from error
    return np.sort(found.column("_rowid").to_numpy())
