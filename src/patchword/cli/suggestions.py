"""Existing files that a missing path may mean."""

from __future__ import annotations

import difflib
import os
from itertools import islice
from unicodedata import normalize
from urllib.parse import unquote

from patchword.errors import ImageError

MAX_NAMES = 10_000  # file names of a folder that are compared with a misspelt one


def with_near_file(error: ImageError) -> str:
    """An error message; for a file that does not exist with the file that may be meant."""
    if error.reason != "no such file":
        return str(error)
    return f"{error}{near_file(error.image)}"


def near_file(path: str) -> str:
    """The file that a missing path may mean, as a question in brackets; empty where there is none.

    It is the path with the separators of Windows or the escapes of a browser resolved, or else the
    file in the same folder with the nearest name.
    """
    folder, name = os.path.split(path)
    slashed = path.replace("\\", "/")
    same_folder = os.path.join(folder, os.path.basename(slashed))
    for candidate in (slashed, same_folder, unquote(path.removeprefix("file://"))):
        if candidate != path and os.path.isfile(candidate):
            return f" (do you mean {os.path.normpath(candidate)}?)"
    try:
        with os.scandir(folder or os.curdir) as entries:
            names = [entry.name for entry in islice(entries, MAX_NAMES)]
    except OSError:
        return ""
    nearest = difflib.get_close_matches(name, names, 1, cutoff=0.75)
    if not nearest:
        return ""
    suggestion = os.path.join(folder, nearest[0])
    if normalize("NFC", name) == normalize("NFC", nearest[0]):
        suggestion += ", whose letters are stored in another form of Unicode"
    return f" (do you mean {suggestion}?)"
