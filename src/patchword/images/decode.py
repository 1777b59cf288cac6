"""Open any image: path, bytes, PIL image or array -> RGB uint8 (H, W, 3), upright, in sRGB.

What is done on the way, in this order: first frame of an animation; samples of more than 8 bits
scaled to 8 (see `bitdepth`); embedded colour profile to sRGB; transparency over white; EXIF
orientation applied. Everything that cannot be opened is an ImageError that names image and reason.
"""

from __future__ import annotations

import io
import os
import re
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, TiffImagePlugin, TiffTags, UnidentifiedImageError

from patchword.errors import ImageError
from patchword.images import high_bit_depth
from patchword.images.high_bit_depth import RefusedError
from patchword.images.preprocess import Geometry, Preprocess

__all__ = ["Geometry", "ImageLike", "Preprocess", "name_of", "open"]

ImageLike = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any]
RGB = NDArray[np.uint8]  # (H, W, 3)

_BAND = 1 << 24  # pixels converted at a time: no second copy of a large image is ever held
_SAME = 2  # levels of 255: a profile that moves no colour further is sRGB under another name
_FROM_PILLOW = r"PIL\."  # modules
_FILTER = ("ignore", None, Warning, re.compile(_FROM_PILLOW), 0)  # as `warnings` keeps it
_TRUNCATED = ("truncated", "end of file", "not enough image data", "reached eof")

_UPRIGHT: dict[int, Callable[[RGB], RGB]] = {  # EXIF orientation (tag 0x0112) -> how to undo it
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


def name_of(image: ImageLike) -> str:
    """What to call `image` in a message: its path as given, or what it is."""
    if isinstance(image, (str, os.PathLike)):
        return os.fspath(image)
    if isinstance(image, bytes):
        return f"<bytes, {len(image)} B>"
    if isinstance(image, Image.Image):
        size = f"{image.width}x{image.height}"
        return str(getattr(image, "filename", "")) or f"<PIL image {size} {image.mode}>"
    if isinstance(image, np.ndarray):
        return f"<array {'x'.join(map(str, image.shape))}>"
    return f"<{type(image).__name__}>"


def open(
    image: ImageLike, *, at_least: int | None = None, exact: bool = False, stretch: bool = False
) -> RGB:
    """RGB uint8 (H, W, 3) of one image; uint8 (H, W, 3) arrays come back as they are.

    An array is (H, W) or (H, W, C), C = 1 grey, 2 grey + alpha, 3 RGB, 4 RGBA, of uint8, bool,
    uint16 (0..65535) or floats (0..1).

    at_least: the shorter side, in pixels, that the caller needs. A JPEG is then decoded at its
    smallest DCT scale (1, 1/2, 1/4 or 1/8) whose shorter side is at least twice that, unless
    `exact`. Samples of more than 8 bits are scaled from the range the file states, else from that
    of their type. stretch: scale from the 0.5 and 99.5 percentiles of the image instead, whatever
    its depth. Raises ImageError.
    """
    try:
        if isinstance(image, Image.Image):
            return _from_picture(image, stretch)
        if isinstance(image, np.ndarray):
            return _from_array(image, stretch)
        if isinstance(image, bytes):
            _refuse_if(not image, "empty: 0 bytes")
            return _from_file(lambda: io.BytesIO(image), None if exact else at_least, stretch)
        if isinstance(image, (str, os.PathLike)):
            path = _readable(os.fspath(image))
            return _from_file(lambda: path.open("rb"), None if exact else at_least, stretch)
        raise RefusedError("not an image: give a path, bytes, a PIL image or a numpy array")
    # Pillow's plugins raise whatever a damaged header makes of them: KeyError, struct.error,
    # ZeroDivisionError, AssertionError... Each means that this image cannot be opened.
    except Exception as error:
        raise ImageError(name_of(image), _reason(error)) from error


def _reason(error: Exception) -> str:
    """One short line: what is wrong with the image and, where something helps, what to do."""
    if isinstance(error, RefusedError):
        return str(error)
    if isinstance(error, Image.DecompressionBombError):
        return _too_large()
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a format that can be read, or its header is damaged"
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, EOFError) or any(word in message.lower() for word in _TRUNCATED):
        return "truncated: it ends before its last pixel; copy or download it again"
    return f"damaged or unsupported: {message}"


def _too_large() -> str:
    return (
        f"more than {Image.MAX_IMAGE_PIXELS} pixels, refused as a decompression bomb; "
        "if you trust it, raise PIL.Image.MAX_IMAGE_PIXELS"
    )


def _refuse_if(condition: bool, reason: str) -> None:
    if condition:
        raise RefusedError(reason)


def _readable(path: str) -> Path:
    """The path of a regular, non-empty file. Refuses all else: a pipe or device could hang."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        if path.startswith(("http://", "https://")):
            raise RefusedError("a URL: download it and give its path") from None
        raise RefusedError("no such file") from None
    _refuse_if(stat.S_ISDIR(status.st_mode), "a directory, not an image")
    _refuse_if(not stat.S_ISREG(status.st_mode), "not a regular file")
    _refuse_if(status.st_size == 0, "empty: 0 bytes")
    return Path(path)


def _quieten() -> None:
    """Keep Pillow's warnings (damaged EXIF, bombs: both handled here) from the user.

    Filters belong to the whole process, and images are opened in threads: this one is put there to
    stay. To put it there and take it away again would, now and then, undo what another thread has
    done to the filters meanwhile.
    """
    if _FILTER not in warnings.filters:
        warnings.filterwarnings("ignore", module=_FROM_PILLOW)


@contextmanager
def _opened(start: Callable[[], BinaryIO]) -> Iterator[Any]:
    """The opened, not yet decoded, picture (an ImageFile) of the file that `start` opens."""
    with start() as file:
        _quieten()
        picture = _identify(file)
        if picture.format == "TIFF":  # decoding reads these tags
            exif = picture.getexif()
            for group in TiffTags.TAGS_V2_GROUPS:
                exif.get_ifd(group)
        with picture:
            yield picture


def _from_file(start: Callable[[], BinaryIO], target: int | None, stretch: bool) -> RGB:
    """Decode the file that `start` opens; target as `at_least` of `open`."""
    with _opened(start) as picture:
        _refuse_unsound(picture)
        if target:
            picture.draft(None, (2 * target, 2 * target))
        cover = picture.tile[0].extents if picture.format == "GIF" and picture.tile else None
        samples = high_bit_depth.read_encoded(picture, lambda: _opened(start))
        return _from_picture(picture, stretch, cover, samples)


def _identify(file: BinaryIO) -> Any:
    """What Pillow makes of the header."""
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        file.seek(4)
        if file.read(8) in (b"ftypheic", b"ftypheix", b"ftypmif1"):
            raise RefusedError(
                "HEIC: save it as JPEG, or pip install pillow-heif and call "
                "pillow_heif.register_heif_opener() first"
            ) from None
        raise


def _refuse_unsound(picture: Any) -> None:
    """Refuse what Pillow would open by running a program, at any cost, or wrong."""
    limit = Image.MAX_IMAGE_PIXELS
    _refuse_if(limit is not None and picture.width * picture.height > limit, _too_large())
    _refuse_if(picture.format == "EPS", "PostScript is a program; convert it to PNG first")
    tiles = [tile for tile in picture.tile if tile.codec_name == "raw"]
    if picture.format == "BMP" and tiles and "BGR;15" in str(tiles[0].args):
        # BITMAPV3 header and later: the mask of the alpha bit lies at byte 66.
        picture.fp.seek(14)
        header = picture.fp.read(56)
        masked = header[0] >= 56 and header[16] == 3 and any(header[52:56])
        _refuse_if(masked, "16-bit BMP with transparency; save it as PNG")
    if picture.format == "TIFF" and tiles and picture.mode == "YCbCr":
        subsampling = picture.tag_v2.get(TiffImagePlugin.YCBCRSUBSAMPLING, (2, 2))
        _refuse_if(subsampling != (1, 1), "subsampled YCbCr without compression; save it as PNG")


def _from_picture(
    picture: Any,
    stretch: bool,
    cover: tuple[int, int, int, int] | None = None,
    samples: high_bit_depth.Samples | None = None,
) -> RGB:
    """RGB of a decoded PIL image of any mode.

    cover: the box (left, top, right, bottom) of a GIF's first frame; what lies outside is white.
    samples: those of more than 8 bits, where they were read beside Pillow.
    """
    _refuse_if(0 in picture.size, "it has no pixels")
    if samples is None:
        picture = _loaded(picture)
    orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    profile = picture.info.get("icc_profile")
    if samples is None:
        samples = high_bit_depth.read_decoded(picture)
    if samples is not None:
        picture = Image.fromarray(samples.to_eight_bits(stretch))
    rgb = _to_rgb(picture, profile)
    if cover is not None:
        left, top, right, bottom = cover
        covered, rgb = rgb, np.full_like(rgb, 255)
        rgb[top:bottom, left:right] = covered[top:bottom, left:right]
    if stretch and samples is None:
        rgb = high_bit_depth.stretched(rgb)
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return np.ascontiguousarray(turn(rgb)) if turn else rgb


def _loaded(picture: Any) -> Any:
    """The decoded picture. Pillow spreads the grey of a PNG of 2 or 4 bits over 0..255, but keeps
    the grey that means transparent as the file has it."""
    layout = str(picture.tile[0].args) if picture.format == "PNG" and picture.tile else ""
    picture.load()
    step = {"L;2": 85, "L;4": 17}.get(layout)
    if step is None or "transparency" not in picture.info:
        return picture
    picture = picture.copy()  # a user's own stays as it is
    picture.info["transparency"] *= step
    return picture


def _from_array(array: NDArray[Any], stretch: bool) -> RGB:
    """RGB of a (H, W) or (H, W, C) array."""
    _refuse_if(0 in array.shape, "it has no pixels")
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels > 4:
        first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        hint = "; channels come last" if first else ""
        raise RefusedError(f"shape {array.shape} is neither (H, W) nor (H, W, 1 to 4){hint}")
    eight = high_bit_depth.of_array(array).to_eight_bits(stretch)
    if eight.ndim == 3 and channels == 3:
        return np.ascontiguousarray(eight)
    return _to_rgb(Image.fromarray(eight), None)


def _to_rgb(picture: Any, profile: bytes | None) -> RGB:
    """An 8-bit PIL image of any mode in sRGB over white, a band of rows at a time."""
    width, height = picture.size
    out = np.empty((height, width, 3), np.uint8)
    rows = max(1, _BAND // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        whole = bottom - top == height
        band = picture if whole else picture.crop((0, top, width, bottom))
        out[top:bottom] = np.asarray(_over_white(band, profile))
    return out


def _over_white(picture: Any, profile: bytes | None) -> Image.Image:
    """An 8-bit PIL image of any mode as RGB: colours in sRGB, transparency over white."""
    if picture.mode == "La":
        picture = picture.convert("LA")
    mode = picture.mode
    clear = picture.has_transparency_data
    if clear:
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
    if not clear:
        return colours  # type: ignore[no-any-return]
    over = Image.new("RGB", picture.size, "white")
    over.paste(colours, mask=picture.getchannel("A"))
    return over


@lru_cache(maxsize=8)
def _to_srgb(profile: bytes, mode: str) -> tuple[str, ImageCms.ImageCmsTransform] | None:
    """(the mode to convert to first, the transform from there to sRGB), perceptual intent.

    None where colours are to be taken as sRGB already: the profile is sRGB, it is damaged, or it
    describes other colours than an image of `mode` has.
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
