"""Lists the files that are named and the images in folders, and finds those that have changed."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from PIL import Image

from patchword.errors import ImageError, SkippedFilesWarning, warn
from patchword.images import kinds, npy, pages, urls
from patchword.images.broken_links import dangling

Path = str | os.PathLike[str]

UNPRINTABLE = "its name is not valid Unicode; rename it"

# Pillow knows these by their header alone and never reads them by itself. In a folder they are
# data, film, print or vector graphics rather than photos that cannot be read.
_NOT_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}

# Folders without photos of a person's own: thumbnails, snapshots and bins of Synology's and QNAP's
# drives, resource forks of macOS in zip files, and bins of Windows. (.Trashes and .@__thumb are
# hidden.)
LEFT_OUT = {
    "@eaDir", "#recycle", "#snapshot", "@tmp", "@Recycle", "@Recently-Snapshot", "__MACOSX",
    "$RECYCLE.BIN", "System Volume Information",
}  # fmt: skip

# Files that may hold images: tars and tables, which some commands read; archives, which none do. In
# a folder of photos a .csv or .tsv describes them: it is looked into only where it is named itself.
TARS = (".tar", ".tar.gz", ".tgz")
PARQUET = ".parquet"
TABLES = (PARQUET, ".csv", ".tsv")
_ARCHIVES = (".zip", ".7z", ".rar", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")

_VECTORS = ".npy of floats in two axes, maybe vectors (name the file to open it as an image)"

Skipped = Counter[str]  # how many files may be or hold photos and are not opened, by kind


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


def find(paths: Iterable[Path], failed: list[ImageError], but: Collection[str] = ()) -> list[File]:
    """The files named and the pictures in the folders named, each once, by path; of files with
    several pages each page, see `pages`.

    What cannot be indexed or listed is added to `failed`; what is skipped gives a
    SkippedFilesWarning, unless it is among `but`: real paths of what is read by itself.
    """
    found: dict[str, File] = {}
    skipped: Skipped = Counter()
    folders: dict[str, str] = {}
    for path in paths:
        name = os.fspath(path)
        if urls.is_url(name):
            failed.append(ImageError(name, "a URL: download it, an index holds files"))
            continue
        is_folder = os.path.isdir(path)
        inside = pictures_in(path, failed, skipped, but) if is_folder else pages.every(name)
        for name in inside:
            real = _real(name, folders)
            if real in found:
                continue
            try:
                found[real] = _status(real)
            except ImageError as error:
                why = dangling(name)
                failed.append(ImageError(shown(name), why) if why else error)
    warn_of(skipped, (*TARS, PARQUET))
    return [found[name] for name in sorted(found, key=pages.order)]


def _real(path: str, folders: dict[str, str]) -> str:
    """The path with links resolved; of a page that of its file. folders: those resolved so far."""
    name, page = pages.split(path)
    folder, file = os.path.split(name)
    if file in ("", ".", "..") or os.path.islink(name):
        return pages.join(os.path.realpath(name), page)
    if folder not in folders:
        folders[folder] = os.path.realpath(folder)
    return pages.join(os.path.join(folders[folder], file), page)


def hashed(file: File) -> File:
    """`file` with the hash of its content; with none where it cannot be read, or where its size or
    time has changed since, so that a vector of the old content is never kept for the new one."""
    try:
        with open(pages.split(file.path)[0], "rb") as content:
            digest = hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=16))
            status = os.fstat(content.fileno())
    except OSError:
        return file._replace(digest="")
    same = (status.st_size, status.st_mtime_ns) == (file.size, file.mtime)
    return file._replace(digest=digest.hexdigest() if same else "")


def is_tar(path: str) -> bool:
    """Whether a file is a tar, by its name."""
    return path.lower().endswith(TARS) and os.path.isfile(path)


def gone(path: str) -> bool:
    """Whether there is certainly no such file, or no such page of it; one that cannot be reached
    is not gone."""
    name, page = pages.split(path)
    try:
        os.stat(name)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):  # a name that the locale's encoding does not have
        return False
    return page is not None and path not in pages.every(name)


def picture_suffixes() -> set[str]:
    """The suffixes, lower case with their dot, by which pictures in folders are recognised."""
    Image.init()
    formats = Image.registered_extensions().items()
    openable = (Image.OPEN.keys() | {"MPO"}) - _NOT_PICTURES  # an MPO is opened as a JPEG
    by_pillow = {s for s, name in formats if name in openable}
    opened = {s for s, kind in kinds.BY_SUFFIX.items() if kinds.opens(kind)}
    return (by_pillow - kinds.BY_SUFFIX.keys()) | opened


def pictures_in(
    folder: Path,
    failed: list[ImageError],
    skipped: Skipped | None = None,
    but: Collection[str] = (),
) -> list[str]:
    """The images below a folder, at any depth, by their suffix: their paths as the folder's was
    given, sorted; of a file with several pages each page. The one way in which folders are read.

    Links are followed, each folder once. Hidden files and folders are left out, and what file
    managers and network drives leave beside photos (`LEFT_OUT`). Folders that cannot be listed are
    added to `failed`. Files that look like photos and are not opened, and files that may hold
    photos, are counted in `skipped`, but for those of `but`, see `find`; for None a
    SkippedFilesWarning says how many.
    """
    counted: Skipped = Counter() if skipped is None else skipped
    suffixes = picture_suffixes()
    found: list[str] = []
    for path in _walked(os.fspath(folder), failed):
        suffix = os.path.splitext(path)[1].lower()
        if suffix in suffixes or (suffix in kinds.NPY.suffixes and npy.is_picture(path)):
            found.append(path)
        elif suffix in kinds.NPY.suffixes:
            counted[_VECTORS] += 1
        elif kind := kinds.BY_SUFFIX.get(suffix):
            counted[kinds.counted_as(kind)] += 1
        elif (holder := _holder(path)) and os.path.realpath(path) not in but:
            counted[holder] += 1
    if skipped is None:
        warn_of(counted)
    return [page for path in sorted(found) for page in pages.every(path)]


def warn_of(skipped: Skipped, named: Collection[str] = ()) -> None:
    """Say how many files were skipped, by kind, in a SkippedFilesWarning of those that look like
    photos, and one of those that may hold photos. named: the suffixes of those that are read where
    they are named themselves; a table among the others is nothing to speak of."""
    holders = {kind for kind in skipped if kind in (*TARS, *_ARCHIVES, PARQUET)}
    if photos := _counts(skipped, skipped.keys() - holders):
        message = f"files that look like photos and cannot be opened: {photos}"
        warn(message, SkippedFilesWarning)
    if counts := _counts(skipped, holders - ({PARQUET} - {*named})):
        itself = sorted(holders.intersection(named))
        advice = [f"name a {' or '.join(itself)} itself"] * bool(itself)
        advice += ["unpack the others" if itself else "unpack them"] * bool(holders - {*itself})
        message = f"files that were not looked into for images: {counts}; {', '.join(advice)}"
        warn(message, SkippedFilesWarning)


def _counts(skipped: Skipped, chosen: Collection[str]) -> str:
    return ", ".join(f"{skipped[kind]} {kind}" for kind in sorted(chosen))


def _holder(path: str) -> str | None:
    """The suffix of a file that may hold images; None for any other."""
    name = path.lower()
    return next((end for end in (*TARS, PARQUET, *_ARCHIVES) if name.endswith(end)), None)


def _walked(folder: str, failed: list[ImageError]) -> Iterator[str]:
    """Every file below a folder that may be a photo, whatever its suffix."""
    seen: set[str] = set()
    waiting = [folder]
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
                    else:
                        yield entry.path
        except OSError as error:
            failed.append(ImageError(shown(place), f"cannot be listed: {error.strerror}"))


def left_out(name: str) -> bool:
    """Whether a file by its path within a folder, a tar or a bucket is none of a person's photos:
    hidden, as ._photo.jpg of macOS, or in a folder of `LEFT_OUT`."""
    parts = [part for part in name.split("/") if part not in (".", "..")]
    return any(part.startswith(".") or part in LEFT_OUT for part in parts)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _status(path: str) -> File:
    """Size and time of a file, of a page those of its file. Raises ImageError for what cannot be
    indexed."""
    if shown(path) != path:
        raise ImageError(shown(path), UNPRINTABLE)
    try:
        status = os.stat(pages.split(path)[0])
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
