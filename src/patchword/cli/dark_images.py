"""Warnings of dark images, of which a folder may have thousands."""

from __future__ import annotations

import os

from patchword.errors import counted, listed, one_line

NAMED = 3  # images that the closing line names


class DarkImages:
    """Joins warnings of dark images: the first is printed at once, the others as one line at the
    end."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    def is_first(self, text: str) -> bool:
        """Note the image of a warning, and tell whether it is the first."""
        name = text.partition(": its samples ")[0]
        first = not self._names
        self._names[name] = None
        return first

    def others(self) -> list[str]:
        """One line about the images after the first; none without such images."""
        names = [one_line(os.path.basename(name)) for name in list(self._names)[1:]]
        if not names:
            return []
        count = counted(len(names), "more image is", "more images are")
        return [f"{count} seen so dark or grey: {listed(names, NAMED)}"]
