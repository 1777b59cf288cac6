"""Opens images for an index, and keeps what it stores of each: its size, and a thumbnail."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from patchword.errors import ImageError
from patchword.images import ImageLike, Opener, name_of
from patchword.index.schema import Seen

THUMBNAIL = 256  # pixels of its longer side
QUALITY = 80  # of its JPEG

RGB = NDArray[np.uint8]  # (H, W, 3)


@dataclass(frozen=True)
class Reader(Opener):
    """An opener that notes in `seen`, by the names of images, what is stored of each. It is called
    by several threads, with one image each. inside: how the bytes of those that are inside other
    files are read, by name."""

    thumbnails: bool = True
    inside: Mapping[str, Callable[[], bytes]] = field(default_factory=dict, compare=False)
    seen: dict[str, Seen] = field(default_factory=dict, compare=False)

    def sized(
        self, image: ImageLike, *, at_least: int | None = None, exact: bool = False
    ) -> tuple[RGB, float]:
        name = name_of(image)
        read = self.inside.get(name)
        if read is None:
            return self._noted(name, image, "", at_least, exact)
        content = read()
        digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        try:
            return self._noted(name, content, digest, at_least, exact)
        except ImageError as error:
            raise ImageError(name, error.reason) from error

    def _noted(
        self, name: str, image: ImageLike, digest: str, at_least: int | None, exact: bool
    ) -> tuple[RGB, float]:
        found, size = self.measured(image, at_least=at_least, exact=exact)
        small: Any = None
        if self.thumbnails:
            source = found
            if max(found.shape[:2]) < min(THUMBNAIL, max(size)):  # decoded for a small network
                source = self.measured(image, at_least=THUMBNAIL // 2)[0]
            small = thumbnail(source)
        self.seen[name] = Seen(size[1], size[0], small, digest)
        return found, max(size) / max(found.shape[:2])


def thumbnail(photo: RGB) -> bytes:
    """A JPEG of a photo, at most `THUMBNAIL` pixels wide and high."""
    picture = Image.fromarray(photo)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()
