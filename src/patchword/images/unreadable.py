"""The reasons why an image cannot be used. `decode` adds the image's name to them."""

from __future__ import annotations

from PIL import Image, UnidentifiedImageError

_TRUNCATED = ("truncated", "end of file", "not enough image data", "reached eof")


class RefusedError(Exception):
    """An image that cannot be used; the message is the reason that its ImageError gives."""


class TooManyPixelsError(RefusedError):
    """An image with more pixels than the limit."""

    def __init__(self, width: int, height: int) -> None:
        super().__init__(f"{width} x {height} pixels are more than the limit")
        self.size = width, height


def refuse_if(condition: bool, reason: str) -> None:
    """Raise RefusedError if the condition holds."""
    if condition:
        raise RefusedError(reason)


def reason(error: Exception, max_pixels: int) -> str:
    """The error of an image in one short line, with what to do if something helps."""
    if isinstance(error, TooManyPixelsError):
        width, height = error.size
        return (
            f"{width} x {height} are more than {max_pixels} pixels, refused as a decompression "
            "bomb; if you trust it, raise max_pixels (--max-pixels on the command line)"
        )
    if isinstance(error, RefusedError):
        return str(error)
    if isinstance(error, Image.DecompressionBombError):
        return "more pixels than Pillow opens in this format; save it as PNG or JPEG"
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a format that can be read, or its header is damaged"
    if isinstance(error, ImportError):
        return f"what opens it is installed and cannot be imported ({error}); install it anew"
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, EOFError) or any(word in message.lower() for word in _TRUNCATED):
        return "truncated: it ends before its last pixel; copy or download it again"
    return f"damaged or unsupported: {message}"
