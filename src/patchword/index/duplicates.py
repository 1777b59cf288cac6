"""Near-duplicates among the entries of an index: groups around one that is kept.

Copies of one photo are those whose vectors are near and whose small pictures are the same; where a
caller gives a threshold, vectors alone decide. Each entry of a group is near to the one that is
kept: groups do not grow from neighbour to neighbour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from patchword.errors import IndexStoreError
from patchword.index.adding import Progress
from patchword.index.approximate import parts
from patchword.index.checks import intact
from patchword.index.clusters import BLOCK, centres, nearest_centres
from patchword.index.looks import Looks
from patchword.index.matrix import Half, Matrix
from patchword.index.nearest import PIECE
from patchword.index.schema import SUMS, id_of
from patchword.index.table import Table

KEEP = ("largest", "oldest", "first")
EVERY = 100_000  # entries up to which every pair is compared
CELLS = 6  # that are searched for the duplicates of an entry in a larger index
MOST = 20_000_000  # pairs
NEAR = 0.93  # cosine from which on entries may be copies of one photo

_COLUMNS = ("path", "modified", "size", "width", "height", "vector", *SUMS)

Pairs = NDArray[np.int64]  # (P, 2), rows of the matrix, the smaller first


@dataclass(frozen=True)
class Copy:
    """An entry of a group: its cosine with the one that is kept, when its file had last been
    changed (UTC), the bytes of the file, and the image's pixels (None where not known)."""

    path: str
    score: float
    modified: datetime
    size: int
    width: int | None
    height: int | None
    id: int


@dataclass(frozen=True)
class Group:
    """An entry to keep, and those that are nearly the same, the most alike first."""

    keep: Copy
    others: list[Copy]


def ids_of(found: Sequence[Group]) -> list[int]:
    """The ids of all entries of groups."""
    return [each.id for group in found for each in (group.keep, *group.others)]


def groups(
    table: Table,
    matrix: Matrix,
    rows: NDArray[np.intp] | None,
    threshold: float | None,
    keep: str,
    progress: Progress | None = None,
) -> list[Group]:
    """The groups of entries whose cosine with one that is kept is `threshold` or more, the largest
    first; None: that are copies of one photo with it. rows: those of the matrix to compare; None:
    all. progress: see `Index.duplicates`."""
    step = progress or _silent
    half = matrix.half if rows is None else matrix.half[rows]
    looks = None
    if threshold is None:
        threshold = NEAR
        looks = Looks(table, matrix.ids if rows is None else matrix.ids[rows], step)
        step = looks.compared
    near = pairs(half, threshold - 2 * matrix.error, looks.related if looks else None, step)
    if looks:
        near = near[looks.copies(near)]
        looks.tell()
    if not len(near):
        return []
    involved, flat = np.unique(near, return_inverse=True)
    near = flat.reshape(-1, 2)
    places = involved if rows is None else rows[involved]
    entries, vectors = _read(table, matrix.ids[places])
    scores = _cosines(vectors, near)
    near, scores = near[scores >= threshold], scores[scores >= threshold]
    found = _gather(
        near, scores, sorted(range(len(entries)), key=lambda i: _order(entries[i], keep))
    )
    out = [
        Group(_copy(entries[first], 1.0), [_copy(entries[i], score) for i, score in others])
        for first, others in found
    ]
    return sorted(out, key=lambda group: (-len(group.others), group.keep.path))


def _silent(done: int, total: int) -> None:
    """Progress that nobody follows."""


def pairs(
    half: Half,
    least: float,
    wanted: Callable[[Pairs], NDArray[np.bool_]] | None = None,
    progress: Progress = _silent,
) -> Pairs:
    """The pairs of rows (N, D) whose product is `least` or more, and that are `wanted`: all of them
    among up to `EVERY` rows; among more, those in neighbouring cells of k-means, which are nearly
    all. progress: is called with how many rows were compared, and all."""
    found: list[Pairs] = []
    total = 0
    for some, done in _every(half, least) if len(half) <= EVERY else _in_cells(half, least):
        if wanted is not None:
            some = some[wanted(some)]
        found.append(some)
        total += len(some)
        if total > MOST:
            raise IndexStoreError(
                f"more than {MOST} pairs are as near as {least:.3f}: give a higher threshold"
            )
        progress(done, len(half))
    return np.unique(np.concatenate(found), axis=0) if found else np.empty((0, 2), np.int64)


def _every(half: Half, least: float) -> Iterator[tuple[Pairs, int]]:
    """Pairs, and how many rows were compared."""
    rows = torch.from_numpy(half).float()
    step = max(1, min(2048, 2**25 // max(len(rows), 1)))
    for start in range(0, len(rows), step):
        products = rows[start : start + step] @ rows[start:].T
        found = (products >= least).nonzero().numpy()
        found = found[found[:, 0] < found[:, 1]]
        yield found + start, min(start + step, len(rows))


def _in_cells(half: Half, least: float) -> Iterator[tuple[Pairs, int]]:
    found = centres(half, parts(len(half)))
    cells, _ = nearest_centres(half, found, CELLS)
    own = np.argsort(cells[:, 0], kind="stable")
    visits = np.argsort(cells.ravel(), kind="stable")
    number = np.arange(len(found) + 1)
    of_own = np.searchsorted(cells[own, 0], number)
    of_visits = np.searchsorted(cells.ravel()[visits], number)
    for cell in range(len(found)):
        members = own[of_own[cell] : of_own[cell + 1]]
        visitors = visits[of_visits[cell] : of_visits[cell + 1]] // cells.shape[1]
        there = torch.from_numpy(half[members]).float()
        for start in range(0, len(visitors), BLOCK):
            some = visitors[start : start + BLOCK]
            products = torch.from_numpy(half[some]).float() @ there.T
            left, right = (products >= least).nonzero().numpy().T
            both = np.stack([some[left], members[right]], axis=1)
            yield np.sort(both[both[:, 0] != both[:, 1]], axis=1), int(of_own[cell + 1])


def _read(
    table: Table, ids: NDArray[np.uint64]
) -> tuple[list[dict[str, Any]], NDArray[np.float32]]:
    """The columns of entries, in the order of their ids, and their vectors (N, D)."""
    entries: list[dict[str, Any]] = []
    vectors = []
    for start in range(0, len(ids), PIECE):
        some = ids[start : start + PIECE]
        rows = table.take_row_ids(some.tolist()).select(list(_COLUMNS)).with_row_id().to_arrow()
        place = {int(each): i for i, each in enumerate(rows.column("_rowid").to_pylist())}
        rows = rows.take([place[int(each)] for each in some])
        vectors.append(intact(rows, rows.schema.field("vector").type.list_size))
        entries += rows.drop_columns(["vector", *SUMS, "_rowid"]).to_pylist()
    return entries, np.concatenate(vectors)


def _cosines(vectors: NDArray[np.float32], near: Pairs) -> NDArray[np.float64]:
    parts_of = (near[start : start + PIECE] for start in range(0, len(near), PIECE))
    return np.concatenate(
        [
            np.einsum("nd,nd->n", vectors[a].astype(np.float64), vectors[b].astype(np.float64))
            for a, b in (part.T for part in parts_of)
        ]
    )


def _gather(
    near: Pairs, scores: NDArray[np.float64], order: Sequence[int]
) -> list[tuple[int, list[tuple[int, float]]]]:
    """Groups (kept, [(other, score)]): entries in `order`, each that is in no group yet takes its
    neighbours that are in none."""
    both = np.concatenate([near, near[:, ::-1]])
    by_first = np.argsort(both[:, 0], kind="stable")
    both, twice = both[by_first], np.concatenate([scores, scores])[by_first]
    starts = np.searchsorted(both[:, 0], np.arange(len(order) + 1))
    grouped = np.zeros(len(order), bool)
    found = []
    for first in order:
        span = slice(starts[first], starts[first + 1])
        free = ~grouped[both[span, 1]]
        if grouped[first] or not free.any():
            continue
        others = both[span, 1][free]
        grouped[others], grouped[first] = True, True
        ranked = sorted(zip((-twice[span][free]).tolist(), others.tolist(), strict=True))
        found.append((first, [(other, -negative) for negative, other in ranked]))
    return found


def _order(entry: dict[str, Any], keep: str) -> tuple[Any, ...]:
    """Sorts entries so that the one to keep comes first."""
    pixels = (entry["width"] or 0) * (entry["height"] or 0)
    ways = {
        "largest": (-pixels, -(entry["size"] or 0), entry["path"]),
        "oldest": (entry["modified"].timestamp(), entry["path"]),
        "first": (entry["path"],),
    }
    return ways[keep]


def _copy(entry: dict[str, Any], score: float) -> Copy:
    return Copy(
        entry["path"], min(score, 1.0), entry["modified"], entry["size"], entry["width"],
        entry["height"], id_of(entry["path"]),
    )  # fmt: skip
