"""The files in a tar: their offsets, and the errors of those that cannot be read.

Stricter than `tarfile`, which takes a damaged or cut header for the end: here it is an error. What
follows the end of a tar is read too: tars may be joined by `cat`.
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
KEPT_OPEN = 8  # tars that were sent to a process
CHUNK = 1 << 20  # bytes read at a time after the end


@dataclass(frozen=True)
class Member:
    """A file in a tar: its content is `size` bytes from `offset`."""

    name: str
    offset: int
    size: int
    fault: str = ""  # why it cannot be read


class DamagedError(Exception):
    """A tar that cannot be read to its end."""


class Tar:
    """A tar, plain or gzip. A gzip is decompressed once into a temporary file without a name,
    which is deleted when the last process that reads it ends. One that is sent to another process
    is opened there, once for all its members."""

    def __init__(self, path: Path) -> None:
        """Raises RecipeError for a file that cannot be read."""
        self.path = path
        self._plain: BinaryIO | None = None  # the decompressed content
        self._walked: BinaryIO | None = None  # open while its members are listed
        try:
            with path.open("rb") as file:
                zipped = file.read(2) == GZIP
            if zipped:
                self._plain = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115  # kept
                with gzip.open(path) as content:
                    shutil.copyfileobj(content, self._plain, CHUNK)
                self._plain.flush()
        except (OSError, EOFError, zlib.error) as error:
            raise RecipeError(f"{path}: cannot be read: {error}") from error

    def __reduce__(self) -> tuple[Callable[[Path], Tar], tuple[Path]]:
        return _tar, (self.path,)

    def read(self, member: Member) -> bytes:
        """The content of a file in it."""
        if self._plain is not None:
            return os.pread(self._plain.fileno(), member.size, member.offset)
        if self._walked is not None:
            self._walked.seek(member.offset)
            return self._walked.read(member.size)
        with self.path.open("rb") as file:
            file.seek(member.offset)
            return file.read(member.size)

    def members(self) -> Iterator[Member]:
        """Its members except folders, in order. Raises DamagedError where it is damaged."""
        with self._opened() as file:
            self._walked = file
            try:
                size, at = file.seek(0, os.SEEK_END), 0
                while at < size:
                    at = yield from _archive(file, at, size)
            finally:
                self._walked = None

    def _opened(self) -> BinaryIO:
        if self._plain is None:
            return self.path.open("rb")
        return os.fdopen(os.dup(self._plain.fileno()), "rb")


@lru_cache(KEPT_OPEN)
def _tar(path: Path) -> Tar:
    return Tar(path)


def _archive(file: BinaryIO, at: int, size: int) -> Generator[Member, None, int]:
    """The members of the archive that begins there; returns where the next one does, or `size`."""
    known: dict[str, Member] = {}
    file.seek(at)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while info := tar.next():
                tar.members = []  # type: ignore[attr-defined]  # the library would keep them all
                if not info.isdir():
                    member = known[info.name] = _member(info, size, known)
                    yield member
            end = tar.offset
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise DamagedError(str(error)) from error
    return _next_archive(file, end, size)


def _member(info: tarfile.TarInfo, size: int, known: Mapping[str, Member]) -> Member:
    """A member of a tar of that size; for a hard link, the one that it links to."""
    if info.islnk() and info.linkname in known:
        return replace(known[info.linkname], name=info.name)
    fault = ""
    if info.issparse():
        fault = "is stored sparse; write the tar without --sparse"
    elif not info.isreg():
        fault = "is a link or no file; write the tar with --dereference, which stores content"
    elif info.offset_data + info.size > size:
        fault = "is cut off; the tar ends too early"
    return Member(info.name, info.offset_data, info.size, fault)


def _next_archive(file: BinaryIO, end: int, size: int) -> int:
    """The offset of the next archive after one that ends at `end` in blocks of zeros; `size` for
    none. Raises DamagedError where there is no such block: a header there is damaged or missing.
    """
    file.seek(end)
    first = file.read(BLOCK)
    if not first:
        raise DamagedError("no blocks of zeros mark its end, so that files may be missing")
    if first.strip(b"\0"):
        raise DamagedError(f"the header at byte {end:,} is damaged")
    at = end + len(first)
    while chunk := file.read(CHUNK):
        if rest := chunk.lstrip(b"\0"):
            return (at + len(chunk) - len(rest)) // BLOCK * BLOCK
        at += len(chunk)
    return size
