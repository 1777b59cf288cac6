"""The photos of an index, by numbers that stay the same."""

from __future__ import annotations

import hashlib
import io
from collections import OrderedDict
from typing import Any

from numpy.typing import NDArray
from PIL import Image as Pillow

from patchword.bundle import Bundle
from patchword.images import Opener
from patchword.images.files import gone
from patchword.index import Hit, Index
from patchword.serve.refusals import RefusalError
from patchword.show.plots import fit

SIDE = 256  # of a thumbnail, pixels
THUMBNAILS = 4096  # kept in memory, some 10 kB each
SHOWN_AS_THEY_ARE = {"JPEG", "PNG", "WEBP", "GIF"}  # formats that every browser shows


class Collection:
    """An index, whose photos have numbers that stay the same: hashes of their paths, 53 bits, which
    JavaScript holds exactly."""

    def __init__(self, index: Index, opener: Opener) -> None:
        self.index = index
        self._opener = opener
        self._paths: dict[int, str] = {}
        self._thumbnails: OrderedDict[int, bytes] = OrderedDict()

    def id_of(self, path: str) -> int:
        """The number of a photo."""
        digest = hashlib.blake2b(path.encode(errors="surrogateescape"), digest_size=8).digest()
        number = int.from_bytes(digest) >> 11
        self._paths[number] = path
        return number

    def path_of(self, number: int) -> str:
        """The photo with a number. Raises RefusalError where there is none."""
        if number not in self._paths:
            for path in self.index.paths():
                self.id_of(path)
        if number not in self._paths:
            raise RefusalError(404, "no_photo", f"the index has no photo {number}", "id")
        path = self._paths[number]
        if gone(path):
            raise RefusalError(404, "gone", f"the file of photo {number} is gone: {path}", "id")
        return path

    def search(
        self, model: Bundle, vector: NDArray[Any], k: int, offset: int, where: str | None
    ) -> list[dict[str, Any]]:
        """The hits from `offset` on, as records."""
        hits = self.index.search(vector, k + offset, where=where, model=model)
        return [self._record(hit) for hit in hits[offset:]]

    def _record(self, hit: Hit) -> dict[str, Any]:
        width, height = size_of(hit.path)
        return {
            "id": self.id_of(hit.path),
            "path": hit.path,
            "score": hit.score,
            "modified": hit.modified.isoformat(),
            "width": width,
            "height": height,
        }

    def thumbnail(self, number: int) -> bytes:
        """A JPEG at most `SIDE` pixels long."""
        found = self._thumbnails.get(number)
        if found is None:
            found = jpeg(fit(self._opener(self.path_of(number), at_least=SIDE // 2), SIDE))
            self._thumbnails[number] = found
            while len(self._thumbnails) > THUMBNAILS:
                self._thumbnails.popitem(last=False)
        return found

    def photo(self, number: int) -> tuple[bytes, str]:
        """A photo as browsers show it, and its type: its file where they can, else a JPEG."""
        path = self.path_of(number)
        kind = format_of(path)
        if kind in SHOWN_AS_THEY_ARE:
            with open(path, "rb") as file:
                return file.read(), Pillow.MIME[kind]
        return jpeg(Pillow.fromarray(self._opener(path, exact=True)), 92), "image/jpeg"


def jpeg(picture: Pillow.Image, quality: int = 85) -> bytes:
    """A picture as the content of a file."""
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    return out.getvalue()


def format_of(path: str) -> str:
    """Pillow's name of a file's format; empty where Pillow knows none."""
    try:
        with Pillow.open(path) as picture:
            return picture.format or ""
    except (OSError, ValueError, SyntaxError):  # no file, a page of one, or another reader's
        return ""


def size_of(path: str) -> tuple[int | None, int | None]:
    """Width and height of a photo upright, from its header; None where that says nothing."""
    try:
        with Pillow.open(path) as picture:
            turned = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            return (picture.height, picture.width) if turned else picture.size
    except (OSError, ValueError, SyntaxError):
        return None, None
