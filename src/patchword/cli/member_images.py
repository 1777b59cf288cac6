"""Images that have no file of their own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import cache
from threading import Lock

_LOCK = Lock()  # several threads open images and write into one folder


class UnpackedImage(os.PathLike[str]):
    """An image in a tar or in standard input. When it is opened, it is written to a temporary
    folder, which is deleted when the program ends."""

    def __init__(self, name: str, read: Callable[[], bytes]) -> None:
        self.name = name
        self._read = read
        self._path = ""

    def __str__(self) -> str:
        return self.name

    def __fspath__(self) -> str:
        with _LOCK:
            if not self._path:
                suffix = os.path.splitext(self.name)[1]
                handle, self._path = tempfile.mkstemp(suffix, dir=_temporary_folder().name)
                with open(handle, "wb") as file:
                    file.write(self._read())
        return self._path


Source = str | UnpackedImage  # an image, as tasks and `images.open` take it; str() is its name


@cache
def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="patchword-")
