"""Files with several images: "stack.tif#3" is the third page of stack.tif.

Pages are the pages of a TIFF (without reduced copies and masks), the images in an .npy file of
several, and the frames of a DICOM file. A frame of an animation can be named in the same way, but
without a number an animation is one image: its first frame.
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
    """ "stack.tif#3" -> ("stack.tif", 3). The page is None if there is a file with the full
    name."""
    match = _PAGE.match(path) if "#" in path else None
    if match is None or os.path.lexists(path):
        return path, None
    return match[1], int(match[2])


def join(path: str, page: int | None) -> str:
    """The inverse of `split`."""
    return path if page is None else f"{path}#{page}"


def every(path: str) -> list[str]:
    """The names of a file's pages; the path alone if it has one page, or if files with its suffix
    cannot have several."""
    read = _READERS.get(os.path.splitext(path)[1].lower())
    if read is None or not os.path.isfile(path):  # reading a named pipe could wait forever
        return [path]
    try:
        with open(path, "rb") as file:
            count = len(read(file))
    except Exception:  # a damaged header, of many types; opening the image raises it
        return [path]
    if count < 2:
        return [path]
    return [join(path, number) for number in range(1, count + 1)]


def order(path: str) -> tuple[str, int]:
    """The sort key of paths: page 10 comes after page 9."""
    name, page = split(path)
    return name, page or 0
