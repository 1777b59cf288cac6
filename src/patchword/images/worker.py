"""A worker process that opens images for another process: see `processes`."""

from __future__ import annotations

import mmap
import os
import pickle
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from patchword.errors import ImageError
from patchword.images.decode import ImageLike

MEMORY = 32 << 20  # bytes of pixels in shared memory; pixels beyond are sent through the pipe
IDLE = 300.0  # seconds without work after which a process ends

_WORKER_CODE = "<string>"  # the file name of code that is run by `python -c`

Result = tuple[NDArray[np.uint8], Any]  # pixels, and other data of the image
Outcome = Result | ImageError
# (the shape of pixels in shared memory, or the pixels; other data; warnings)
Answer = tuple[Any, Any, list[tuple[str, type[Warning]]]]


class Work(Protocol):
    """A function of an image that can be sent to another process."""

    def __call__(self, image: ImageLike) -> Result:
        """Raises ImageError."""
        ...

    def begin(self, image: ImageLike) -> Result:
        """The part that another process does. Raises ImageError."""
        ...

    def to_send(self, image: ImageLike) -> ImageLike | None:
        """What is sent to a process to open an image; None: the image is opened in this process."""
        ...

    def received(self, image: ImageLike, result: Result) -> Result:
        """The result of an image, from what `begin` returned in another process."""
        ...


def attempt(work: Callable[[ImageLike], Result], image: ImageLike) -> Outcome:
    """The result of `work`, or its ImageError."""
    try:
        return work(image)
    except ImageError as error:
        return error


def serve(pipe: int, memory: int) -> None:
    """The main loop of a worker process: answer requests until none comes for `IDLE` seconds or the
    other end of the pipe is closed. pipe, memory: file descriptors."""
    shared = mmap.mmap(memory, MEMORY)
    with Connection(pipe) as connection, suppress(EOFError, OSError):
        connection.send(None)  # it is ready
        while connection.poll(IDLE):
            connection.send(_answer_request(connection.recv_bytes(), shared))


def _answer_request(request: bytes, shared: mmap.mmap) -> list[Answer | None]:
    """The answers to a request of `_Process.ask`; an empty list if that fails, for example because
    another version of patchword was installed meanwhile."""
    try:
        folder, work, images = pickle.loads(request)
        os.chdir(folder)
        return list(_answers(work, images, shared))
    except Exception:  # the process that asked repeats the work and raises the error there
        return []


def _answers(work: Work, images: Iterable[ImageLike], shared: mmap.mmap) -> Iterator[Answer | None]:
    start = 0
    for image in images:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            outcome = attempt(work.begin, image)
        # A warning of another library names a line of that library, for the user's filters: it is
        # repeated by opening the image in the user's process.
        foreign_warnings = any(warning.filename != _WORKER_CODE for warning in caught)
        if isinstance(outcome, ImageError) or foreign_warnings:
            yield None
            continue
        pixels, data = outcome
        warned = [(str(warning.message), warning.category) for warning in caught]
        if start + pixels.nbytes > MEMORY:
            yield pixels, data, warned
            continue
        np.frombuffer(shared, np.uint8, pixels.size, start)[:] = pixels.ravel()
        start += pixels.nbytes
        yield pixels.shape, data, warned
