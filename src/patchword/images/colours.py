"""Converts 8-bit pictures of any mode to sRGB, with transparency over white."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

_BAND = 1 << 24  # pixels converted at a time: a large image is never copied as a whole
_SAME = 2  # levels of 255: a profile that changes no colour by more is taken for sRGB


def to_picture(picture: Any, profile: bytes | None) -> Image.Image | NDArray[np.uint8]:
    """The result of `to_rgb` as a PIL picture, not copied if it is RGB already; a large picture as
    an array."""
    if picture.width * picture.height <= _BAND:
        return _over_white(picture, profile)
    return to_rgb(picture, profile)


def to_rgb(picture: Any, profile: bytes | None) -> NDArray[np.uint8]:
    """An 8-bit PIL image of any mode in sRGB over white, (H, W, 3), a band of rows at a time."""
    width, height = picture.size
    out = np.empty((height, width, 3), np.uint8)
    rows = max(1, _BAND // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        band = picture
        if bottom - top < height:
            band = picture.crop((0, top, width, bottom))
        out[top:bottom] = np.asarray(_over_white(band, profile))
    return out


def _over_white(picture: Any, profile: bytes | None) -> Image.Image:
    """An 8-bit PIL image of any mode as RGB, in sRGB, with transparency over white."""
    if picture.mode == "La":
        picture = picture.convert("LA")
    mode = picture.mode
    transparent = picture.has_transparency_data
    if transparent:
        picture = picture.convert("RGBA")
    if mode == "LAB":
        profile = _lab_profile()
    conversion = _to_srgb(profile, mode) if profile else None
    if conversion is None:
        colours = picture if picture.mode == "RGB" else picture.convert("RGB")
    else:
        expected, transform = conversion
        colours = ImageCms.applyTransform(picture.convert(expected), transform)
        assert colours is not None  # only None in place
    if not transparent:
        return colours  # type: ignore[no-any-return]
    background = Image.new("RGB", picture.size, "white")
    background.paste(colours, mask=picture.getchannel("A"))
    return background


@lru_cache(maxsize=8)
def _to_srgb(profile: bytes, mode: str) -> tuple[str, ImageCms.ImageCmsTransform] | None:
    """(the mode to convert to first, the transform from it to sRGB), perceptual intent.

    None if the colours are taken as sRGB: the profile is sRGB or damaged, or it describes other
    colours than an image of `mode` has.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        expected = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK", "Lab": "LAB"}.get(space)
        grey = mode in ("1", "L", "LA")
        fits = mode == expected if mode in ("CMYK", "LAB") else expected == "RGB"
        if expected is None or not (fits or (grey and expected == "L")):
            return None
        target = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, target, expected, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    if expected in ("L", "RGB"):
        levels = np.linspace(0, 255, 17).astype(np.uint8)
        cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(17, -1, 3)
        probe = Image.fromarray(cube).convert(expected)
        moved = ImageCms.applyTransform(probe, transform)
        change = np.asarray(moved, np.int16) - np.asarray(probe.convert("RGB"), np.int16)
        if np.abs(change).max() <= _SAME:
            return None
    return expected, transform


@lru_cache(maxsize=1)
def _lab_profile() -> bytes:
    """CIE L*a*b* with the white point of ICC profiles, D50."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
