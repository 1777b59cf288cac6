"""The files in a tar: their offsets, and the errors of those that cannot be read.

A damaged or cut header is an error; `tarfile` takes it for the end of the tar. Tars that were
joined with `cat` are read to the end of the file.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, cast

from patchword.errors import RecipeError
from patchword.text.lines import GZIP

BLOCK = tarfile.BLOCKSIZE
KEPT_OPEN = 8  # tars that a worker process keeps open
CHUNK = 1 << 20  # bytes that are read at a time after the end of a tar


@dataclass(frozen=True)
class Member:
    """A file in a tar. Its content is the `size` bytes from `offset`."""

    name: str
    offset: int
    size: int
    fault: str = ""  # why it cannot be read


class DamagedError(Exception):
    """A tar that cannot be read to its end."""


class Tar:
    """A tar, plain or gzip. A gzip is decompressed once into a temporary file without a name, which
    is deleted when the last process that reads it ends. A pickled tar is opened again in the other
    process, once for all its members."""

    def __init__(self, path: Path) -> None:
        """Raises RecipeError for a file that cannot be read."""
        self.path = path
        self._decompressed: BinaryIO | None = None  # the content of a gzip
        self._listing: BinaryIO | None = None  # the open file while its members are listed
        try:
            with path.open("rb") as file:
                zipped = file.read(2) == GZIP
            if zipped:
                self._decompressed = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115  # stays open
                with gzip.open(path) as content:
                    shutil.copyfileobj(content, self._decompressed, CHUNK)
                self._decompressed.flush()
        except (OSError, EOFError, zlib.error) as error:
            raise RecipeError(f"{path}: cannot be read: {error}") from error

    def __reduce__(self) -> tuple[Callable[[Path], Tar], tuple[Path]]:
        return _open_tar, (self.path,)

    def read(self, member: Member) -> bytes:
        """The content of a file in it."""
        if self._decompressed is not None:
            return os.pread(self._decompressed.fileno(), member.size, member.offset)
        if self._listing is not None:
            self._listing.seek(member.offset)
            return self._listing.read(member.size)
        with self.path.open("rb") as file:
            file.seek(member.offset)
            return file.read(member.size)

    def members(self) -> Iterator[Member]:
        """Its members except folders, in order. Raises DamagedError for a damaged tar."""
        with self._open() as file:
            self._listing = file
            try:
                size = file.seek(0, os.SEEK_END)
                start = 0
                while start < size:
                    start = yield from _archive(file, start, size)
            finally:
                self._listing = None

    def _open(self) -> BinaryIO:
        if self._decompressed is None:
            return self.path.open("rb")
        return os.fdopen(os.dup(self._decompressed.fileno()), "rb")


@lru_cache(KEPT_OPEN)
def _open_tar(path: Path) -> Tar:
    return Tar(path)


def _archive(file: BinaryIO, start: int, size: int) -> Generator[Member, None, int]:
    """The members of the archive that begins at `start`. Returns the start of the next archive, or
    `size` without one."""
    members: dict[str, Member] = {}
    file.seek(start)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while info := tar.next():
                tar.members = []  # type: ignore[attr-defined]  # the library would keep them all
                if not info.isdir():
                    members[info.name] = _member(info, size, members)
                    yield members[info.name]
            end = tar.offset
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise DamagedError(str(error)) from error
    return _next_archive(file, end, size)


def _member(info: tarfile.TarInfo, size: int, earlier: Mapping[str, Member]) -> Member:
    """A member of a tar of `size` bytes. A hard link has the content of the earlier member that it
    links to."""
    if info.islnk() and info.linkname in earlier:
        return replace(earlier[info.linkname], name=info.name)
    fault = ""
    if info.issparse():
        fault = "is stored sparse; write the tar without --sparse"
    elif not info.isreg():
        fault = "is a link or no file; write the tar with --dereference, which stores content"
    elif info.offset_data + info.size > size:
        fault = "is cut off; the tar ends too early"
    return Member(info.name, info.offset_data, info.size, fault)


def _next_archive(file: BinaryIO, end: int, size: int) -> int:
    """The offset of the next archive, or `size` without one. The last one ends at `end`, where
    blocks of zeros follow. Raises DamagedError if they do not: a header is damaged or missing."""
    file.seek(end)
    first = file.read(BLOCK)
    if not first:
        raise DamagedError("no blocks of zeros mark its end, so that files may be missing")
    if first.strip(b"\0"):
        raise DamagedError(f"the header at byte {end:,} is damaged")
    position = end + len(first)
    while chunk := file.read(CHUNK):
        rest = chunk.lstrip(b"\0")
        if rest:
            return (position + len(chunk) - len(rest)) // BLOCK * BLOCK
        position += len(chunk)
    return size
