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
from patchword.index.copy_detection import ROUGH, SIZE, Small, copies, related, rough, small
from patchword.index.table import Table

PIECE = 512  # pairs, or entries, that are read at a time
MANY = 1 << 16  # pairs that are compared roughly at a time: 100 MB
KEPT = 16_384  # small pictures that stay in memory: 200 MB
NAMED = 3  # entries that a warning names


class Looks:
    """Small pictures of entries, by their places among `ids` (N,): read when a pair needs them."""

    def __init__(self, table: Table, ids: NDArray[np.uint64], go_on: Callable[[], None]) -> None:
        """go_on: is called between pieces of work."""
        self._table, self._ids = table, ids
        self._go_on = go_on
        self._rough = np.zeros((len(ids), ROUGH**2 + 4), np.float16)
        self._known = np.zeros(len(ids), bool)
        self._unseen: dict[str, None] = {}  # paths, in order
        self._kept: dict[int, Small] = {}  # by place

    def related(self, pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which pairs (P, 2) of places may be copies: quickly, and for many."""
        needed = np.zeros(len(self._ids), bool)
        needed[pairs.ravel()] = True
        new = np.flatnonzero(needed & ~self._known)
        for start in range(0, len(new), PIECE):
            places = new[start : start + PIECE]
            for place, picture in self._pictures(places).items():
                self._rough[place] = rough(picture)
            self._known[places] = True
            self._go_on()
        parts = (pairs[start : start + MANY].T for start in range(0, len(pairs), MANY))
        found = [related(self._rough[left], self._rough[right]) for left, right in parts]
        return np.concatenate(found) if found else np.zeros(0, bool)

    def copies(self, pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which pairs (P, 2) are copies; those of entries that cannot be seen are not."""
        found = np.zeros(len(pairs), bool)
        for start in range(0, len(pairs), PIECE):
            part = pairs[start : start + PIECE]
            pictures = self._pictures(np.unique(part))
            seen = np.array([a in pictures and b in pictures for a, b in part.tolist()], bool)
            if seen.any():
                left, right = ([pictures[i] for i in side] for side in part[seen].T.tolist())
                found[start : start + PIECE][seen] = copies(np.stack(left), np.stack(right))
            self._go_on()
        return found

    def tell(self) -> None:
        """Warn of entries that could not be seen."""
        if paths := list(self._unseen):
            warn(
                "compared with no other are images that have no thumbnail in the index, and whose "
                f"files cannot be opened: {listed(paths, NAMED)}; a threshold compares "
                "them by their vectors",
                ImageWarning,
            )

    def _pictures(self, places: NDArray[np.int64]) -> dict[int, Small]:
        """The pictures of entries that can be seen, by place."""
        new = [place for place in places.tolist() if place not in self._kept]
        found = {i: self._kept[i] for i in places.tolist() if i in self._kept}
        found |= self._read(new)
        if len(self._kept) + len(new) > KEPT:
            self._kept.clear()
        self._kept |= found
        return found

    def _read(self, places: list[int]) -> dict[int, Small]:
        by_id = {int(self._ids[place]): place for place in places}
        if not by_id:
            return {}
        wanted = self._table.take_row_ids(list(by_id)).select(["path", "thumbnail"])
        found = {}
        for row in wanted.with_row_id().to_arrow().to_pylist():
            try:
                found[by_id[row["_rowid"]]] = small(_picture(row))
            except ImageError:
                self._unseen[row["path"]] = None
        return found


def _picture(row: dict[str, Any]) -> Image.Image:
    """The thumbnail of an entry, or its file where none is stored. Raises ImageError."""
    if row["thumbnail"]:
        return Image.open(io.BytesIO(row["thumbnail"]))
    return Image.fromarray(images.open(members.content(row["path"]), at_least=SIZE))
