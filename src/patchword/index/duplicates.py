"""Near-duplicates among the entries of an index: groups around one that is kept.

Copies of one photo are those whose vectors are near and whose small pictures are the same; where a
caller gives a threshold, vectors alone decide. Each entry of a group is near to the one that is
kept: groups do not grow from neighbour to neighbour.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from patchword.errors import IndexStoreError, SampledWarning, warn
from patchword.index.adding import Progress
from patchword.index.approximate import parts
from patchword.index.clusters import BLOCK, centres, nearest_centres
from patchword.index.integrity import intact
from patchword.index.matrix import Half, Matrix
from patchword.index.nearest import PIECE
from patchword.index.schema import SUMS, id_of
from patchword.index.table import Table
from patchword.index.thumbnail_copies import Looks

KEEP = ("largest", "oldest", "first")
EVERY = 100_000  # entries up to which every pair is compared
CELLS = 6  # that are searched for the duplicates of an entry in a larger index
MOST = 20_000_000  # pairs
PORTION = 1 << 12  # pairs that are judged at once
NEAR = 0.93  # cosine from which on entries may be copies of one photo

_COLUMNS = ("path", "modified", "size", "width", "height", "vector", *SUMS)

Pairs = NDArray[np.int64]  # (P, 2), places among the rows that are compared
# Places: the one to keep, and others of its group, each behind its negative cosine.
Found = tuple[int, list[tuple[float, int]]]


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


class _OverError(Exception):
    """The time is over."""


def groups(
    table: Table,
    matrix: Matrix,
    rows: NDArray[np.intp] | None,
    threshold: float | None,
    keep: str,
    progress: Progress | None = None,
    seconds: float | None = None,
) -> list[Group]:
    """The groups of entries whose cosine with one that is kept is `threshold` or more, the largest
    first; None: that are copies of one photo with it. rows: those of the matrix to compare; None:
    all. progress, seconds: see `Index.duplicates`."""
    half = matrix.read(rows)
    ids = matrix.ids if rows is None else matrix.ids[rows]
    step = _Steps(progress or _silent, len(half), seconds)
    looks = Looks(table, ids, step.go_on) if threshold is None else None
    threshold = NEAR if threshold is None else threshold
    judge = Judge(table, ids, threshold, looks)
    least = threshold - 2 * matrix.error
    found: dict[int, list[tuple[float, int]]] = {}
    work = in_turn if len(half) <= EVERY else in_cells
    try:
        for first, others in work(half, least, keep, judge, step):
            found.setdefault(first, []).extend(others)
    except _OverError:
        warn(
            f"{step.done} of {len(half)} images were compared with all others in {seconds:.0f} "
            "seconds; copies among the rest are not found: `patchword dedupe` takes its time",
            SampledWarning,
        )
    if looks:
        looks.tell()
    known = judge.entries
    out = [
        Group(_copy(known[first], 1.0), [_copy(known[i], -less) for less, i in sorted(others)])
        for first, others in found.items()
    ]
    return sorted(out, key=lambda group: (-len(group.others), group.keep.path))


class _Steps:
    """How far a comparison of entries has come. Raises what `progress` does, and _OverError when
    its time is over."""

    def __init__(self, progress: Progress, total: int, seconds: float | None) -> None:
        self.progress, self.total, self.done = progress, total, 0
        self.until = None if seconds is None else time.monotonic() + seconds

    def __call__(self, done: int) -> None:
        """So many entries were compared with all others."""
        self.done = done
        self.go_on()

    def go_on(self) -> None:
        """Called between pieces of work."""
        self.progress(self.done, self.total)
        over = self.until is not None and time.monotonic() > self.until
        if over and self.done < self.total:
            raise _OverError


class Judge:
    """Which pairs of places among `ids` (N,) belong together.

    entries  by place, what is stored of those that do
    """

    def __init__(
        self, table: Table, ids: NDArray[np.uint64], threshold: float, looks: Looks | None
    ) -> None:
        self.table, self.ids, self.threshold, self.looks = table, ids, threshold, looks
        self.entries: dict[int, dict[str, Any]] = {}

    def maybe(self, pairs: Pairs) -> Pairs:
        """Those that may, quickly."""
        return pairs[self.looks.related(pairs)] if self.looks else pairs

    def together(self, pairs: Pairs) -> tuple[Pairs, NDArray[np.float64]]:
        """Those that do, and their cosines (P,)."""
        if self.looks:
            pairs = pairs[self.looks.copies(pairs)]
        if not len(pairs):
            return pairs, np.empty(0)
        involved, flat = np.unique(pairs, return_inverse=True)
        entries, vectors = _read(self.table, self.ids[involved])
        self.entries |= zip(involved.tolist(), entries, strict=True)
        scores = _cosines(vectors, flat.reshape(-1, 2))
        good = scores >= self.threshold
        return pairs[good], scores[good]

    def order(self, keep: str, places: Sequence[int]) -> NDArray[np.int64]:
        """Places, those to keep first."""
        new = np.array([each for each in places if each not in self.entries], np.int64)
        if len(new):
            self.entries |= zip(new.tolist(), _told(self.table, self.ids[new]), strict=True)
        return np.array(sorted(places, key=lambda i: _order(self.entries[i], keep)), np.int64)


def in_turn(half: Half, least: float, keep: str, judge: Judge, step: _Steps) -> Iterator[Found]:
    """The groups of all rows: each, in the order to keep, that is in no group yet takes those after
    it that belong to it and are in none. None before it is left that does."""
    order = judge.order(keep, range(len(half)))
    rows = torch.from_numpy(half[order]).float()
    free = np.ones(len(rows), bool)
    size = max(1, min(2048, 2**25 // max(len(rows), 1)))
    for start in range(0, len(rows), size):
        mine = start + np.flatnonzero(free[start : start + size])
        near = (rows[mine] @ rows[start:].T >= least).numpy()
        near &= free[start:] & (np.arange(start, len(rows)) > mine[:, None])
        for some in _portions(near.sum(axis=1)):
            left, right = near[some].nonzero()
            every = np.stack([mine[some][left], start + right], axis=1)
            for first in range(0, len(every), PORTION):
                pairs = every[first : first + PORTION]
                pairs = pairs[free[pairs].all(axis=1)]
                found, scores = judge.together(judge.maybe(order[pairs]))
                yield from _gather(found, scores, order, free)
            step(int(mine[some][-1]) + 1)
        step(min(start + size, len(rows)))


def _portions(counts: NDArray[np.int64]) -> Iterator[slice]:
    """Consecutive rows that have together not many more pairs than `PORTION`: of more, most would
    be compared in vain where the first row takes all."""
    ends, before = np.cumsum(counts), 0
    while before < len(counts):
        done = ends[before - 1] if before else 0
        end = max(int(np.searchsorted(ends, done + PORTION, "right")), before + 1)
        yield slice(before, end)
        before = end


def in_cells(half: Half, least: float, keep: str, judge: Judge, step: _Steps) -> Iterator[Found]:
    """The same of many rows, of the pairs in neighbouring cells of k-means, which are nearly
    all."""
    near, scores = judge.together(pairs(half, least, judge.maybe, step))
    order = judge.order(keep, np.unique(near).tolist())
    yield from _gather(near, scores, order, np.ones(len(order), bool))


def _silent(done: int, total: int) -> None:
    """Progress that nobody follows."""


def pairs(
    half: Half,
    least: float,
    wanted: Callable[[Pairs], Pairs] = lambda pairs: pairs,
    step: Callable[[int], None] = lambda done: None,
) -> Pairs:
    """Those `wanted` of the pairs of rows (N, D) in neighbouring cells of k-means whose product is
    `least` or more. step: is called with how many rows were compared."""
    found: list[Pairs] = []
    total = 0
    for some, done in _in_cells(half, least):
        some = wanted(some)
        found.append(some)
        total += len(some)
        if total > MOST:
            raise IndexStoreError(
                f"more than {MOST} pairs are as near as {least:.3f}: give a higher threshold"
            )
        step(done)
    return np.unique(np.concatenate(found), axis=0) if found else np.empty((0, 2), np.int64)


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


def _told(table: Table, ids: NDArray[np.uint64]) -> list[dict[str, Any]]:
    """What is stored of entries, but their vectors, in the order of their ids."""
    names = [name for name in _COLUMNS if name not in ("vector", *SUMS)]
    entries: dict[int, dict[str, Any]] = {}
    for start in range(0, len(ids), PIECE):
        some = ids[start : start + PIECE].tolist()
        rows = table.take_row_ids(some).select(names).with_row_id().to_arrow().to_pylist()
        entries |= {row.pop("_rowid"): row for row in rows}
    return [entries[each] for each in ids.tolist()]


def _gather(
    near: Pairs, scores: NDArray[np.float64], order: NDArray[np.int64], free: NDArray[np.bool_]
) -> Iterator[Found]:
    """Groups of places: each of the pairs' places, in `order`, that is `free` takes those after it
    that are, and these are free no more. free: by rank in `order`."""
    if not len(near):
        return
    rank = np.zeros(int(order.max(initial=0)) + 1, np.int64)
    rank[order] = np.arange(len(order))
    ranks = np.sort(rank[near], axis=1)
    by_first = np.argsort(ranks[:, 0], kind="stable")
    ranks, scores = ranks[by_first], scores[by_first]
    firsts, starts = np.unique(ranks[:, 0], return_index=True)
    for first, start, end in zip(firsts, starts, [*starts[1:], len(ranks)], strict=True):
        others = ranks[start:end, 1]
        left = free[others]
        if not (free[first] and left.any()):
            continue
        free[others] = False
        cosines, places = scores[start:end][left], order[others[left]]
        yield int(order[first]), list(zip((-cosines).tolist(), places.tolist(), strict=True))


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
