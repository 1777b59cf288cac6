"""Warnings of dark images, of which a folder may have thousands."""

from __future__ import annotations

import os

from patchword.errors import listed, one_line

NAMED = 3  # images that the last line names


class DarkImages:
    """The first such image is said at once, and at the end how many more there are."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    def is_first(self, text: str) -> bool:
        """Note the image that a warning is of; whether it is the first."""
        name = text.partition(": its samples ")[0]
        first = not self._names
        self._names[name] = None
        return first

    def others(self) -> list[str]:
        """A line about those after the first; none where there are none."""
        names = [one_line(os.path.basename(name)) for name in list(self._names)[1:]]
        count = "1 more image is" if len(names) == 1 else f"{len(names)} more images are"
        return [f"{count} seen so dark or grey: {listed(names, NAMED)}"] if names else []
