"""Which files are meant: those named, and the images in folders; and which have changed."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from typing import NamedTuple

from PIL import Image

from patchword.errors import ImageError

Path = str | os.PathLike[str]

UNPRINTABLE = "its name is not valid Unicode; rename it"

# Pillow knows these by their header alone and never reads them by itself. In a folder they are
# data, film, print or vector graphics rather than photos that cannot be read.
_NOT_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}

# Folders that are no one's photos: thumbnails of Synology's drives, resource forks of macOS in zip
# files, and bins.
LEFT_OUT = {"@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN", "System Volume Information"}


class File(NamedTuple):
    """A file as it was found: resolved path, bytes, modification time in nanoseconds, and the hash
    of its content where that is known."""

    path: str
    size: int
    mtime: int
    digest: str = ""


def several(paths: Path | Iterable[Path]) -> list[Path]:
    """One path or many as a list."""
    return [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)


def find(paths: Iterable[Path], failed: list[ImageError]) -> list[File]:
    """The files named and the pictures in the folders named, each once, by path.

    What cannot be indexed or listed is added to `failed`.
    """
    found: dict[str, File] = {}
    for path in paths:
        inside = pictures_in(path, failed) if os.path.isdir(path) else [os.fspath(path)]
        for name in map(os.path.realpath, inside):
            if name in found:
                continue
            try:
                found[name] = _status(name)
            except ImageError as error:
                failed.append(error)
    return [found[name] for name in sorted(found)]


def hashed(file: File) -> File:
    """`file` with the hash of its content; with none where it cannot be read or is no longer of
    that size and time, so that what was read before cannot be taken for what is there now."""
    try:
        with open(file.path, "rb") as content:
            digest = hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=16))
            status = os.fstat(content.fileno())
    except OSError:
        return file._replace(digest="")
    same = (status.st_size, status.st_mtime_ns) == (file.size, file.mtime)
    return file._replace(digest=digest.hexdigest() if same else "")


def gone(path: str) -> bool:
    """Whether there is certainly no such file; one that cannot be reached is not gone."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def picture_suffixes() -> set[str]:
    """The suffixes, lower case with their dot, by which a picture in a folder is known."""
    Image.init()
    formats = Image.registered_extensions().items()
    return {s for s, name in formats if name in Image.OPEN and name not in _NOT_PICTURES}


def pictures_in(folder: Path, failed: list[ImageError]) -> list[str]:
    """The images below a folder, at any depth, by their suffix: their paths as the folder's was
    given, sorted. The one way in which folders are read.

    Links are followed, each folder once. Hidden files and folders are left out, and what file
    managers and network drives leave beside photos (`LEFT_OUT`). Folders that cannot be listed are
    added to `failed`.
    """
    suffixes = picture_suffixes()
    found: list[str] = []
    seen: set[str] = set()
    waiting = [os.fspath(folder)]
    while waiting:
        place = waiting.pop()
        here = os.path.realpath(place)
        if here in seen:
            continue
        seen.add(here)
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or entry.name in LEFT_OUT:
                        continue
                    if _is_folder(entry):
                        waiting.append(entry.path)
                    elif os.path.splitext(entry.name)[1].lower() in suffixes:
                        found.append(entry.path)
        except OSError as error:
            failed.append(ImageError(shown(place), f"cannot be listed: {error.strerror}"))
    return sorted(found)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _status(path: str) -> File:
    """Size and time of a file. Raises ImageError for what cannot be indexed."""
    if shown(path) != path:
        raise ImageError(shown(path), UNPRINTABLE)
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise ImageError(path, "no such file") from None
    except OSError as error:
        raise ImageError(path, f"cannot be opened: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(path, "not a regular file")
    return File(path, status.st_size, status.st_mtime_ns)


def shown(path: str) -> str:
    """A path as it can be printed: bytes that are not Unicode as escapes."""
    return path.encode("utf-8", "backslashreplace").decode()
