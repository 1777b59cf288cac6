"""Tags of the entries of an index, chosen from their vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchword.index.integrity import checked_vectors
from patchword.index.matrix import Matrix
from patchword.index.nearest import BATCH, read_columns
from patchword.index.schema import SUMS
from patchword.index.table import Table
from patchword.options import text_list


def choose_all(
    table: Table,
    matrix: Matrix,
    rows: NDArray[np.intp] | None,
    choose: Callable[[NDArray[np.float32]], Sequence[str]],
    progress: Callable[[int, int], None] | None,
) -> dict[str, list[str]]:
    """choose(stored unit vector (D,)) for each entry, by path. rows: of the matrix; None: all."""
    ids = matrix.ids if rows is None else matrix.ids[rows]
    dim = table.schema.field("vector").type.list_size
    tags: dict[str, list[str]] = {}
    for start in range(0, len(ids), BATCH):
        batch = read_columns(
            table, ids[start : start + BATCH], ("path", "modified", "vector", *SUMS)
        )
        vectors = checked_vectors(batch, dim)
        for path, vector in zip(batch.column("path").to_pylist(), vectors, strict=True):
            tags[path] = text_list(choose(vector))
        if progress:
            progress(len(tags), len(ids))
    return tags


def to_table(tags: Mapping[str, Sequence[str]]) -> Any:
    """A pyarrow.Table of the columns path and tags."""
    import pyarrow as pa  # type: ignore[import-untyped]

    return pa.table(
        {
            "path": pa.array(list(tags), pa.string()),
            "tags": pa.array(
                [list(tags_of_path) for tags_of_path in tags.values()], pa.list_(pa.string())
            ),
        }
    )
