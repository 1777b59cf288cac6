"""Near-duplicates among the entries of an index: groups of one entry to keep and its duplicates.

Copies of one photo are entries whose vectors are near and whose thumbnails show the same picture.
If a caller gives a threshold, the vectors alone decide. Every entry of a group is near to the one
to keep: groups do not grow from neighbour to neighbour.
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
from patchword.index import members
from patchword.index.adding import Progress
from patchword.index.approximate import partition_count
from patchword.index.clusters import BLOCK, centres, nearest_centres
from patchword.index.integrity import checked_vectors
from patchword.index.matrix import Half, Matrix
from patchword.index.nearest import BATCH
from patchword.index.schema import SUMS, id_of
from patchword.index.table import Table
from patchword.index.thumbnail_copies import Thumbnails

KEEP = ("largest", "oldest", "first")
MAX_ALL_PAIRS = 100_000  # entries up to which every pair is compared
CELLS = 6  # of k-means, that are searched for the duplicates of an entry in a larger index
MAX_PAIRS = 20_000_000
PAIR_BATCH = 1 << 12  # pairs that are checked at a time
MIN_COSINE = 0.93  # of entries that may be copies of one photo

_COLUMNS = ("path", "modified", "size", "width", "height")

# "Places" are positions among the rows that are compared.
Pairs = NDArray[np.int64]  # (P, 2), places
# The place of the entry to keep, and (negative cosine, place) of each other entry of its group.
PlaceGroup = tuple[int, list[tuple[float, int]]]


@dataclass(frozen=True)
class Copy:
    """An entry of a group: its cosine with the one that is kept, when its file had last been
    changed (UTC), the bytes of the file, the image's pixels (None where not known), and whether the
    file is gone since."""

    path: str
    score: float
    modified: datetime
    size: int
    width: int | None
    height: int | None
    id: int
    gone: bool


@dataclass(frozen=True)
class Group:
    """An entry to keep, and those that are nearly the same, the most alike first."""

    keep: Copy
    others: list[Copy]


def ids_of(groups: Sequence[Group]) -> list[int]:
    """The ids of all entries of groups."""
    return [copy.id for group in groups for copy in (group.keep, *group.others)]


class _TimeIsUpError(Exception):
    """The time limit is reached."""


def find_groups(
    table: Table,
    matrix: Matrix,
    rows: NDArray[np.intp] | None,
    threshold: float | None,
    keep: str,
    progress: Progress | None = None,
    seconds: float | None = None,
) -> list[Group]:
    """Groups of near-duplicates, the largest first. rows: those of the matrix to compare; None:
    all. threshold: the least cosine with the entry to keep; None: the others are copies of the same
    photo. keep, progress, seconds: see `Index.duplicates`."""
    half = matrix.read(rows)
    ids = matrix.ids if rows is None else matrix.ids[rows]
    step = _Steps(progress, len(half), seconds)
    thumbnails = Thumbnails(table, ids, step.check_time) if threshold is None else None
    threshold = MIN_COSINE if threshold is None else threshold
    checker = PairChecker(table, ids, threshold, thumbnails, step.check_time)
    min_product = threshold - 2 * matrix.error
    others_by_kept: dict[int, list[tuple[float, int]]] = {}
    search = groups_of_all_pairs if len(half) <= MAX_ALL_PAIRS else groups_in_cells
    try:
        for kept, others in search(half, min_product, keep, checker, step):
            others_by_kept.setdefault(kept, []).extend(others)
    except _TimeIsUpError:
        warn(
            f"{step.done} of {len(half)} images were compared with all others in {seconds:.0f} "
            "seconds; copies among the rest are not found: `patchword dedupe` takes its time",
            SampledWarning,
        )
    if thumbnails:
        thumbnails.warn_of_unreadable()
    groups = []
    for kept, others in others_by_kept.items():
        copies = [_copy(checker.entries[i], -negative) for negative, i in sorted(others)]
        groups.append(Group(_copy(checker.entries[kept], 1.0), copies))
    return sorted(groups, key=lambda group: (-len(group.others), group.keep.path))


class _Steps:
    """Reports how far a comparison has come. Raises _TimeIsUpError after so many seconds."""

    def __init__(self, progress: Progress | None, total: int, seconds: float | None) -> None:
        self.progress, self.total, self.done = progress, total, 0
        self.end = None if seconds is None else time.monotonic() + seconds

    def __call__(self, done: int) -> None:
        """Called when `done` entries were compared with all others."""
        self.done = done
        self.check_time()

    def check_time(self) -> None:
        """Called between pieces of work."""
        if self.progress:
            self.progress(self.done, self.total)
        time_is_up = self.end is not None and time.monotonic() > self.end
        if time_is_up and self.done < self.total:
            raise _TimeIsUpError


class PairChecker:
    """Checks which pairs of places among `ids` (N,) are near-duplicates.

    entries  by place: the stored columns of those that are
    """

    def __init__(
        self,
        table: Table,
        ids: NDArray[np.uint64],
        threshold: float,
        thumbnails: Thumbnails | None,
        check_time: Callable[[], None],
    ) -> None:
        self.table, self.ids, self.threshold = table, ids, threshold
        self.thumbnails, self.check_time = thumbnails, check_time
        self.entries: dict[int, dict[str, Any]] = {}

    def candidates(self, pairs: Pairs) -> Pairs:
        """The pairs that may be near-duplicates: a quick check."""
        return pairs[self.thumbnails.related(pairs)] if self.thumbnails else pairs

    def duplicates(self, pairs: Pairs) -> tuple[Pairs, NDArray[np.float64]]:
        """The pairs that are near-duplicates, and their cosines (P,)."""
        if self.thumbnails:
            pairs = pairs[self.thumbnails.copies(pairs)]
        if not len(pairs):
            return pairs, np.empty(0)
        places, flat = np.unique(pairs, return_inverse=True)
        vectors: list[NDArray[np.float32]] = []
        self._read(places, vectors)
        scores = _cosines(np.concatenate(vectors), flat.reshape(-1, 2))
        near = scores >= self.threshold
        return pairs[near], scores[near]

    def in_order(self, keep: str, places: Sequence[int]) -> NDArray[np.int64]:
        """Places, sorted: of two duplicates the first is kept."""
        new = [place for place in places if place not in self.entries]
        self._read(np.array(new, np.int64))
        keys: dict[int, tuple[Any, ...]] = {}
        for number, place in enumerate(places):
            if number % BATCH == 0:
                self.check_time()  # whether files are gone may take long on a network drive
            keys[place] = _sort_key(self.entries[place], keep)
        return np.array(sorted(places, key=keys.__getitem__), np.int64)

    def _read(
        self, places: NDArray[np.int64], vectors: list[NDArray[np.float32]] | None = None
    ) -> None:
        """Read the entries of places into `entries`, and append their checked vectors (N, D), in
        the order of the places, to `vectors`."""
        columns = list(_COLUMNS) if vectors is None else [*_COLUMNS, "vector", *SUMS]
        for start in range(0, len(places), BATCH):
            batch = places[start : start + BATCH]
            ids = self.ids[batch].tolist()
            rows = self.table.take_row_ids(ids).select(columns).with_row_id().to_arrow()
            row_of = {id_: row for row, id_ in enumerate(rows.column("_rowid").to_pylist())}
            rows = rows.take([row_of[id_] for id_ in ids])
            entries = rows.select(list(_COLUMNS)).to_pylist()
            self.entries |= zip(batch.tolist(), entries, strict=True)
            if vectors is not None:
                vectors.append(checked_vectors(rows, rows.schema.field("vector").type.list_size))


def groups_of_all_pairs(
    half: Half, min_product: float, keep: str, checker: PairChecker, step: _Steps
) -> Iterator[PlaceGroup]:
    """The groups of all rows (N, D). In the order to keep, each entry that is in no group yet takes
    its duplicates that come later and are in none. No entry before it is a duplicate of it that is
    still free."""
    order = checker.in_order(keep, range(len(half)))
    rows = torch.from_numpy(half[order]).float()
    free = np.ones(len(rows), bool)
    size = max(1, min(2048, 2**25 // max(len(rows), 1)))
    for start in range(0, len(rows), size):
        block = start + np.flatnonzero(free[start : start + size])
        near = (rows[block] @ rows[start:].T >= min_product).numpy()
        near &= free[start:] & (np.arange(start, len(rows)) > block[:, None])
        for part in _portions(near.sum(axis=1)):
            left, right = near[part].nonzero()
            all_pairs = np.stack([block[part][left], start + right], axis=1)
            for first in range(0, len(all_pairs), PAIR_BATCH):
                pairs = all_pairs[first : first + PAIR_BATCH]
                pairs = pairs[free[pairs].all(axis=1)]
                duplicates, scores = checker.duplicates(checker.candidates(order[pairs]))
                yield from _take_groups(duplicates, scores, order, free)
            step(int(block[part][-1]) + 1)
        step(min(start + size, len(rows)))


def _portions(counts: NDArray[np.int64]) -> Iterator[slice]:
    """Slices of consecutive rows that together have not many more than `PAIR_BATCH` pairs. Of more,
    most would be compared in vain where the first row takes all the others."""
    ends, start = np.cumsum(counts), 0
    while start < len(counts):
        done = ends[start - 1] if start else 0
        end = max(int(np.searchsorted(ends, done + PAIR_BATCH, "right")), start + 1)
        yield slice(start, end)
        start = end


def groups_in_cells(
    half: Half, min_product: float, keep: str, checker: PairChecker, step: _Steps
) -> Iterator[PlaceGroup]:
    """`groups_of_all_pairs` for many rows: only pairs in neighbouring cells of k-means, which are
    nearly all, are compared."""
    pairs, scores = checker.duplicates(near_pairs(half, min_product, checker.candidates, step))
    order = checker.in_order(keep, np.unique(pairs).tolist())
    yield from _take_groups(pairs, scores, order, np.ones(len(order), bool))


def near_pairs(
    half: Half, min_product: float, select: Callable[[Pairs], Pairs], step: Callable[[int], None]
) -> Pairs:
    """The pairs of rows (N, D) in neighbouring cells of k-means whose product is at least
    `min_product`, and that `select` selects. step: is called with how many rows were compared."""
    selected: list[Pairs] = []
    total = 0
    for pairs, done in _near_pairs_by_cell(half, min_product):
        selected.append(select(pairs))
        total += len(selected[-1])
        if total > MAX_PAIRS:
            raise IndexStoreError(
                f"more than {MAX_PAIRS} pairs are as near as {min_product:.3f}: "
                "give a higher threshold"
            )
        step(done)
    return np.unique(np.concatenate(selected), axis=0) if selected else np.empty((0, 2), np.int64)


def _near_pairs_by_cell(half: Half, min_product: float) -> Iterator[tuple[Pairs, int]]:
    """For each cell: the near pairs of a row of this cell with a row that has the cell among its
    `CELLS` nearest; and how many rows were compared so far."""
    middles = centres(half, partition_count(len(half)))
    cells, _ = nearest_centres(half, middles, CELLS)
    by_own_cell = np.argsort(cells[:, 0], kind="stable")
    by_any_cell = np.argsort(cells.ravel(), kind="stable")
    numbers = np.arange(len(middles) + 1)
    own_starts = np.searchsorted(cells[by_own_cell, 0], numbers)
    any_starts = np.searchsorted(cells.ravel()[by_any_cell], numbers)
    for cell in range(len(middles)):
        members = by_own_cell[own_starts[cell] : own_starts[cell + 1]]
        neighbours = by_any_cell[any_starts[cell] : any_starts[cell + 1]] // cells.shape[1]
        member_rows = torch.from_numpy(half[members]).float()
        for start in range(0, len(neighbours), BLOCK):
            block = neighbours[start : start + BLOCK]
            products = torch.from_numpy(half[block]).float() @ member_rows.T
            left, right = (products >= min_product).nonzero().numpy().T
            pairs = np.stack([block[left], members[right]], axis=1)
            yield np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), int(own_starts[cell + 1])


def _cosines(vectors: NDArray[np.float32], pairs: Pairs) -> NDArray[np.float64]:
    """The cosines (P,) of pairs of unit vectors (N, D), in float64."""
    cosines = []
    for start in range(0, len(pairs), BATCH):
        left, right = vectors[pairs[start : start + BATCH].T].astype(np.float64)
        cosines.append(np.einsum("nd,nd->n", left, right))
    return np.concatenate(cosines)


def _take_groups(
    pairs: Pairs, scores: NDArray[np.float64], order: NDArray[np.int64], free: NDArray[np.bool_]
) -> Iterator[PlaceGroup]:
    """The groups that pairs of duplicates make. In the `order` of places, each place that is free
    takes those of its duplicates that come later and are free; these are then no longer free.

    free: by rank, the position in `order`.
    """
    if not len(pairs):
        return
    rank = np.zeros(int(order.max(initial=0)) + 1, np.int64)
    rank[order] = np.arange(len(order))
    ranks = np.sort(rank[pairs], axis=1)
    by_first = np.argsort(ranks[:, 0], kind="stable")
    ranks, scores = ranks[by_first], scores[by_first]
    firsts, starts = np.unique(ranks[:, 0], return_index=True)
    for first, start, end in zip(firsts, starts, [*starts[1:], len(ranks)], strict=True):
        others = ranks[start:end, 1]
        is_free = free[others]
        if not (free[first] and is_free.any()):
            continue
        free[others] = False
        cosines, places = scores[start:end][is_free], order[others[is_free]]
        yield int(order[first]), list(zip((-cosines).tolist(), places.tolist(), strict=True))


def _sort_key(entry: dict[str, Any], keep: str) -> tuple[Any, ...]:
    """The key that sorts entries so that the one to keep comes first: none whose file is gone, if
    there is another."""
    gone, path = members.gone(entry["path"]), entry["path"]
    if keep == "oldest":
        return gone, entry["modified"].timestamp(), path
    if keep == "first":
        return gone, path
    pixels = (entry["width"] or 0) * (entry["height"] or 0)
    return gone, -pixels, -(entry["size"] or 0), path


def _copy(entry: dict[str, Any], score: float) -> Copy:
    return Copy(
        path=entry["path"],
        score=min(score, 1.0),
        modified=entry["modified"],
        size=entry["size"],
        width=entry["width"],
        height=entry["height"],
        id=id_of(entry["path"]),
        gone=members.gone(entry["path"]),
    )
