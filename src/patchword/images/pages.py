"""Files with several images: "stack.tif#3" is the third page of stack.tif.

Pages are the pages of a TIFF (without reduced copies and masks), the images in an .npy file of
several, and the frames of a DICOM file. A frame of an animation can be named in the same way, but
without a number an animation is one image: its first frame.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache

from patchword.images import dicom, npy, tiff

_PAGE = re.compile(r"(.+)#(\d+)\Z", re.DOTALL)
_READERS = {
    ".tif": tiff.pages,
    ".tiff": tiff.pages,
    ".npy": npy.pages,
    ".dcm": dicom.pages,
    ".dicom": dicom.pages,
}


def split(path: str) -> tuple[str, int | None]:
    """ "stack.tif#3" -> ("stack.tif", 3). The page is None if there is a file with the full
    name."""
    match = _PAGE.match(path) if "#" in path else None
    if match is None or os.path.lexists(path):
        return path, None
    return match[1], int(match[2])


def join(path: str, page: int | None) -> str:
    """The inverse of `split`."""
    return path if page is None else f"{path}#{page}"


def are_known(path: str) -> bool:
    """Whether `every` knows the pages of files with this suffix: not of animations."""
    return _suffix(path) in _READERS


def every(path: str) -> list[str]:
    """The names of a file's pages; the path alone if it has one page, or if files with its suffix
    cannot have several."""
    if not are_known(path) or not os.path.isfile(path):  # reading a named pipe could wait forever
        return [path]
    try:
        status = os.stat(path)
        return list(_names(path, status.st_size, status.st_mtime_ns))
    except Exception:  # a damaged header, of many types; opening the image raises it
        return [path]


@lru_cache(maxsize=16)
def _names(path: str, size: int, modified: int) -> tuple[str, ...]:
    """`every`; once for all pages of a file, until its size or time changes."""
    with open(path, "rb") as file:
        count = len(_READERS[_suffix(path)](file))
    if count < 2:
        return (path,)
    return tuple(join(path, number) for number in range(1, count + 1))


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def order(path: str) -> tuple[str, int]:
    """The sort key of paths: page 10 comes after page 9."""
    name, page = split(path)
    return name, page or 0
