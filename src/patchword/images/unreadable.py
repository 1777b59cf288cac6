"""Why an image cannot be used, as the readers say it; `decode` adds the image's name to it."""

from __future__ import annotations


class RefusedError(Exception):
    """An image that cannot be used; the message is the reason that its ImageError gives."""


class TooManyPixelsError(RefusedError):
    """An image beyond the limit of pixels."""

    def __init__(self, width: int, height: int) -> None:
        super().__init__(f"{width} x {height} pixels are more than the limit")
        self.size = width, height


def refuse_if(condition: bool, reason: str) -> None:
    """Raise RefusedError where the condition holds."""
    if condition:
        raise RefusedError(reason)
