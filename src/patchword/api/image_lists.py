"""Images that are named by folders, glob patterns and lists, for the methods that take several."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable

from patchword.errors import ImageError, UnsupportedError
from patchword.images.files import pictures_in, several
from patchword.images.pages import every, split
from patchword.images.urls import is_url
from patchword.options import checked
from patchword.text.lines import list_lines


@checked
def find_images(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
) -> list[str]:
    """The images that are named, in order: of a folder those at any depth, by their suffix; of a
    glob pattern, "photos/*.jpg" or "photos/**/*.jpg", what it matches; of "@list.txt" what its
    lines name; of a file with several pages each page; an address on the web as it is.

    model.embed_images(patchword.find_images("photos"))

    Raises ImageError for a name that matches nothing and a folder that cannot be listed;
    UnsupportedError where there is no image at all.
    """
    names = [os.fspath(path) for path in several(paths)]
    found = [image for name in names for image in _named(name)]
    if not found:
        raise UnsupportedError(f"no images in {', '.join(names) or 'an empty list'}")
    return found


def in_folder(folder: str | os.PathLike[str]) -> list[str]:
    """The images in a folder, at any depth. Raises the ImageError of what cannot be listed."""
    failed: list[ImageError] = []
    found = pictures_in(folder, failed)
    if failed:
        raise failed[0]
    return found


def _named(name: str) -> list[str]:
    """The images that one name stands for."""
    file = split(name)[0]  # stack.tif, of stack.tif#3
    if is_url(name) or file != name:
        return [name]
    if os.path.isdir(name):
        return in_folder(name)
    if os.path.exists(name):
        return every(name)
    if name.startswith("@"):
        return [image for line in list_lines(name[1:]) for image in _named(line)]
    matches = sorted(glob.glob(name, recursive=True))
    if not matches:
        raise ImageError(name, "no such file")
    return [image for match in matches for image in _named(match)]
