"""Scales samples of more than 8 bits, as industrial and scientific cameras write them, to 8 bits.

Pillow clips such samples to 255 or drops their low byte. Here all bits are read, and black..white
is scaled to 0..255, rounded to nearest. White is the maximum that the file states (TIFF
MaxSampleValue and SMaxSampleValue, the maxval of a PGM, the sBIT of a PNG), otherwise the greatest
value of the type. Black is 0, or for negative samples the file's minimum or that of the type.

tifffile, which writes files for the tests, is not used here: it reads TIFF only, and needs
imagecodecs (45 MB) for LZW and JPEG compression. Pillow's decoders read PNG and PGM too.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import TiffImagePlugin

from patchword.errors import DarkWarning, ImageWarning
from patchword.images.unreadable import RefusedError

STRETCH = "stretch its range: stretch=True, or --stretch on the command line"

_PERCENTILES = (0.5, 99.5)
_ROWS = 1 << 22  # samples scaled at a time
_MIN_VALUE, _MAX_VALUE, _S_MIN_VALUE, _S_MAX_VALUE = 280, 281, 340, 341  # TIFF 6.0, section 8, 19
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3  # TIFF SampleFormat
_DARK = 4  # if white is at least this many times the greatest sample, it is probably wrong

Warn = Callable[[str, type[ImageWarning]], None]  # called with a warning about an image


@dataclass(frozen=True)
class Samples:
    """Samples as read from a file or an array.

    values       (H, W) or (H, W, C), with C = 2 and 4 with alpha last
    limits       least and greatest value of their type
    declared     least and greatest value by the file's tags; None where a tag is missing
    inverted     true: 0 is white
    transparent  the value, or one for each channel, that means transparent
    offset       what was subtracted from signed values, for messages; None for unsigned values
    """

    values: NDArray[Any]
    limits: tuple[float, float]
    declared: tuple[float | None, float | None] = (None, None)
    inverted: bool = False
    transparent: int | tuple[int, ...] | None = None
    offset: float | None = None

    def to_eight_bits(self, stretch: bool, warn: Warn) -> NDArray[np.uint8]:
        """The samples as uint8 (H, W) or (H, W, C). Raises RefusedError for floats of unknown
        range. Warns of samples that would be nearly black, and of NaN and infinite ones."""
        values = self.values
        if values.ndim == 3 and values.shape[2] == 1:
            values = values[..., 0]
        alpha = None
        if values.ndim == 3 and values.shape[2] in (2, 4):
            alpha = _scale(values[..., -1:], *self.limits)
            values = values[..., 0] if values.shape[2] == 2 else values[..., :3]
        if values.dtype == np.uint8 and self.declared == (None, None) and not stretch:
            out: NDArray[np.uint8] = values
        else:
            black, white = _percentiles(values) if stretch else self._range(values, warn)
            out = _scale(values, black, white)
            _warn_of_nonfinite(values, warn)
        if self.inverted:
            out = 255 - out
        if self.transparent is not None and alpha is None:
            equal = values == np.asarray(self.transparent)
            is_clear = equal.all(-1, keepdims=True) if values.ndim == 3 else equal[..., None]
            alpha = np.where(is_clear, 0, 255).astype(np.uint8)
        if alpha is None:
            return out
        return np.concatenate([out[..., None] if out.ndim == 2 else out, alpha], axis=-1)

    def _range(self, values: NDArray[Any], warn: Warn) -> tuple[float, float]:
        """(black, white). A declared limit that the samples exceed is ignored."""
        least, greatest = _extent(values)
        low, high = self.declared
        white = high if high is not None and high > 0 and greatest <= high else self.limits[1]
        black = low if low is not None and low <= least else self.limits[0]
        black = black if least < 0 else 0.0
        if values.dtype.kind == "f" and not (black <= least and greatest <= white):
            raise RefusedError(
                f"its floats span {least:g} to {greatest:g} and the file gives no range: scale "
                f"them to 0..1, or {STRETCH}"
            )
        signed, offset = least < 0 or self.offset is not None, self.offset or 0.0
        # Some writers always declare the greatest value of the type.
        states_nothing = high is None or (self.limits[1] > 255 and high == self.limits[1])
        if states_nothing and least < greatest <= white / _DARK and not signed:
            warn(
                f"its samples reach {greatest:g} and {white:g} is taken for white, so that it is "
                f"seen nearly black; state the maximum in the file, or {STRETCH}",
                DarkWarning,
            )
        narrow = greatest - least < (white - black) / _DARK
        if signed and narrow and high is None and low is None:
            warn(
                f"its samples span {least + offset:g} to {greatest + offset:g}, and "
                f"{black + offset:g} to {white + offset:g} is taken for black to white, so that it "
                f"is seen nearly grey; {STRETCH}",
                DarkWarning,
            )
        return black, white


def read_encoded(picture: Any, reopen: Callable[[], AbstractContextManager[Any]]) -> Samples | None:
    """Samples that Pillow would cut to 8 bits, of a picture that is opened and not yet decoded;
    None if Pillow keeps all bits. reopen opens the picture once more."""
    if not picture.tile:
        return None
    if picture.tile[0].codec_name == "ppm":
        return _portable(picture)
    if picture.format not in ("PNG", "TIFF"):
        return None
    colour = picture.mode in ("RGB", "RGBA") and all(
        _is_colour16(_raw_mode(picture, tile)) for tile in picture.tile
    )
    if colour and picture.format == "TIFF":
        declared = _declared(picture.tag_v2)
        planes = picture.tag_v2.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2
        if planes and picture.tile[0].codec_name == "libtiff":
            # Of compressed planes Pillow unpacks the high byte only.
            if declared[1] not in (None, 65535):
                raise RefusedError("compressed 16-bit planes; save it with interleaved colours")
            return None
        return Samples(_colour16(picture, reopen), (0, 65535), declared)
    grey = _raw_mode(picture, picture.tile[0]) == "LA;16B" or picture.mode == "I;16"
    if picture.format == "PNG" and (colour or grey):
        bits = _significant_bits(picture.fp)
        values = _colour16(picture, reopen) if colour else _grey16(picture)
        white = _png_white(values[..., :3] if colour else values[..., :1], bits)
        return Samples(values, (0, 65535), (0, white), transparent=_transparent(picture))
    return None


def read_decoded(picture: Any) -> Samples | None:
    """Samples of a decoded picture of one band with more than 8 bits, or 8 signed bits; None for
    any other picture."""
    tags = getattr(picture, "tag_v2", {})
    bits = int(_number(tags, TiffImagePlugin.BITSPERSAMPLE) or 0)
    kind = int(_number(tags, TiffImagePlugin.SAMPLEFORMAT) or _UNSIGNED)
    signed = picture.mode == "L" and bits == 8 and kind == _SIGNED
    if not signed and not picture.mode.startswith(("I", "F")):
        return None
    values = np.asarray(picture)
    if signed:
        values = values.view(np.int8)
    if not bits:  # not a TIFF: Pillow stores 16-bit samples of other files in 32-bit images too
        fits_16 = picture.mode != "I" or (values.min() >= 0 and values.max() <= 65535)
        bits = 16 if fits_16 else 32
        kind = _UNSIGNED if fits_16 else _SIGNED
        if picture.mode == "F":
            kind = _FLOAT
    limits = (0.0, 1.0)
    if kind == _UNSIGNED:
        limits = (0.0, 2.0**bits - 1)
    elif kind == _SIGNED:
        limits = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)
    if bits == 32 and kind == _UNSIGNED and values.dtype == np.int32:
        values = values.view(np.uint32)  # Pillow has no unsigned 32-bit image
    inverted = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    return Samples(values, limits, _declared(tags), inverted, _transparent(picture))


def of_array(array: NDArray[Any], stretch: bool) -> Samples:
    """Samples of a user's array. Raises RefusedError for a type whose range is unknown, unless it
    is stretched, for values that are not numbers, and for masked values."""
    if np.ma.is_masked(array):
        raise RefusedError(
            "an array with masked values: give array.filled(0), or array.data as if none were"
        )
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype == np.bool_:
        return Samples(array.astype(np.uint8) * np.uint8(255), (0, 255))
    if array.dtype in (np.uint8, np.uint16):
        return Samples(array, (0, float(np.iinfo(array.dtype).max)))
    if array.dtype.kind == "f":
        return Samples(array, (0, 1))
    if array.dtype.kind not in "iu":
        raise RefusedError(f"an array of {array.dtype}, which are no samples of an image")
    if not stretch:
        raise RefusedError(
            f"{array.dtype} array: convert it to uint8, to uint16, or to floats in 0..1, or "
            f"{STRETCH}"
        )
    return Samples(array, (float(np.iinfo(array.dtype).min), float(np.iinfo(array.dtype).max)))


def stretched(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """8-bit values scaled from their percentiles to 0..255."""
    black, white = _percentiles(rgb)
    return _scale(rgb, black, white)


def _warn_of_nonfinite(values: NDArray[Any], warn: Warn) -> None:
    if values.dtype.kind != "f":
        return
    count = int((~np.isfinite(values)).sum())
    if count:
        warn(
            f"{count:,} of its {values.size:,} samples are NaN or infinite: it is seen black where "
            "they are NaN, and white where infinite; fill them to see it otherwise",
            ImageWarning,
        )


def _extent(values: NDArray[Any]) -> tuple[float, float]:
    """The least and greatest finite sample. Raises RefusedError if there is none."""
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
        if not values.size:
            raise RefusedError("none of its samples is a finite number")
    return float(values.min()), float(values.max())


def _percentiles(values: NDArray[Any]) -> tuple[float, float]:
    """(black, white), between which all but the darkest and brightest half percent lie; black <
    white."""
    least, greatest = _extent(values)
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    low, high = (float(percentile) for percentile in np.percentile(finite, _PERCENTILES))
    if low < high:
        return low, high
    if least < greatest:
        return least, greatest
    return least, least + 1


def _scale(values: NDArray[Any], black: float, white: float) -> NDArray[np.uint8]:
    """Samples of any type and shape with black..white scaled to 0..255, rounded; NaN becomes 0."""
    out = np.empty(values.shape, np.uint8)
    rows = max(1, _ROWS * len(values) // values.size)
    for top in range(0, len(values), rows):
        band = values[top : top + rows].astype(np.float64)
        band = (band - black) * (255 / (white - black)) + 0.5
        out[top : top + rows] = np.clip(np.nan_to_num(band, posinf=255, neginf=0), 0, 255)
    return out


def _portable(picture: Any) -> Samples:
    """A binary PGM or PPM whose maximum is not 255. Pillow's Python loop takes 1 us per sample."""
    maximum = picture.tile[0].args[1]
    kind = np.dtype(np.uint8 if maximum < 256 else ">u2")
    bands = 3 if picture.mode == "RGB" else 1
    count = picture.width * picture.height * bands
    picture.fp.seek(picture.tile[0].offset)
    data = picture.fp.read(count * kind.itemsize)
    if len(data) < count * kind.itemsize:
        raise EOFError
    values = np.frombuffer(data, kind).reshape(picture.height, picture.width, bands)
    return Samples(values, (0, float(np.iinfo(kind).max)), (0, float(maximum)))


def _raw_mode(picture: Any, tile: Any) -> str:
    """The name of a tile's samples, such as "RGB;16B" or, for one plane of a TIFF, "R;16L"."""
    name = str(tile.args if isinstance(tile.args, str) else tile.args[0])
    plane = picture.format == "TIFF" and len(name) == 1
    if plane and _number(picture.tag_v2, TiffImagePlugin.BITSPERSAMPLE) == 16:
        # Pillow reads a plane of an uncompressed TIFF as 8 bits, whatever its tags state.
        name += ";16L" if picture.tag_v2.prefix == b"II" else ";16B"
    return name


def _is_colour16(raw_mode: str) -> bool:
    colours, _, depth = raw_mode.partition(";")
    return depth in ("16L", "16B", "16N") and colours in ("RGB", "RGBX", "RGBA", *"RGBA")


def _colour16(
    picture: Any, reopen: Callable[[], AbstractContextManager[Any]]
) -> NDArray[np.uint16]:
    """16-bit colour (H, W, 3 or 4). Pillow unpacks only the high byte of each sample. Decoded a
    second time with the opposite byte order, it gives the low byte."""
    values = _one_byte(picture, low=False).astype(np.uint16)
    values <<= 8
    with reopen() as second:
        values |= _one_byte(second, low=True)
    return values


def _grey16(picture: Any) -> NDArray[np.uint16]:
    """16-bit grey (H, W, 1), or with alpha (H, W, 2), of a PNG that is not yet decoded. Of two
    channels Pillow keeps the high bytes only; decoded as RGBA of 8 bits, all four bytes are
    kept."""
    if picture.mode == "I;16":
        return np.asarray(picture)[..., None]
    picture.tile = [tile._replace(args="RGBA") for tile in picture.tile]
    return np.ascontiguousarray(np.asarray(picture)).view(">u2").astype(np.uint16)


def _one_byte(picture: Any, low: bool) -> NDArray[np.uint8]:
    """The high or low bytes (H, W, C) of a picture of 16-bit colour that is not yet decoded."""
    tiles = []
    for tile in picture.tile:
        name = _raw_mode(picture, tile)
        little = name[-1] == "L" or (name[-1] == "N" and sys.byteorder == "little")
        name = name[:-1] + ("L" if little != low else "B")
        args = name if isinstance(tile.args, str) else (name, *tile.args[1:])
        tiles.append(tile._replace(args=args))
    picture.tile = tiles
    return np.asarray(picture)


def _number(tags: Any, tag: int) -> float | None:
    """A TIFF tag as one number; the greatest if it has one for each channel."""
    value = tags.get(tag)
    if value is None:
        return None
    return float(max(value) if isinstance(value, tuple) else value)


def _declared(tags: Any) -> tuple[float | None, float | None]:
    """The least and greatest sample by the tags of a TIFF; None where a tag is missing."""
    low, high = _number(tags, _S_MIN_VALUE), _number(tags, _S_MAX_VALUE)
    if low is None:
        low = _number(tags, _MIN_VALUE)
    if high is None:
        high = _number(tags, _MAX_VALUE)
    return low, high


def _transparent(picture: Any) -> Any:
    """The 16-bit sample, or three, that a PNG's tRNS chunk makes transparent."""
    value = picture.info.get("transparency")
    return value if isinstance(value, (int, tuple)) else None


def _significant_bits(file: Any) -> int | None:
    """The sBIT of a PNG (PNG 1.2, section 4.2.6): how many bits of a sample the source had."""
    position = file.tell()
    file.seek(8)
    try:
        while True:
            length, kind = struct.unpack(">I4s", file.read(8))
            if kind == b"sBIT":
                bits = file.read(length)
                return int(max(bits[:-1] if length in (2, 4) else bits))  # without alpha
            if kind == b"IDAT":
                return None
            file.seek(length + 4, 1)
    finally:
        file.seek(position)


def _png_white(values: NDArray[Any], bits: int | None) -> float | None:
    """White of 16-bit PNG samples with `bits` significant bits, if they are not scaled to 16 bits.

    The PNG standard demands scaling, after which the low bits of a sample are 0 (or 1 by rounding).
    Some cameras write unscaled samples: all values are small, and the low bits vary.
    """
    if bits is None or not 8 < bits < 16:
        return None
    all_small = values.max() < 1 << bits
    low_bits_vary = (values & ((1 << (16 - bits)) - 1)).max() > 1
    return float((1 << bits) - 1) if all_small and low_bits_vary else None
