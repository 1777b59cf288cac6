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
from patchword.errors import IndexStoreError, NoRowError
from patchword.images import ImageLike, Opener, pillow
from patchword.index import Hit, Index, members, open_index
from patchword.index.condition import KINDS
from patchword.index.schema import id_of
from patchword.serve.error_responses import RefusalError
from patchword.serve.request_warnings import add_warnings
from patchword.show.plots import fit

THUMBNAIL = 256  # longer side, pixels
MAX_THUMBNAILS = 4096  # in memory, some 10 kB each
HIT_COLUMNS = ("width", "height", "caption", "tags")  # that a hit shows
BROWSER_FORMATS = {"JPEG", "PNG", "WEBP", "GIF"}  # formats that every browser shows


class Collection:
    """An index, and its photos by their ids. Paths and thumbnails are cached for one version of the
    index."""

    def __init__(self, index: Index, opener: Opener) -> None:
        self.index = index
        self.second_index = open_index(index.path)  # for long work, which would delay searches
        self._opener = opener
        self._version: tuple[str, int] | None = None  # of the caches
        self._paths: dict[int, str] = {}
        self._thumbnails: OrderedDict[int, bytes] = OrderedDict()
        self._lock = Lock()  # of the caches: several threads use them

    def image(self, number: int) -> ImageLike:
        """The photo with an id, as `images.open` takes it. Raises RefusalError for an unknown id,
        and ImageError for a photo that is not in its tar or table any more."""
        return members.content(self.path_of(number))

    def path_of(self, number: int) -> str:
        """The path of the photo with an id. Raises RefusalError for an unknown id, and where the
        file is gone."""
        version = self._refresh()
        path = self._paths.get(number)
        if path is None:
            path = str(self._value(number, "path"))
            self._cache(version, {number: path})
        if members.gone(path):
            raise RefusalError(404, "gone", f"the file of photo {number} is gone: {path}", "id")
        return path

    def holds(self, path: str) -> bool:
        """Whether the index has a photo of exactly this path."""
        try:
            return bool(self._value(id_of(path), "path") == path)
        except RefusalError:
            return False

    def search(
        self, model: Bundle, vector: NDArray[Any], k: int, offset: int, where: str | None
    ) -> list[dict[str, Any]]:
        """The records of `k` hits from `offset` on."""
        version = self._refresh()
        hits = self.index.search(vector, k, offset=offset, where=where, model=model)
        records = []
        for hit, columns in zip(hits, self._hit_columns(version, hits), strict=True):
            record: dict[str, Any] = {
                "id": hit.id,
                "path": hit.path,
                "score": hit.score,
                "modified": hit.modified.isoformat(),
                "width": None,
                "height": None,
            }
            record |= {name: value for name, value in columns.items() if value is not None}
            if members.gone(hit.path):
                record["gone"] = True
            records.append(record)
        return records

    def count(self, where: str | None) -> int:
        """The number of photos that meet a condition; None: of all."""
        return len(self.index) if where is None else self.index.count(where)

    def columns(self) -> list[dict[str, str]]:
        """Name and type of the columns that conditions may name."""
        return [
            {"name": name, "type": kind}
            for name, kind in self.index.columns.items()
            if kind in KINDS
        ]

    def row(self, number: int) -> dict[str, Any]:
        """All columns of a photo except its vector. Raises RefusalError for an unknown id."""
        self._value(number, "id")
        return {name: _json_value(value) for name, value in self.index.row(number).items()}

    def thumbnail(self, number: int) -> bytes:
        """A JPEG at most `THUMBNAIL` pixels long."""
        version = self._refresh()
        content = self._thumbnails.get(number) or self._value(number, "thumbnail")
        if content is None:
            photo = self._opener(self.image(number), at_least=THUMBNAIL // 2)
            content = jpeg(fit(photo, THUMBNAIL))
        self._cache(version, thumbnails={number: bytes(content)})
        return bytes(content)

    def photo(self, number: int) -> tuple[bytes, str]:
        """A photo as browsers show it, and its media type: the file itself if they can open it,
        else a JPEG."""
        image = self.image(number)
        kind = format_of(image)
        if kind in BROWSER_FORMATS:
            content = image if isinstance(image, bytes) else Path(str(image)).read_bytes()
            return content, Pillow.MIME[kind]
        return jpeg(Pillow.fromarray(self._opener(image, exact=True)), 92), "image/jpeg"

    def _refresh(self) -> tuple[str, int]:
        """Clear the caches if the index has changed: they may hold photos that were removed.
        Returns the index's version."""
        version = self.index.version
        with self._lock:
            if version != self._version:
                self._paths.clear()
                self._thumbnails.clear()
                self._version = version
        return version

    def _cache(
        self,
        version: tuple[str, int],
        paths: dict[int, str] | None = None,
        thumbnails: dict[int, bytes] | None = None,
    ) -> None:
        """Cache what was read from a version of the index, unless the index has changed since."""
        with self._lock:
            if version == self._version:
                self._paths |= paths or {}
                self._thumbnails |= thumbnails or {}
            while len(self._thumbnails) > MAX_THUMBNAILS:
                self._thumbnails.popitem(last=False)

    def _hit_columns(self, version: tuple[str, int], hits: list[Hit]) -> list[dict[str, Any]]:
        """The `HIT_COLUMNS` of each hit. Nothing for all of them if one was just removed, or has
        the id of another photo, which is warned of."""
        try:
            rows = self.index.rows([hit.id for hit in hits], ("path", *HIT_COLUMNS))
        except NoRowError:
            return [{}] * len(hits)
        except IndexStoreError as error:
            add_warnings([str(error)])
            return [{}] * len(hits)
        paths = [row.pop("path") for row in rows]
        self._cache(version, {hit.id: path for hit, path in zip(hits, paths, strict=True)})
        return rows

    def _value(self, number: int, column: str) -> Any:
        """A column of a photo. Raises RefusalError for an unknown id."""
        try:
            return self.index.row(number, [column])[column]
        except NoRowError as error:
            message = f"the index has no photo {number}"
            raise RefusalError(404, "no_photo", message, "id") from error


def _json_value(value: Any) -> Any:
    """A value of a column for JSON: times in ISO 8601; None for numbers that are not finite."""
    if isinstance(value, datetime):
        return value.isoformat()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def jpeg(picture: Pillow.Image, quality: int = 85) -> bytes:
    """A picture as a JPEG file."""
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    return out.getvalue()


def format_of(image: ImageLike) -> str:
    """Pillow's name of a file's format, read from the head of the file. Empty for a format that
    Pillow does not know, and for the path of a page of a file."""
    if not isinstance(image, bytes) and not os.path.isfile(str(image)):
        return ""
    try:
        with pillow.opened(lambda: _file(image), 0) as picture:
            return str(picture.format or "")
    except Exception:  # any error of a plugin on a damaged head; opening the photo explains it
        return ""


def _file(image: Any) -> BinaryIO:
    return io.BytesIO(image) if isinstance(image, bytes) else Path(str(image)).open("rb")
