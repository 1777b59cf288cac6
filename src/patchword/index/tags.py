"""Tags of the entries of an index, chosen from their vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchword.index.integrity import intact
from patchword.index.matrix import Matrix
from patchword.index.nearest import PIECE, taken
from patchword.index.schema import SUMS
from patchword.index.table import Table
from patchword.options import text_list


def chosen(
    table: Table,
    matrix: Matrix,
    rows: NDArray[np.intp] | None,
    choose: Callable[[NDArray[np.float32]], Sequence[str]],
    progress: Callable[[int, int], None] | None,
) -> dict[str, list[str]]:
    """choose(stored unit vector (D,)) of each entry, by path. rows: of the matrix; None: all."""
    ids = matrix.ids if rows is None else matrix.ids[rows]
    dim = table.schema.field("vector").type.list_size
    out: dict[str, list[str]] = {}
    for start in range(0, len(ids), PIECE):
        some = taken(table, ids[start : start + PIECE], ("path", "modified", "vector", *SUMS))
        vectors = intact(some, dim)
        for path, vector in zip(some.column("path").to_pylist(), vectors, strict=True):
            out[path] = text_list(choose(vector))
        if progress:
            progress(len(out), len(ids))
    return out


def column(tags: Mapping[str, Sequence[str]]) -> Any:
    """A pyarrow.Table of the columns path and tags."""
    import pyarrow as pa  # type: ignore[import-untyped]

    return pa.table(
        {
            "path": pa.array(list(tags), pa.string()),
            "tags": pa.array([list(each) for each in tags.values()], pa.list_(pa.string())),
        }
    )
