"""Images inside other files: "photos.tar/cat.jpg", a member of a tar, and "shop.parquet#17", the
image in the 17th row of a table."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from threading import Lock
from types import NoneType
from typing import Any

from patchword.data.rows import IMAGES, suffix_of, usual_columns
from patchword.data.tar_files import DamagedError, Member, Tar
from patchword.errors import ImageError, PatchwordError
from patchword.images import ImageLike, Opener, files, urls
from patchword.images.files import TABLES
from patchword.images.photo import Photo
from patchword.images.reading import Content
from patchword.index import object_storage

PLACES = (*IMAGES, "image_url", "img_url", "url", "uri")  # columns of images, in this order
KEPT_OPEN = 8  # tables that were sent to a process

Read = Callable[[], bytes]

_IN_TAR = re.compile(r"(.+?\.(?:tar|tar\.gz|tgz))/(.+)", re.IGNORECASE | re.DOTALL)
_IN_TABLE = re.compile(r"(.+\.parquet)#(\d+)", re.IGNORECASE | re.DOTALL)


def is_table(path: str) -> bool:
    """Whether a file is a table, by its name."""
    return suffix_of(path) in TABLES and os.path.isfile(path)


def split(path: str) -> tuple[str, str] | None:
    """The tar and its member, or the table and its row, that a path stands for; else None."""
    for pattern in (_IN_TAR, _IN_TABLE):
        found = pattern.fullmatch(path)
        if found and not os.path.isdir(found[1]) and not os.path.lexists(path):
            return found[1], found[2]
    return None


def is_address(path: str) -> bool:
    """Whether a path is an address, on the web or in object storage."""
    return urls.is_url(path) or object_storage.is_object(path)


def gone(path: str) -> bool:
    """Whether there is certainly no such file, of what is inside a file no such file around it. An
    address, on the web or in object storage, is never gone."""
    if is_address(path):
        return False
    parts = split(path)
    return files.gone(parts[0] if parts else path)


def content(path: str) -> ImageLike:
    """What `images.open` takes for a path of an index: the path itself, or the bytes of what is
    inside another file or in object storage. Raises ImageError where it is not there any more."""
    if object_storage.is_object(path):
        return object_storage.read(path)
    parts = split(path)
    if parts is None:
        return path
    place, name = parts
    try:
        if place.lower().endswith(".parquet"):
            return TableImages(place).read(int(name) - 1)
        status = os.stat(place)
        tar, held, damage = _tar(place, status.st_size, status.st_mtime_ns)
        member = held.get(name)
        if member and not member.fault:
            return tar.read(member)
        if member or damage:
            raise PatchwordError(member.fault if member else damage)
    except (PatchwordError, IndexError, OSError, ValueError) as error:
        raise ImageError(path, f"cannot be read: {error}") from error
    raise ImageError(path, "not in the tar any more")


def content_or_path(path: str) -> ImageLike:
    """The same; of what is not there any more the path, so that opening it raises the error."""
    try:
        return content(path)
    except ImageError:
        return path


class Inside(Opener):
    """An opener of paths of an index, also of images inside other files."""

    def sized(self, image: ImageLike, *, at_least: int | None = None, exact: bool = False) -> Photo:
        if not isinstance(image, str):
            return super().sized(image, at_least=at_least, exact=exact)
        given = content(image)
        if isinstance(given, bytes):
            given = Content(image, given)
        return super().sized(given, at_least=at_least, exact=exact)


def members(tar: Tar) -> Iterator[Member]:
    """The files in a tar, those before any damage. Raises PatchwordError behind the last where
    there is damage."""
    try:
        yield from tar.members()
    except DamagedError as error:
        raise PatchwordError(f"{tar.path}: damaged: {error}; what stands before is read") from error


class TableImages:
    """The bytes of images in a column of a parquet file, read a row group at a time. One that is
    sent to another process opens the file there, once for all its rows."""

    def __init__(self, path: str) -> None:
        import pyarrow.parquet as pq  # type: ignore[import-untyped]

        self._path = path
        self._file = pq.ParquetFile(path)
        columns = usual_columns(self._file.schema_arrow.names, PLACES)
        if not columns:
            raise PatchwordError(f"{path}: no column of images")
        self._column = columns[0]
        self._ends: list[int] = []
        for number in range(self._file.num_row_groups):
            rows = self._file.metadata.row_group(number).num_rows
            self._ends.append(rows + (self._ends[-1] if self._ends else 0))
        self._lock = Lock()
        self._held: tuple[int, Any] = (-1, None)

    def __reduce__(self) -> tuple[Callable[[str], TableImages], tuple[str]]:
        return _table, (self._path,)

    def read(self, row: int) -> bytes:
        """The bytes in a row, from 0; none for an empty cell. Raises ImageError for any other."""
        group = next((n for n, end in enumerate(self._ends) if row < end), None)
        if group is None:
            raise IndexError(f"no row {row + 1}")
        with self._lock:
            if self._held[0] != group:
                table = self._file.read_row_group(group, columns=[self._column])
                self._held = group, table.column(0)
            start = self._ends[group - 1] if group else 0
            value = self._held[1][row - start].as_py()
        found = value.get("bytes") if isinstance(value, Mapping) else value
        if not isinstance(found, (bytes, NoneType)):
            kind = type(found).__name__
            said = f"its cell of {self._column!r} holds neither an image nor a path, but a {kind}"
            raise ImageError(f"{self._path}#{row + 1}", said)
        return found or b""


@lru_cache(KEPT_OPEN)
def _table(path: str) -> TableImages:
    return TableImages(path)


@lru_cache(KEPT_OPEN)
def _tar(path: str, size: int, mtime: int) -> tuple[Tar, dict[str, Member], str]:
    """A tar of that size and time, its files by name, of several of one name the last, as `tar`
    itself has them, and what is damaged in it."""
    tar = Tar(Path(path))
    held: dict[str, Member] = {}
    try:
        for member in members(tar):
            held[member.name] = member
    except PatchwordError as error:
        return tar, held, str(error)
    return tar, held, ""
