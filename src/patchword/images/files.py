"""Lists named files and the images in folders, with what tells whether a file has changed."""

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

# Pillow identifies these formats but cannot read them without another program. In a folder they are
# data, film, print or vector graphics, not photos.
_NOT_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}

# Folders that systems create beside a user's photos: thumbnails, snapshots and bins of Synology's
# and QNAP's drives, resource forks of macOS in zip files, bins of Windows. (.Trashes and .@__thumb
# are hidden anyway.)
LEFT_OUT = {
    "@eaDir", "#recycle", "#snapshot", "@tmp", "@Recycle", "@Recently-Snapshot", "__MACOSX",
    "$RECYCLE.BIN", "System Volume Information",
}  # fmt: skip

# Files that may contain images: tars and tables, which some commands read; archives, which none
# does. In a folder of photos a .csv or .tsv usually describes them: it is read only if it is named.
TARS = (".tar", ".tar.gz", ".tgz")
PARQUET = ".parquet"
TABLES = (PARQUET, ".csv", ".tsv")
_ARCHIVES = (".zip", ".7z", ".rar", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")

_VECTORS = ".npy of floats in two axes, maybe vectors (name the file to open it as an image)"

LAST_TIME = 2**63 - 1  # nanoseconds since 1970, in 2262

Skipped = Counter[str]  # by kind: how many files may be or contain photos and are not opened


class File(NamedTuple):
    """A file when it was listed: resolved path, bytes, modification time in nanoseconds, and the
    hash of its content if it is known."""

    path: str
    size: int
    mtime: int
    digest: str = ""


def modified(status: os.stat_result) -> int:
    """The modification time of a file in nanoseconds, as 64 bits hold it: of a time after 2262, as
    damaged disks and wrong clocks give, the last that they hold."""
    return max(-LAST_TIME, min(status.st_mtime_ns, LAST_TIME))


def several(paths: Path | Iterable[Path]) -> list[Path]:
    """One path or several as a list."""
    return [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)


def find(paths: Iterable[Path], failed: list[ImageError], but: Collection[str] = ()) -> list[File]:
    """The named files and the images in named folders, each once, sorted by path. Of a file with
    several pages each page is listed (see `pages`).

    A file that cannot be indexed and a folder that cannot be listed are added to `failed`. Skipped
    files give a SkippedFilesWarning, except those in `but`: real paths that the caller reads
    itself.
    """
    files: dict[str, File] = {}
    skipped: Skipped = Counter()
    folders: dict[str, str] = {}
    for path in paths:
        name = os.fspath(path)
        if urls.is_url(name):
            failed.append(ImageError(name, "a URL: download it, an index holds files"))
            continue
        if os.path.isdir(path):
            names = pictures_in(path, failed, skipped, but)
        else:
            names = pages.every(name)
        for name in names:
            real = _real(name, folders)
            if real in files:
                continue
            try:
                files[real] = _status(real)
            except ImageError as error:
                why = dangling(name)
                failed.append(ImageError(shown(name), why) if why else error)
    warn_of(skipped, (*TARS, PARQUET))
    return [files[name] for name in sorted(files, key=pages.order)]


def _real(path: str, folders: dict[str, str]) -> str:
    """The path of a file or a page, with links resolved. folders: a cache of resolved folders."""
    name, page = pages.split(path)
    folder, file = os.path.split(name)
    if file in ("", ".", "..") or os.path.islink(name):
        return pages.join(os.path.realpath(name), page)
    if folder not in folders:
        folders[folder] = os.path.realpath(folder)
    return pages.join(os.path.join(folders[folder], file), page)


def hashed(file: File) -> File:
    """`file` with the hash of its content. Without a hash if it cannot be read, or if its size or
    time has changed since it was listed: so a vector of the old content is never stored for the new
    content."""
    try:
        with open(pages.split(file.path)[0], "rb") as content:
            digest = hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=16))
            status = os.fstat(content.fileno())
    except OSError:
        return file._replace(digest="")
    unchanged = (status.st_size, modified(status)) == (file.size, file.mtime)
    return file._replace(digest=digest.hexdigest() if unchanged else "")


def is_tar(path: str) -> bool:
    """True for an existing file with the name of a tar."""
    return path.lower().endswith(TARS) and os.path.isfile(path)


def gone(path: str) -> bool:
    """True if the file, or the page in it, certainly does not exist. False if it cannot be
    reached."""
    name, page = pages.split(path)
    try:
        os.stat(name)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):  # ValueError: a name that the locale's encoding does not have
        return False
    return page is not None and pages.are_known(name) and path not in pages.every(name)


def picture_suffixes() -> set[str]:
    """The suffixes, in lower case with a dot, by which images in folders are recognised."""
    Image.init()
    formats = Image.registered_extensions().items()
    openable = (Image.OPEN.keys() | {"MPO"}) - _NOT_PICTURES  # an MPO is opened as a JPEG
    by_pillow = {suffix for suffix, name in formats if name in openable}
    by_kind = {suffix for suffix, kind in kinds.BY_SUFFIX.items() if kinds.opens(kind)}
    return (by_pillow - kinds.BY_SUFFIX.keys()) | by_kind


def pictures_in(
    folder: Path,
    failed: list[ImageError],
    skipped: Skipped | None = None,
    but: Collection[str] = (),
) -> list[str]:
    """The images in a folder at any depth, recognised by their suffix: paths below `folder` as it
    was given, sorted. Of a file with several pages each page is listed. All code that reads folders
    uses this function.

    Links are followed, each folder once. Hidden files and folders and those of `LEFT_OUT` are left
    out. Folders that cannot be listed are added to `failed`. Files that look like photos and cannot
    be opened, and files that may contain photos, are counted in `skipped`, except those in `but`
    (see `find`). If `skipped` is None, a SkippedFilesWarning reports the counts.
    """
    counts: Skipped = Counter() if skipped is None else skipped
    suffixes = picture_suffixes()
    paths: list[str] = []
    for path in _walk(os.fspath(folder), failed):
        suffix = os.path.splitext(path)[1].lower()
        if suffix in suffixes:
            paths.append(path)
        elif suffix in kinds.NPY.suffixes:
            if npy.is_picture(path):
                paths.append(path)
            else:
                counts[_VECTORS] += 1
        elif suffix in kinds.BY_SUFFIX:
            counts[kinds.counted_as(kinds.BY_SUFFIX[suffix])] += 1
        else:
            container = _container_suffix(path)
            if container and os.path.realpath(path) not in but:
                counts[container] += 1
    if skipped is None:
        warn_of(counts)
    return [page for path in sorted(paths) for page in pages.every(path)]


def warn_of(skipped: Skipped, named: Collection[str] = ()) -> None:
    """Report how many files were skipped, by kind: one SkippedFilesWarning for files that look like
    photos, and one for files that may contain photos. named: suffixes of files that the caller
    reads if they are named. Parquet files are not reported unless they are among these."""
    containers = {kind for kind in skipped if kind in (*TARS, *_ARCHIVES, PARQUET)}
    photo_counts = _counts(skipped, skipped.keys() - containers)
    if photo_counts:
        warn(
            f"files that look like photos and cannot be opened: {photo_counts}",
            SkippedFilesWarning,
        )
    unreported = set() if PARQUET in named else {PARQUET}
    container_counts = _counts(skipped, containers - unreported)
    if container_counts:
        to_name = sorted(containers.intersection(named))
        advice = []
        if to_name:
            advice.append(f"name a {' or '.join(to_name)} itself")
        if containers.difference(to_name):
            advice.append("unpack the others" if to_name else "unpack them")
        warn(
            f"files that were not looked into for images: {container_counts}; {', '.join(advice)}",
            SkippedFilesWarning,
        )


def _counts(skipped: Skipped, chosen: Collection[str]) -> str:
    return ", ".join(f"{skipped[kind]} {kind}" for kind in sorted(chosen))


def _container_suffix(path: str) -> str | None:
    """The suffix of a file that may contain images; None for any other file."""
    for suffix in (*TARS, PARQUET, *_ARCHIVES):
        if path.lower().endswith(suffix):
            return suffix
    return None


def _walk(folder: str, failed: list[ImageError]) -> Iterator[str]:
    """The files below a folder, without hidden ones and those of `LEFT_OUT`."""
    seen: set[str] = set()
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        real = os.path.realpath(current)
        if real in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(current) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or entry.name in LEFT_OUT:
                        continue
                    if _is_folder(entry):
                        waiting.append(entry.path)
                    else:
                        yield entry.path
        except OSError as error:
            failed.append(ImageError(shown(current), f"cannot be listed: {error.strerror}"))


def left_out(name: str) -> bool:
    """True for a file that is not one of the user's photos, by its path in a folder, a tar or a
    bucket: hidden, as ._photo.jpg of macOS, or in a folder of `LEFT_OUT`."""
    parts = [part for part in name.split("/") if part not in (".", "..")]
    return any(part.startswith(".") or part in LEFT_OUT for part in parts)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _status(path: str) -> File:
    """Size and time of a file, or of the file of a page. Raises ImageError for one that cannot be
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
    return File(path, status.st_size, modified(status))


def shown(path: str) -> str:
    """A path in printable form: bytes that are not Unicode as escapes."""
    return path.encode("utf-8", "backslashreplace").decode()
