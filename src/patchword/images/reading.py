"""Opens images for an index, and records what it stores of each: its size and a thumbnail."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from PIL import Image

from patchword.images.decode import ImageLike, Opener, name_of
from patchword.images.photo import Photo

THUMBNAIL = 256  # pixels of its longer side
QUALITY = 80  # of its JPEG

Read = Callable[[], bytes]


class Seen(NamedTuple):
    """What an index stores of an opened image: its upright size in pixels, a small JPEG of it, and
    the hash of its content if it was inside another file."""

    width: int
    height: int
    thumbnail: bytes | None
    digest: str = ""


class Content(io.BytesIO):
    """The content of an image inside another file, with the name of the image."""

    def __init__(self, name: str, content: bytes) -> None:
        super().__init__(content)
        self.name = name

    def __reduce__(self) -> tuple[type[Content], tuple[str, bytes]]:
        return Content, (self.name, self.getvalue())


@dataclass(frozen=True)
class Reader(Opener):
    """An opener that records in `seen`, by the names of images, what an index stores of each.
    Several threads call it, with one image each. inside: functions that read the bytes of images
    inside other files, by name."""

    thumbnails: bool = True
    inside: Mapping[str, Read] = field(default_factory=dict, compare=False)
    seen: dict[str, Seen] = field(default_factory=dict, compare=False)

    def __reduce__(self) -> tuple[type[Reader], tuple[Any, ...]]:
        """Pickled for another process: without `inside`, and with `seen` empty."""
        return Reader, (self.stretch, self.max_pixels, self.urls, self.exact, self.thumbnails)

    def sized(self, image: ImageLike, *, at_least: int | None = None, exact: bool = False) -> Photo:
        name = name_of(image)
        read = image.getvalue if isinstance(image, Content) else self.inside.get(name)
        if read is None:
            return self._open(name, image, "", at_least, exact)
        content = read()
        digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        return self._open(name, Content(name, content), digest, at_least, exact)

    def to_send(self, image: ImageLike) -> ImageLike | None:
        name = name_of(image)
        read = self.inside.get(name)
        return super().to_send(image) if read is None else Content(name, read())

    def recorded(self, image: ImageLike) -> Seen:
        return self.seen[name_of(image)]

    def record(self, image: ImageLike, recorded: Seen) -> None:
        self.seen[name_of(image)] = recorded

    def _open(
        self, name: str, image: ImageLike, digest: str, at_least: int | None, exact: bool
    ) -> Photo:
        photo = super().sized(image, at_least=at_least, exact=exact)
        jpeg = None
        if self.thumbnails:
            source = photo
            if max(photo.shape) < min(THUMBNAIL, max(photo.size)):  # decoded for a small network
                source = super().sized(image, at_least=THUMBNAIL // 2)
            jpeg = thumbnail(source.picture)
        self.seen[name] = Seen(photo.size[1], photo.size[0], jpeg, digest)
        return photo


def thumbnail(picture: Image.Image) -> bytes:
    """A JPEG of a photo, at most `THUMBNAIL` pixels wide and high."""
    picture = picture.copy()
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()
