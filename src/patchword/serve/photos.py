"""The photos of an index, by numbers that stay the same."""

from __future__ import annotations

import io
import math
import os
from collections import OrderedDict
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

from numpy.typing import NDArray
from PIL import Image as Pillow

from patchword.bundle import Bundle
from patchword.errors import IndexStoreError
from patchword.images import ImageLike, Opener, pillow
from patchword.index import Hit, Index, members, open_index
from patchword.index.condition import KINDS
from patchword.index.schema import id_of
from patchword.serve.error_responses import RefusalError
from patchword.serve.request_warnings import say
from patchword.show.plots import fit

SIDE = 256  # of a thumbnail, pixels
THUMBNAILS = 4096  # kept in memory, some 10 kB each
SAID = ("width", "height", "caption", "tags")  # columns that a hit shows
LOST = "no row of id"  # in what an index says of an id that it does not have
SHOWN_AS_THEY_ARE = {"JPEG", "PNG", "WEBP", "GIF"}  # formats that every browser shows


class Collection:
    """An index, and its photos by the ids that it gives them."""

    def __init__(self, index: Index, opener: Opener) -> None:
        self.index = index
        self.aside = open_index(index.path)  # the same, for work that would keep searches waiting
        self._opener = opener
        self._version: tuple[str, int] | None = None  # that the rest is of
        self._paths: dict[int, str] = {}
        self._thumbnails: OrderedDict[int, bytes] = OrderedDict()
        self._lock = Lock()  # of what is remembered: several threads ask

    def content_of(self, number: int) -> ImageLike:
        """The photo with an id, as `images.open` takes it. Raises RefusalError where there is none,
        ImageError for one that is not in its tar or table any more."""
        return members.content(self.path_of(number))

    def path_of(self, number: int) -> str:
        """The path of the photo with an id. Raises RefusalError where there is none."""
        version = self._fresh()
        path = self._paths.get(number)
        if path is None:
            path = str(self._row(number, "path"))
            self._remember(version, {number: path})
        if members.gone(path):
            raise RefusalError(404, "gone", f"the file of photo {number} is gone: {path}", "id")
        return path

    def holds(self, path: str) -> bool:
        """Whether the index has a photo of exactly this path."""
        try:
            return bool(self._row(id_of(path), "path") == path)
        except RefusalError:
            return False

    def search(
        self, model: Bundle, vector: NDArray[Any], k: int, offset: int, where: str | None
    ) -> list[dict[str, Any]]:
        """The hits from `offset` on, as records."""
        version = self._fresh()
        hits = self.index.search(vector, k, offset=offset, where=where, model=model)
        return [
            {
                "id": hit.id,
                "path": hit.path,
                "score": hit.score,
                "modified": hit.modified.isoformat(),
                "width": None,
                "height": None,
                **{name: value for name, value in columns.items() if value is not None},
            }
            | ({"gone": True} if members.gone(hit.path) else {})
            for hit, columns in zip(hits, self._known(version, hits), strict=True)
        ]

    def _fresh(self) -> tuple[str, int]:
        """Remember nothing of an index that has changed since: not what was removed from it.
        Returns its version."""
        version = self.index.version
        with self._lock:
            if version != self._version:
                self._paths.clear()
                self._thumbnails.clear()
                self._version = version
        return version

    def _remember(
        self,
        version: tuple[str, int],
        paths: dict[int, str] | None = None,
        thumbnails: dict[int, bytes] | None = None,
    ) -> None:
        """Remember some of what was read since the index was seen to have a version, unless another
        one was seen meanwhile."""
        with self._lock:
            if version == self._version:
                self._paths |= paths or {}
                self._thumbnails |= thumbnails or {}
            while len(self._thumbnails) > THUMBNAILS:
                self._thumbnails.popitem(last=False)

    def count(self, where: str | None) -> int:
        """How many photos there are that meet a condition; None: in all."""
        return len(self.index) if where is None else self.index.count(where)

    def _known(self, version: tuple[str, int], hits: list[Hit]) -> list[dict[str, Any]]:
        """What the index says of each photo; nothing where one of them was just removed, or has
        the id of another, which is warned of."""
        try:
            rows = self.index.rows([hit.id for hit in hits], ("path", *SAID))
        except IndexStoreError as error:
            if LOST not in str(error):
                say([str(error)])
            return [{}] * len(hits)
        paths = [row.pop("path") for row in rows]
        self._remember(version, {hit.id: path for hit, path in zip(hits, paths, strict=True)})
        return rows

    def _row(self, number: int, column: str) -> Any:
        try:
            return self.index.row(number, [column])[column]
        except IndexStoreError as error:
            if LOST not in str(error):
                raise
            message = f"the index has no photo {number}"
            raise RefusalError(404, "no_photo", message, "id") from error

    def columns(self) -> list[dict[str, str]]:
        """Name and type of the columns that conditions may name."""
        return [
            {"name": name, "type": kind}
            for name, kind in self.index.columns.items()
            if kind in KINDS
        ]

    def about(self, number: int) -> dict[str, Any]:
        """All that the index knows of a photo, but its vector. Raises RefusalError."""
        self._row(number, "id")
        return {name: _plain(value) for name, value in self.index.row(number).items()}

    def thumbnail(self, number: int) -> bytes:
        """A JPEG at most `SIDE` pixels long."""
        version = self._fresh()
        found = self._thumbnails.get(number) or self._row(number, "thumbnail")
        if found is None:
            found = jpeg(fit(self._opener(self.content_of(number), at_least=SIDE // 2), SIDE))
        self._remember(version, thumbnails={number: bytes(found)})
        return bytes(found)

    def photo(self, number: int) -> tuple[bytes, str]:
        """A photo as browsers show it, and its type: its file where they can, else a JPEG."""
        given = self.content_of(number)
        kind = format_of(given)
        if kind in SHOWN_AS_THEY_ARE:
            content = given if isinstance(given, bytes) else Path(str(given)).read_bytes()
            return content, Pillow.MIME[kind]
        return jpeg(Pillow.fromarray(self._opener(given, exact=True)), 92), "image/jpeg"


def _plain(value: Any) -> Any:
    """A value of a column as JSON has it: times in ISO 8601, no numbers but finite ones."""
    if isinstance(value, datetime):
        return value.isoformat()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def jpeg(picture: Pillow.Image, quality: int = 85) -> bytes:
    """A picture as the content of a file."""
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    return out.getvalue()


def format_of(given: ImageLike) -> str:
    """Pillow's name of the format of a file, by its head; empty where Pillow knows none, and for
    the path of a page of one."""
    if not isinstance(given, bytes) and not os.path.isfile(str(given)):
        return ""
    try:
        with pillow.opened(lambda: _file(given), 0) as picture:
            return str(picture.format or "")
    except Exception:  # whatever a plugin makes of a damaged head; opening it says why
        return ""


def _file(given: Any) -> BinaryIO:
    return io.BytesIO(given) if isinstance(given, bytes) else Path(str(given)).open("rb")
