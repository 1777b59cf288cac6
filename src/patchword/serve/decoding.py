"""Images of requests: what a client may send, opened in threads.

A text of a request never becomes a path of the server's disk: it is data, or an address on the web
where those are allowed. A photo of the server is named by its number in the index alone.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextvars
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from patchword.api import Model
from patchword.bundle import Levels
from patchword.errors import ImageError
from patchword.images import ImageLike
from patchword.images.photo import RGB
from patchword.images.prefetch import cores
from patchword.images.reading import Content
from patchword.images.urls import is_url
from patchword.serve.bodies import Whole
from patchword.serve.error_responses import RefusalError
from patchword.serve.queue import in_time
from patchword.visible_area import Sight

T = TypeVar("T")
THREADS = min(max(cores(), 2), 16)
FETCHERS = 16  # threads of their own: a site that is slow keeps no other image waiting
HELD = 2  # of the largest photos: with so many pixels in memory no more photos are opened whole


class PhotoId(BaseModel):
    """A photo of the opened index."""

    model_config = ConfigDict(extra="forbid")
    id: Whole = Field(ge=0, lt=1 << 53, description="Its number, as a search gives it.")


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
        self,
        photo: Callable[[int], ImageLike],
        fetch: Callable[[str], bytes] | None,
        max_pixels: int,
    ) -> None:
        """photo: one of the index; fetch: an address, None where that is not allowed; max_pixels:
        of an image."""
        self._photo = photo
        self._fetch = fetch
        self._pool = ThreadPoolExecutor(THREADS, "decode")
        self._fetchers = ThreadPoolExecutor(FETCHERS, "fetch")
        self._slow = ThreadPoolExecutor(1, "slow")
        self._fetching = asyncio.Semaphore(FETCHERS)
        self._opening = asyncio.Semaphore(THREADS)
        self._most = HELD * 3 * max_pixels
        self._held = 0  # bytes of photos
        self._freed = asyncio.Event()

    async def run(self, function: Callable[[], T]) -> T:
        """What a function returns that is run in one of the threads, in this context."""
        return await _in(self._pool, function)

    async def alone(self, function: Callable[[], T]) -> T:
        """The same of one that takes long, one at a time, in a thread that opens no images."""
        return await _in(self._slow, function)

    async def photo(self, given: Any, model: Model, name: str = "image 1") -> RGB:
        """All pixels of an image, RGB uint8 (H, W, 3). Raises ImageError, RefusalError."""
        async with self._here(given, name) as here:
            return await self._whole(here, model, name)

    @asynccontextmanager
    async def held(self, given: Any, model: Model, name: str) -> AsyncIterator[RGB]:
        """The same while it is needed, of a list: it waits until few others are held."""
        async with self._here(given, name) as here, self._opening:
            photo = await self._with_room(here, model, name)
            self._held += photo.nbytes
        try:
            yield photo
        finally:
            self._held -= photo.nbytes
            self._freed.set()

    async def openable(self, given: Any, model: Model, name: str) -> ImageLike:
        """An image that can be opened, as `images.open` takes it, its pixels not kept: of a list
        that a task needs at once. Raises ImageError, RefusalError."""
        async with self._here(given, name) as here, self._opening:
            await self._with_room(here, model, name)
            return self.content(here, name)

    async def _with_room(self, here: Any, model: Model, name: str) -> RGB:
        while self._held > self._most:
            self._freed.clear()
            await in_time(asyncio.ensure_future(self._freed.wait()))
        return await self._whole(here, model, name)

    async def pixels(self, given: Any, model: Model, name: str) -> tuple[Levels, Sight]:
        """What the network sees of an image, uint8 (3, S, S), and how it is seen. Raises
        ImageError, RefusalError."""
        async with self._here(given, name) as here:
            return await self.run(lambda: _named(name, lambda: self._look(here, model, name)))

    async def sight(self, photo: RGB, model: Model, name: str) -> Sight:
        """How a network sees a photo (H, W, 3)."""
        geometry = model.preprocess.geometry(*photo.shape[:2])
        return await self.run(lambda: Sight.of(name, geometry, photo))

    async def _whole(self, here: Any, model: Model, name: str) -> RGB:
        work = partial(model.opener, exact=True)
        return await self.run(lambda: _named(name, lambda: work(self.content(here, name))))

    def _look(self, here: Any, model: Model, name: str) -> tuple[Levels, Sight]:
        found = self.content(here, name)
        photo = model.opener.sized(found, at_least=model.preprocess.at_least)
        pixels, geometry = model.preprocess.seen(photo)
        return pixels, Sight.of(name, geometry, photo.pixels)

    @asynccontextmanager
    async def _here(self, given: Any, name: str) -> AsyncIterator[Any]:
        """An image of a request; of an address its content, of which few are in memory at once.
        Raises ImageError, RefusalError."""
        if not (isinstance(given, str) and is_url(given)):
            yield given
            return
        if (fetch := self._fetch) is None:
            raise RefusalError(
                400, "urls", "this server fetches no addresses: send the image itself, as a "
                "data URI or base64 (whoever runs it may allow addresses: --allow-urls)"
            )  # fmt: skip
        async with self._fetching:
            yield await _in(self._fetchers, lambda: _named(name, lambda: fetch(given)))

    def content(self, given: Any, name: str) -> ImageLike:
        """An image that is here, as `images.open` takes it, by which what is in no file is called
        by this name. A Path is none of a request, but of an assistant on this machine."""
        if isinstance(given, Path):
            return given
        if isinstance(given, PhotoId):
            found = self._photo(given.id)
        else:
            found = given if isinstance(given, bytes) else decoded(given)
        return Content(name, found) if isinstance(found, bytes) else found

    def close(self) -> None:
        for pool in (self._pool, self._fetchers, self._slow):
            pool.shutdown(wait=False, cancel_futures=True)


async def _in(pool: ThreadPoolExecutor, function: Callable[[], T]) -> T:
    context = contextvars.copy_context()
    loop = asyncio.get_running_loop()
    return await in_time(loop.run_in_executor(pool, context.run, function))


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
