"""Atomic writing, used for all files: a reader sees the old or the new content and never a part of
it, even if the process is killed or the disk is full."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PART = ".part"  # in the name of a file that is being written
STALE = 3600.0  # age in seconds of a temporary file whose process must have ended
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # errors of writing, without a file's name
_RUST_ERROR = re.compile(r"(?:os error |Os \{ code: )(\d+)")  # in messages of safetensors

_cleared: set[Path] = set()  # folders in which this process has deleted stale files


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new, empty file in the folder of `path`, with its suffix. The caller writes it; at the end
    it is synced and renamed to `path`. After an error it is deleted.

    Missing folders are created. A link is followed. A path that is not a regular file, such as
    /dev/stdout, is written directly. Stale temporary files in the folder are deleted. Raises
    OSError with the name of the file if there is no space or no permission.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe has no real path
        yield Path(path)
        return
    place = Path(os.path.realpath(path))
    make_folder(place.parent)
    if place.parent not in _cleared:
        _cleared.add(place.parent)
        remove_stale(place.parent, f"{PART}-")
    part = place.with_name(f"{PART}-{secrets.token_hex(8)}{place.suffix[:20]}")
    try:
        part.touch(exist_ok=False)
    except OSError as error:
        error.filename = str(path)
        error.strerror = f"nothing can be written in its folder ({error.strerror})"
        raise
    mode = part.stat().st_mode  # by the user's umask; safetensors replaces the file
    try:
        with explain_full_disk(place, str(path)):
            yield part
            with part.open("r+b") as file:  # Windows syncs only files that are open for writing
                os.fsync(file.fileno())
            part.chmod(mode)
            part.replace(place)
    finally:  # after an error or Ctrl-C; after success the file is already renamed
        with suppress(OSError):
            part.unlink()


@contextmanager
def explain_full_disk(place: Path, name: str) -> Iterator[None]:
    """A context for writing a file at `place`. If the disk is full, it raises OSError with the
    file's name, whatever error a library raises."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM and not error.filename:
            error.filename = name
        raise
    except Exception as error:  # safetensors, OpenVINO and libtiff have their own errors
        rust_error = _RUST_ERROR.search(str(error))
        if rust_error:
            code = int(rust_error[1])
        elif not shutil.disk_usage(place.parent).free:
            code = errno.ENOSPC
        else:
            raise
        raise OSError(code, os.strerror(code), name) from error


def make_folder(folder: Path) -> None:
    """Create a folder and its parents. Raises OSError with its name if that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        error.filename = str(folder)
        error.strerror = f"this folder cannot be made ({error.strerror})"
        raise


def remove_stale(folder: str | os.PathLike[str], prefix: str = "") -> None:
    """Delete temporary files in a folder that were not written for an hour: their process was
    killed. prefix: of their names; "": all files in the folder are temporary."""
    with suppress(OSError):  # another process may delete them too
        for entry in os.scandir(folder):
            if entry.name.startswith(prefix) and entry.stat().st_mtime < time.time() - STALE:
                os.unlink(entry.path)


def write(path: str | os.PathLike[str], content: str | bytes | Iterable[str]) -> Path:
    """Write a file atomically and return its path. content: bytes, a text, or parts of a text, in
    UTF-8; bytes of a name that is not Unicode are escaped. Raises the errors of `replacing`."""
    with replacing(path) as part:
        if isinstance(content, bytes):
            part.write_bytes(content)
        else:
            with part.open("w", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines([content] if isinstance(content, str) else content)
    return Path(path)
