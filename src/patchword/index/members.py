"""Images inside other files: "photos.tar/cat.jpg", a member of a tar, and "shop.parquet#17", the
image in the 17th row of a table."""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from itertools import accumulate
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

PLACES = (*IMAGES, "image_url", "img_url", "url", "uri")  # names of columns of images, best first
KEPT_OPEN = 8  # tables, and tars, that stay open in a process

Read = Callable[[], bytes]

_IN_TAR = re.compile(r"(.+?\.(?:tar|tar\.gz|tgz))/(.+)", re.IGNORECASE | re.DOTALL)
_IN_TABLE = re.compile(r"(.+\.parquet)#([1-9]\d*)", re.IGNORECASE | re.DOTALL)


def is_table(path: str) -> bool:
    """Whether a file is a table, by its name."""
    return suffix_of(path) in TABLES and os.path.isfile(path)


def split(path: str) -> tuple[str, str] | None:
    """("photos.tar", "cat.jpg") or ("shop.parquet", "17") for a path of an image inside another
    file; None for any other path."""
    for pattern in (_IN_TAR, _IN_TABLE):
        match = pattern.fullmatch(path)
        if match and not os.path.isdir(match[1]) and not os.path.lexists(path):
            return match[1], match[2]
    return None


def is_address(path: str) -> bool:
    """Whether a path is an address, on the web or in object storage."""
    return urls.is_url(path) or object_storage.is_object(path)


def gone(path: str) -> bool:
    """Whether a file certainly does not exist; of an image inside a tar or table, whether that file
    does not exist. An address, on the web or in object storage, is never gone."""
    if is_address(path):
        return False
    parts = split(path)
    return files.gone(parts[0] if parts else path)


def content(path: str) -> ImageLike:
    """What `images.open` takes for a path of an index: the path itself, or the bytes of an image
    inside another file or in object storage. Raises ImageError where these cannot be read."""
    if object_storage.is_object(path):
        return object_storage.read(path)
    parts = split(path)
    if parts is None:
        return path
    container, name = parts
    try:
        if container.lower().endswith(".parquet"):
            return TableImages(container).read(int(name) - 1)
        status = os.stat(container)
        tar, members_by_name, damage = _tar(container, status.st_size, status.st_mtime_ns)
        member = members_by_name.get(name)
        if member and not member.fault:
            return tar.read(member)
        if member:
            raise PatchwordError(member.fault)
        if damage:
            raise PatchwordError(damage)
    except (PatchwordError, IndexError, OSError, ValueError) as error:
        raise ImageError(path, f"cannot be read: {error}") from error
    raise ImageError(path, "not in the tar any more")


def content_or_path(path: str) -> ImageLike:
    """`content`, or the path where that fails: opening it raises the error."""
    try:
        return content(path)
    except ImageError:
        return path


class Inside(Opener):
    """An opener of paths of an index, also of images inside other files."""

    def sized(self, image: ImageLike, *, at_least: int | None = None, exact: bool = False) -> Photo:
        if not isinstance(image, str):
            return super().sized(image, at_least=at_least, exact=exact)
        source = content(image)
        if isinstance(source, bytes):
            source = Content(image, source)
        return super().sized(source, at_least=at_least, exact=exact)


def members(tar: Tar) -> Iterator[Member]:
    """The files in a tar. Raises PatchwordError for a damaged one, after the files before the
    damage."""
    try:
        yield from tar.members()
    except DamagedError as error:
        raise PatchwordError(f"{tar.path}: damaged: {error}; what stands before is read") from error


class TableImages:
    """The bytes of images in a column of a parquet file, read one row group at a time. A pickled
    copy opens the file again, once in each process."""

    def __init__(self, path: str) -> None:
        import pyarrow.parquet as pq  # type: ignore[import-untyped]

        self._path = path
        self._file = pq.ParquetFile(path)
        columns = usual_columns(self._file.schema_arrow.names, PLACES)
        if not columns:
            raise PatchwordError(f"{path}: no column of images")
        self._column = columns[0]
        groups = range(self._file.num_row_groups)
        sizes = [self._file.metadata.row_group(group).num_rows for group in groups]
        self._ends = list(accumulate(sizes))  # the row after each row group
        self._lock = Lock()
        self._cached: tuple[int, Any] = (-1, None)  # a row group, and its cells

    def __reduce__(self) -> tuple[Callable[[str], TableImages], tuple[str]]:
        return _table, (self._path,)

    def read(self, row: int) -> bytes:
        """The bytes in a row, counted from 0; b"" for an empty cell. Raises IndexError where there
        is no such row, and ImageError for a cell of another type."""
        group = bisect_right(self._ends, row)
        if group == len(self._ends):
            raise IndexError(f"no row {row + 1}")
        with self._lock:
            if self._cached[0] != group:
                table = self._file.read_row_group(group, columns=[self._column])
                self._cached = group, table.column(0)
            start = self._ends[group - 1] if group else 0
            value = self._cached[1][row - start].as_py()
        content = value.get("bytes") if isinstance(value, Mapping) else value
        if not isinstance(content, (bytes, NoneType)):
            kind = type(content).__name__
            reason = f"its cell of {self._column!r} holds neither an image nor a path, but a {kind}"
            raise ImageError(f"{self._path}#{row + 1}", reason)
        return content or b""


@lru_cache(KEPT_OPEN)
def _table(path: str) -> TableImages:
    return TableImages(path)


@lru_cache(KEPT_OPEN)
def _tar(path: str, size: int, mtime: int) -> tuple[Tar, dict[str, Member], str]:
    """A tar, its files by name (the last of several with one name counts, as for `tar` itself), and
    its damage, "" for none. size and mtime: a changed file is listed again."""
    tar = Tar(Path(path))
    by_name: dict[str, Member] = {}
    damage = ""
    try:
        for member in members(tar):
            by_name[member.name] = member
    except PatchwordError as error:
        damage = str(error)
    return tar, by_name, damage
