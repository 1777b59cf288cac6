"""Atomic writing, used for all files: a reader sees the old content or the new one, never a part,
whatever happens to the process or the disk meanwhile."""

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
STALE = 3600.0  # seconds after which a temporary file belongs to no process any more
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # said of no file, where it is the writing
_IN_RUST = re.compile(r"(?:os error |Os \{ code: )(\d+)")  # in safetensors' error, no OSError

_cleared: set[Path] = set()  # folders where this process has deleted what others left


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new, empty file beside `path`, with its suffix, to be written; it is synced and renamed to
    `path` at the end, and deleted after any error.

    Folders that are missing are made. A link is followed; what is no ordinary file, such as
    /dev/stdout, is written itself. What a killed process left in the folder is deleted. Raises
    OSError, with the name of the file, where there is no room or no permission.
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
    mode = part.stat().st_mode  # as the user's umask gives it; safetensors makes a file of its own
    try:
        with explain_full_disk(place, str(path)):
            yield part
            with part.open("r+b") as file:  # Windows syncs only what is open for writing
                os.fsync(file.fileno())
            part.chmod(mode)
            part.replace(place)
    finally:  # after any error, and Ctrl-C, no part is left behind; renamed, there is none
        with suppress(OSError):
            part.unlink()


@contextmanager
def explain_full_disk(place: Path, name: str) -> Iterator[None]:
    """Context of writing a file at `place`: where there is no room, raises OSError with its name,
    whatever a library says of it in an error of its own."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM and not error.filename:
            error.filename = name
        raise
    except Exception as error:  # safetensors, OpenVINO and libtiff each have their own
        found = _IN_RUST.search(str(error))
        full = not shutil.disk_usage(place.parent).free
        if found or full:
            code = int(found[1]) if found else errno.ENOSPC
            raise OSError(code, os.strerror(code), name) from error
        raise


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it. Raises OSError, with its name, where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        error.filename = str(folder)
        error.strerror = f"this folder cannot be made ({error.strerror})"
        raise


def remove_stale(folder: str | os.PathLike[str], prefix: str = "") -> None:
    """Delete the temporary files in a folder that a killed process left, which nobody has written
    for an hour. prefix: of their names; "": all of it are such."""
    with suppress(OSError):  # somebody else may delete them too
        for entry in os.scandir(folder):
            if entry.name.startswith(prefix) and entry.stat().st_mtime < time.time() - STALE:
                os.unlink(entry.path)


def write(path: str | os.PathLike[str], content: str | bytes | Iterable[str]) -> Path:
    """Write a file: bytes, or text or pieces of it as UTF-8, in which the bytes of a name that is
    not Unicode are written out, as on the terminal. Returns its path; errors as in `replacing`."""
    with replacing(path) as part:
        if isinstance(content, bytes):
            part.write_bytes(content)
        else:
            with part.open("w", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines([content] if isinstance(content, str) else content)
    return Path(path)
