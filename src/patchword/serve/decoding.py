"""Images of requests: what a client may send, opened in threads.

A text of a request never becomes a path of the server's disk: it is data, or an address on the web
where those are allowed. A photo of the server is named by its number in the index alone.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextvars
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from patchword.api import Model
from patchword.bundle import Levels
from patchword.errors import ImageError
from patchword.images import ImageLike
from patchword.images.photo import RGB
from patchword.images.urls import is_url
from patchword.serve.queue import in_time
from patchword.serve.refusals import RefusalError
from patchword.unseen import Sight

T = TypeVar("T")
THREADS = min(max(os.cpu_count() or 1, 2), 16)


class PhotoId(BaseModel):
    """A photo of the opened index."""

    model_config = ConfigDict(extra="forbid")
    id: int = Field(description="Its number, as a search gives it.")


Image = Annotated[
    str | PhotoId,
    Field(
        description="A data URI, the base64 of a file, a photo of the index by its number, or, "
        "where the server allows that, an address on the web."
    ),
]


class Decoder:
    """Threads that open images."""

    def __init__(
        self, photo: Callable[[int], ImageLike], fetch: Callable[[str], bytes] | None
    ) -> None:
        """photo: one of the index; fetch: an address, None where that is not allowed."""
        self._photo = photo
        self._fetch = fetch
        self._pool = ThreadPoolExecutor(THREADS, "decode")

    async def run(self, function: Callable[[], T]) -> T:
        """What a function returns that is run in one of the threads, in this context."""
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return await in_time(loop.run_in_executor(self._pool, context.run, function))

    async def photo(self, given: Any, model: Model, name: str = "image") -> RGB:
        """All pixels of an image, RGB uint8 (H, W, 3). Raises ImageError, RefusalError."""
        return await self.run(
            lambda: _named(name, lambda: model.opener(self.content(given), exact=True))
        )

    async def pixels(self, given: Any, model: Model, name: str) -> tuple[Levels, Sight]:
        """What the network sees of an image, uint8 (3, S, S), and how it is seen. Raises
        ImageError, RefusalError."""
        return await self.run(lambda: _named(name, lambda: self._look(given, model, name)))

    def _look(self, given: Any, model: Model, name: str) -> tuple[Levels, Sight]:
        found = self.content(given)
        photo = model.opener.sized(found, at_least=model.preprocess.at_least)
        pixels, geometry = model.preprocess.seen(photo)
        return pixels, Sight.of(name, geometry, photo.pixels)

    def content(self, given: Any) -> ImageLike:
        """An image that a request names, as `images.open` takes it. A Path is none of a request,
        but of an assistant on this machine."""
        if isinstance(given, PhotoId):
            return self._photo(given.id)
        if isinstance(given, (bytes, Path)):
            return given
        if is_url(given):
            if self._fetch is None:
                raise RefusalError(
                    400, "urls", "this server fetches no addresses: send the image itself, as a "
                    "data URI or base64 (whoever runs it may allow addresses: --allow-urls)"
                )  # fmt: skip
            return self._fetch(given)
        return decoded(given)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def decoded(text: str) -> bytes:
    """The bytes of a data URI or of base64. Raises RefusalError for anything else."""
    head, comma, data = text.partition(",") if text[:5].lower() == "data:" else ("", ",", text)
    if head and not (comma and head.lower().endswith(";base64")):
        raise RefusalError(400, "image", "a data URI of an image ends in ;base64, before its comma")
    try:
        found = base64.b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError):
        shown = "" if len(text) > 80 else f": {text!r}"
        raise RefusalError(
            400, "image", f"not an image: neither a data URI nor base64{shown} (a server opens no "
            "paths; send the file's content)"
        ) from None  # fmt: skip
    if not found:
        raise RefusalError(400, "image", "an image is empty: 0 bytes")
    return found


def _named(name: str, work: Callable[[], T]) -> T:
    """What `work` returns; an ImageError of it says which image of the request it is about."""
    try:
        return work()
    except ImageError as error:
        raise ImageError(name, error.reason) from error
