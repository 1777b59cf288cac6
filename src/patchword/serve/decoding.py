"""Images of requests, opened in threads.

A text of a request is never used as a path on the server's disk: it is image data, or a web address
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
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictInt

from patchword.api import Model
from patchword.bundle import Levels
from patchword.errors import ImageError
from patchword.images import ImageLike
from patchword.images.photo import RGB
from patchword.images.prefetch import cores
from patchword.images.reading import Content
from patchword.images.urls import is_url
from patchword.serve.error_responses import RefusalError
from patchword.serve.queue import in_time
from patchword.visible_area import Look, Sight

T = TypeVar("T")
THREADS = min(max(cores(), 2), 16)
FETCH_THREADS = 16  # of their own, so that a slow site delays no other image
MAX_PHOTOS = 2  # of the largest: with more pixels in memory no further photos are opened whole


class PhotoId(BaseModel):
    """A photo of the opened index."""

    model_config = ConfigDict(extra="forbid")
    id: StrictInt = Field(ge=0, lt=1 << 53, description="Its number, as a search gives it.")


Image = Annotated[
    str | PhotoId,
    Field(
        description="A data URI, the base64 of a file, a photo of the index by its number, or, "
        "where the server allows that, an address on the web."
    ),
]


class Decoder:
    """Threads that open images. `name` is what an image is called in errors and warnings."""

    def __init__(
        self,
        indexed_photo: Callable[[int], ImageLike],
        fetch: Callable[[str], bytes] | None,
        max_pixels: int,
    ) -> None:
        """indexed_photo: its number in the index -> a photo; fetch: address -> content, None where
        addresses are not allowed; max_pixels: of an image."""
        self._indexed_photo = indexed_photo
        self._fetch = fetch
        self._pool = ThreadPoolExecutor(THREADS, "decode")
        self._fetch_pool = ThreadPoolExecutor(FETCH_THREADS, "fetch")
        self._slow_pool = ThreadPoolExecutor(1, "slow")
        self._fetching = asyncio.Semaphore(FETCH_THREADS)
        self._opening = asyncio.Semaphore(THREADS)
        self._max_bytes = MAX_PHOTOS * 3 * max_pixels
        self._photo_bytes = 0
        self._freed = asyncio.Event()

    async def run(self, function: Callable[[], T]) -> T:
        """Run a function in one of the threads, in this context."""
        return await _run_in(self._pool, function)

    async def run_slow(self, function: Callable[[], T]) -> T:
        """Run a function that takes long, one at a time, in a thread that opens no images."""
        return await _run_in(self._slow_pool, function)

    async def photo(self, image: Any, model: Model, name: str = "image 1") -> RGB:
        """All pixels of an image, RGB uint8 (H, W, 3). Raises ImageError, RefusalError."""
        async with self._fetched(image, name) as content:
            return await self._open(content, model, name)

    @asynccontextmanager
    async def photo_in_memory(self, image: Any, model: Model, name: str) -> AsyncIterator[RGB]:
        """The same of a list of images. It waits while other photos fill the memory, which this one
        occupies for the block."""
        async with self._fetched(image, name) as content, self._opening:
            await self._wait_for_memory()
            photo = await self._open(content, model, name)
            self._photo_bytes += photo.nbytes
        try:
            yield photo
        finally:
            self._photo_bytes -= photo.nbytes
            self._freed.set()

    async def checked_image(self, image: Any, model: Model, name: str) -> ImageLike:
        """An image that can be opened, as `images.open` takes it. Its pixels are not kept: a task
        needs many at once. Raises ImageError, RefusalError."""
        async with self._fetched(image, name) as content, self._opening:
            await self._wait_for_memory()
            await self._open(content, model, name)
            return self._image_like(content, name)

    async def pixels(self, image: Any, model: Model, name: str) -> tuple[Levels, Sight]:
        """The network's input of an image, uint8 (3, S, S), and how the image is seen. Raises
        ImageError, RefusalError."""
        async with self._fetched(image, name) as content:
            work = partial(self._preprocess, content, model, name)
            return await self.run(lambda: _with_name(name, work))

    async def sight(self, photo: RGB, model: Model, name: str) -> Sight:
        """How a network sees a photo (H, W, 3)."""
        geometry = model.preprocess.geometry(*photo.shape[:2])
        return await self.run(lambda: Sight.of(name, geometry, photo))

    def close(self) -> None:
        for pool in (self._pool, self._fetch_pool, self._slow_pool):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _wait_for_memory(self) -> None:
        while self._photo_bytes > self._max_bytes:
            self._freed.clear()
            await in_time(asyncio.ensure_future(self._freed.wait()))

    async def _open(self, content: Any, model: Model, name: str) -> RGB:
        def work() -> RGB:
            return model.opener(self._image_like(content, name), exact=True)

        return await self.run(lambda: _with_name(name, work))

    def _preprocess(self, content: Any, model: Model, name: str) -> tuple[Levels, Sight]:
        look = Look.here(model.opener, model.preprocess)
        pixels, known = look(self._image_like(content, name))
        return pixels, replace(known.sight, name=name)

    @asynccontextmanager
    async def _fetched(self, image: Any, name: str) -> AsyncIterator[Any]:
        """An image of a request; for an address its content, of which only few are in memory at
        once. Raises ImageError, RefusalError."""
        if not (isinstance(image, str) and is_url(image)):
            yield image
            return
        fetch = self._fetch
        if fetch is None:
            raise RefusalError(
                400, "urls", "this server fetches no addresses: send the image itself, as a "
                "data URI or base64 (whoever runs it may allow addresses: --allow-urls)"
            )  # fmt: skip
        async with self._fetching:
            yield await _run_in(self._fetch_pool, lambda: _with_name(name, lambda: fetch(image)))

    def _image_like(self, content: Any, name: str) -> ImageLike:
        """An image as `images.open` takes it. Requests never give a Path, only assistants on this
        machine do."""
        if isinstance(content, Path):
            return content
        if isinstance(content, PhotoId):
            image = self._indexed_photo(content.id)
        elif isinstance(content, bytes):
            image = content
        else:
            image = decode_base64(content)
        return Content(name, image) if isinstance(image, bytes) else image


async def _run_in(pool: ThreadPoolExecutor, function: Callable[[], T]) -> T:
    context = contextvars.copy_context()
    loop = asyncio.get_running_loop()
    return await in_time(loop.run_in_executor(pool, context.run, function))


def decode_base64(text: str) -> bytes:
    """The bytes of a data URI or of base64. Raises RefusalError for anything else."""
    data = text
    if text[:5].lower() == "data:":
        head, comma, data = text.partition(",")
        if not (comma and head.lower().endswith(";base64")):
            message = "a data URI of an image ends in ;base64, before its comma"
            raise RefusalError(400, "image", message)
    try:
        content = base64.b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError):
        shown = "" if len(text) > 80 else f": {text!r}"
        raise RefusalError(
            400, "image", f"not an image: neither a data URI nor base64{shown} (a server opens no "
            "paths; send the file's content)"
        ) from None  # fmt: skip
    if not content:
        raise RefusalError(400, "image", "an image is empty: 0 bytes")
    return content


def _with_name(name: str, work: Callable[[], T]) -> T:
    """The result of `work`. Its ImageError gets the name of the image in the request."""
    try:
        return work()
    except ImageError as error:
        raise ImageError(name, error.reason) from error
