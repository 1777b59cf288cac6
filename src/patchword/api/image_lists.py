"""Lists the images that folders, glob patterns and lists name."""

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
    """The images that these paths name, in order. A folder names the images in it at any depth, by
    their suffix; a glob pattern, "photos/*.jpg" or "photos/**/*.jpg", its matches; "@list.txt" the
    images of its lines; a file with several pages each page. An address on the web stays as it is.

    model.embed_images(patchword.find_images("photos"))

    Raises ImageError for a name without a match and for a folder that cannot be listed;
    UnsupportedError if there is no image.
    """
    names = [os.fspath(path) for path in several(paths)]
    images = [image for name in names for image in _images_of(name)]
    if not images:
        raise UnsupportedError(f"no images in {', '.join(names) or 'an empty list'}")
    return images


def in_folder(folder: str | os.PathLike[str]) -> list[str]:
    """The images in a folder at any depth. Raises ImageError for a folder that cannot be listed."""
    failed: list[ImageError] = []
    images = pictures_in(folder, failed)
    if failed:
        raise failed[0]
    return images


def _images_of(name: str) -> list[str]:
    file, _ = split(name)  # stack.tif, of stack.tif#3
    if is_url(name) or file != name:
        return [name]
    if os.path.isdir(name):
        return in_folder(name)
    if os.path.exists(name):
        return every(name)
    if name.startswith("@"):
        return [image for line in list_lines(name[1:]) for image in _images_of(line)]
    matches = sorted(glob.glob(name, recursive=True))
    if not matches:
        raise ImageError(name, "no such file")
    return [image for match in matches for image in _images_of(match)]
