"""Which entries of an index are copies of one photo, by the thumbnails that it stores."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from patchword import images
from patchword.errors import ImageError, ImageWarning, listed, warn
from patchword.index import members
from patchword.index.copy_detection import (
    ROUGH,
    SIZE,
    Small,
    are_copies,
    are_related,
    rough_features,
    small_picture,
)
from patchword.index.table import Table

BATCH = 512  # pairs, or entries, that are read at a time
ROUGH_BATCH = 1 << 16  # pairs that are compared roughly at a time: 100 MB
MAX_CACHED = 16_384  # small pictures that stay in memory: 200 MB
NAMED = 3  # entries that a warning names


class Thumbnails:
    """Compares the thumbnails of entries, given by their places among `ids` (N,). A thumbnail is
    read when it is first needed."""

    def __init__(
        self, table: Table, ids: NDArray[np.uint64], check_time: Callable[[], None]
    ) -> None:
        """check_time: is called between pieces of work."""
        self._table, self._ids = table, ids
        self._check_time = check_time
        self._rough = np.zeros((len(ids), ROUGH**2 + 4), np.float16)
        self._has_rough = np.zeros(len(ids), bool)
        self._unreadable: dict[str, None] = {}  # paths, in order
        self._cache: dict[int, Small] = {}  # small pictures by place

    def related(self, pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which pairs (P, 2) of places may be copies: a quick check."""
        needed = np.zeros(len(self._ids), bool)
        needed[pairs.ravel()] = True
        new = np.flatnonzero(needed & ~self._has_rough)
        for start in range(0, len(new), BATCH):
            places = new[start : start + BATCH]
            for place, picture in self._pictures(places).items():
                self._rough[place] = rough_features(picture)
            self._has_rough[places] = True
            self._check_time()
        related = np.zeros(len(pairs), bool)
        for start in range(0, len(pairs), ROUGH_BATCH):
            left, right = pairs[start : start + ROUGH_BATCH].T
            related[start : start + ROUGH_BATCH] = are_related(
                self._rough[left], self._rough[right]
            )
        return related

    def copies(self, pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which pairs (P, 2) of places are copies. Unreadable pictures are copies of none."""
        copies = np.zeros(len(pairs), bool)
        for start in range(0, len(pairs), BATCH):
            batch = pairs[start : start + BATCH]
            pictures = self._pictures(np.unique(batch))
            readable = np.array([a in pictures and b in pictures for a, b in batch.tolist()], bool)
            if readable.any():
                left, right = ([pictures[i] for i in side] for side in batch[readable].T.tolist())
                copies[start : start + BATCH][readable] = are_copies(
                    np.stack(left), np.stack(right)
                )
            self._check_time()
        return copies

    def warn_of_unreadable(self) -> None:
        """Warn of entries that could not be compared."""
        if paths := list(self._unreadable):
            warn(
                "compared with no other are images that have no thumbnail in the index, and whose "
                f"files cannot be opened: {listed(paths, NAMED)}; a threshold compares "
                "them by their vectors",
                ImageWarning,
            )

    def _pictures(self, places: NDArray[np.int64]) -> dict[int, Small]:
        """The small pictures of those entries that are readable, by place."""
        cached = {i: self._cache[i] for i in places.tolist() if i in self._cache}
        new = [place for place in places.tolist() if place not in cached]
        pictures = cached | self._read(new)
        if len(self._cache) + len(new) > MAX_CACHED:
            self._cache.clear()
        self._cache |= pictures
        return pictures

    def _read(self, places: list[int]) -> dict[int, Small]:
        by_id = {int(self._ids[place]): place for place in places}
        if not by_id:
            return {}
        rows = self._table.take_row_ids(list(by_id)).select(["path", "thumbnail"])
        pictures = {}
        for row in rows.with_row_id().to_arrow().to_pylist():
            try:
                pictures[by_id[row["_rowid"]]] = small_picture(_open(row))
            except ImageError:
                self._unreadable[row["path"]] = None
        return pictures


def _open(row: dict[str, Any]) -> Image.Image:
    """The thumbnail of an entry, or its file where none is stored. Raises ImageError."""
    if row["thumbnail"]:
        return Image.open(io.BytesIO(row["thumbnail"]))
    return Image.fromarray(images.open(members.content(row["path"]), at_least=SIZE))
