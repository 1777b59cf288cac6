"""Whether rows of an index's table are what was written."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchword.index.schema import SUMS, Vectors, checksums

_TOLERANCE = 1e-3  # how far from 1 the length of a vector may be


def checked_vectors(rows: Any, dim: int) -> Vectors:
    """The vectors (N, D) of a pyarrow.Table with the columns path, modified, vector and `SUMS`.
    Raises ValueError for a row that is not what was written."""
    damaged = damaged_rows(rows, dim)
    if damaged.any():
        path = rows.column("path")[int(damaged.argmax())].as_py()
        raise ValueError(f"the entry of {path!r} is not what was written")
    return _vectors(rows, dim)


def damaged_rows(rows: Any, dim: int) -> NDArray[np.bool_]:
    """Which rows (N,) are not what was written."""
    vectors = _vectors(rows, dim)
    times = rows.column("modified").cast("int64").to_numpy()
    sums = checksums(rows.column("path").to_pylist(), times, vectors)
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(vectors, axis=1)
        # "not less than": a length that is NaN is damage too
        damaged: NDArray[np.bool_] = ~(np.abs(lengths - 1) < _TOLERANCE)
    for name in SUMS:
        damaged |= sums[name] != rows.column(name).to_numpy()
    return damaged


def _vectors(rows: Any, dim: int) -> Vectors:
    vectors: Vectors = rows.column("vector").combine_chunks().flatten().to_numpy().reshape(-1, dim)
    return vectors
