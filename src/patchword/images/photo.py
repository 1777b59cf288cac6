"""A decoded image, with the size that it has in its file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

RGB = NDArray[np.uint8]  # (H, W, 3)

_SCALES = (1, 2, 4, 8)  # a JPEG is decoded at one of these, its size divided by it and rounded up

_UPRIGHT = {  # EXIF orientation (tag 0x0112) -> how to undo it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Photo:
    """An upright image in sRGB.

    pixels  a PIL picture of mode RGB, or an array (h, w, 3)
    size    (height, width) in the file: larger than that of `pixels` for a JPEG that was decoded at
            a smaller scale
    box     (left, top, right, bottom) of the image in `pixels`: a JPEG of 427 pixels that is
            decoded at half its size has 214, of which the image covers 213.5
    jpeg    it is from a JPEG, whose pixels are approximate already
    """

    pixels: RGB | Image.Image
    size: tuple[int, int]
    box: tuple[float, float, float, float]
    jpeg: bool = False

    @classmethod
    def whole(cls, pixels: RGB | Image.Image) -> Photo:
        """A photo that was decoded at its full size."""
        height, width = _shape(pixels)
        return cls(pixels, (height, width), (0, 0, width, height))

    @classmethod
    def of(cls, pixels: RGB | Image.Image, stored: tuple[int, int], orientation: object) -> Photo:
        """A photo of decoded pixels, turned upright. stored: (width, height) in the file.
        orientation: the value in its EXIF data."""
        height, width = _shape(pixels)
        longer, decoded = max(stored), max(height, width)
        scale = min(_SCALES, key=lambda scale: abs(longer / scale - decoded))
        covered = stored[0] / scale, stored[1] / scale
        size = stored[1], stored[0]
        turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
        if turn is None:
            return cls(pixels, size, (0, 0, *covered))
        if isinstance(pixels, Image.Image):
            pixels = pixels.transpose(turn)
        else:
            pixels = np.asarray(Image.fromarray(pixels).transpose(turn))
        if orientation in (5, 6, 7, 8):
            size, covered = size[::-1], covered[::-1]
        # Before the turn, the pixels outside the image were at the right and at the bottom.
        height, width = _shape(pixels)
        left = width - covered[0] if orientation in (2, 3, 6, 7) else 0
        top = height - covered[1] if orientation in (3, 4, 7, 8) else 0
        return cls(pixels, size, (left, top, left + covered[0], top + covered[1]))

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w) of the decoded pixels."""
        return _shape(self.pixels)

    @property
    def array(self) -> RGB:
        """The decoded pixels, RGB uint8 (h, w, 3)."""
        if isinstance(self.pixels, Image.Image):
            return np.array(self.pixels)
        return np.ascontiguousarray(self.pixels)

    @property
    def picture(self) -> Image.Image:
        """The decoded pixels as a PIL picture."""
        if isinstance(self.pixels, Image.Image):
            return self.pixels
        return Image.fromarray(self.pixels)


def one_colour(pixels: RGB | Image.Image) -> str:
    """The colour of all pixels, such as "#ffffff"; empty if they differ."""
    height, width = _shape(pixels)
    middle = height // 2, width // 2
    # Most photos differ at the two pixels that are compared first.
    if isinstance(pixels, Image.Image):
        if pixels.getpixel((0, 0)) != pixels.getpixel(middle[::-1]):
            return ""
        least, greatest = np.array(pixels.getextrema()).T  # (3,) each
        same = (least == greatest).all()
        colour = least
    else:
        colour = pixels[0, 0]
        same = (pixels[middle] == colour).all() and (pixels == colour).all()
    return "#" + bytes(colour.tolist()).hex() if same else ""


def _shape(pixels: RGB | Image.Image) -> tuple[int, int]:
    """(height, width)"""
    if isinstance(pixels, Image.Image):
        return pixels.height, pixels.width
    return pixels.shape[0], pixels.shape[1]
