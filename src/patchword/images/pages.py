"""Files with several images: "stack.tif#3" is the third page of stack.tif.

Pages are those of a TIFF (reduced copies and masks are none), the images of an .npy of several, and
the frames of a DICOM. Frames of animations can be named so too, but a GIF is one image: its first.
"""

from __future__ import annotations

import os
import re

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
    """ "stack.tif#3" -> ("stack.tif", 3). If a file has that whole name, None."""
    found = _PAGE.match(path) if "#" in path else None
    if found is None or os.path.lexists(path):
        return path, None
    return found[1], int(found[2])


def join(path: str, page: int | None) -> str:
    """The other way."""
    return path if page is None else f"{path}#{page}"


def every(path: str) -> list[str]:
    """A file's pages by name, where its suffix says that it may have several and it does; else the
    path alone."""
    read = _READERS.get(os.path.splitext(path)[1].lower())
    if read is None or not os.path.isfile(path):  # a named pipe would keep us waiting
        return [path]
    try:
        with open(path, "rb") as file:
            count = len(read(file))
    except Exception:  # whatever a damaged header is to its reader; opening the image raises it
        return [path]
    return [path] if count < 2 else [join(path, number + 1) for number in range(count)]


def order(path: str) -> tuple[str, int]:
    """The sort key of paths: page 10 follows page 9."""
    name, page = split(path)
    return name, page or 0
