"""The nearest vectors of an index: exact, every one is compared."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from patchword.index.blocks import Block
from patchword.index.table import Store

NEAR = 1e-5  # of cosine: more than the error of a float32 product of unit vectors
PIECE = 4096  # vectors held in float64 at a time

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Hit:
    """One answer: its cosine with the query, and when the file had last been changed (UTC)."""

    path: str
    score: float
    modified: datetime


def nearest(
    store: Store, query: NDArray[np.float64], k: int, where: str | None = None
) -> list[Hit]:
    """The k rows of a store with the largest products with `query`, a unit vector (D,)."""
    found = store.visit(lambda block: _best(block, query, k), where)
    best = heapq.nsmallest(k, (candidate for block in found for candidate in block))
    return [
        Hit(path, -negative, _EPOCH + timedelta(microseconds=modified))
        for negative, path, modified in best
    ]


def _best(block: Block, query: NDArray[np.float64], k: int) -> list[tuple[float, str, int]]:
    """(-score, path, modified) of the rows of a block that may be among the k best.

    A fast product in float32 chooses them. Their scores are computed again in float64, each by the
    same additions in the same order, so that equal vectors get equal scores wherever they are.
    """
    rows = block.kept
    scores = (block.vectors @ query.astype(np.float32))[rows]
    if len(rows) > k:
        rows = rows[scores >= np.partition(scores, -k)[-k] - NEAR]
    pieces = (rows[start : start + PIECE] for start in range(0, len(rows), PIECE))
    exact = [
        negative
        for piece in pieces
        for negative in (block.vectors[piece] * -query).sum(axis=1).tolist()
    ]
    paths, modified = (column.take(rows).to_pylist() for column in (block.paths, block.modified))
    return list(zip(exact, paths, modified, strict=True))
