"""Whether rows of an index's table are what was written."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchword.index.schema import SUMS, Vectors, checksums

_UNIT = 1e-3  # how far from 1 the length of a vector may be


def intact(rows: Any, dim: int) -> Vectors:
    """The vectors (N, D) of a pyarrow batch or table with the columns path, modified, vector and
    `SUMS`. Raises ValueError for a row that is not what was written."""
    bad = damaged(rows, dim)
    if bad.any():
        path = rows.column("path")[int(bad.argmax())].as_py()
        raise ValueError(f"the entry of {path!r} is not what was written")
    return _vectors(rows, dim)


def damaged(rows: Any, dim: int) -> NDArray[np.bool_]:
    """Which rows (N,) are not what was written."""
    paths, times, *stored = (rows.column(name) for name in ("path", "modified", *SUMS))
    found = _vectors(rows, dim)
    sums = checksums(paths.to_pylist(), times.cast("int64").to_numpy(), found)
    with np.errstate(over="ignore", invalid="ignore"):
        bad: NDArray[np.bool_] = ~(np.abs(np.linalg.norm(found, axis=1) - 1) < _UNIT)
    for name, column in zip(SUMS, stored, strict=True):
        bad |= sums[name] != column.to_numpy()
    return bad


def _vectors(rows: Any, dim: int) -> Vectors:
    vectors = rows.column("vector")
    flat = vectors.combine_chunks() if hasattr(vectors, "combine_chunks") else vectors
    found: Vectors = flat.flatten().to_numpy().reshape(-1, dim)
    return found
