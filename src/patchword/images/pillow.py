"""Opens files with Pillow, without its limit of pixels and its warnings. Files that Pillow would
open wrongly are refused."""

from __future__ import annotations

import logging
import os
import re
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

from PIL import Image, JpegImagePlugin, TiffImagePlugin, TiffTags, UnidentifiedImageError

from patchword.images.unreadable import refuse_if

_NATIVE = {  # Pillow's name of samples in an order of bytes -> in the machine's
    **dict.fromkeys(("I;16S", "I;16BS"), "I;16NS"),
    **dict.fromkeys(("I;32S", "I;32BS"), "I;32NS"),
    **dict.fromkeys(("F;32F", "F;32BF"), "F;32NF"),
}
MOST_SCANS = 100  # as libtiff has it
_SOS, _EOI, _PROGRESSIVE = 0xDA, 0xD9, (0xC2, 0xC6, 0xCA, 0xCE)  # markers of a JPEG
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")  # one that a length follows, or the end
_TILE = (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH)
_PCX_PALETTE = 769  # bytes at the end of a file of 256 colours, also of grey


def filter_of(library: str) -> tuple[str, None, type[Warning], re.Pattern[str], int]:
    """The entry of `warnings.filters` that ignores a library's warnings."""
    return "ignore", None, Warning, re.compile(rf"{library}\."), 0


@contextmanager
def opened(start: Callable[[], BinaryIO], frame: int) -> Iterator[Any]:
    """The opened picture (an ImageFile), not yet decoded, of the file that `start` opens."""
    with start() as file:
        quieten("PIL")
        with _identify(file) as picture:
            if frame:
                refuse_if(
                    frame >= getattr(picture, "n_frames", 1),
                    f"no page {frame + 1}: it has {getattr(picture, 'n_frames', 1)}",
                )
                picture.seek(frame)
            if picture.format == "TIFF":  # decoding reads these tags
                exif = picture.getexif()
                for group in TiffTags.TAGS_V2_GROUPS:
                    with suppress(KeyError):  # Pillow before 13 raises it for a missing group
                        exif.get_ifd(group)
            yield picture


def _identify(file: BinaryIO) -> Any:
    """The picture of a file, identified by its header, as `PIL.Image.open` does. But without
    Pillow's limit of pixels, which is global and applies before a JPEG is scaled; the limit here is
    `max_pixels`."""
    prefix = file.read(16)
    tried: set[str] = set()
    for initialise in (Image.preinit, Image.init):
        initialise()
        for name in [name for name in Image.ID if name not in tried]:
            tried.add(name)
            factory, accept = Image.OPEN[name]
            try:
                if accept is None or accept(prefix) is True:
                    file.seek(0)
                    return factory(file, "")
            except (SyntaxError, IndexError, TypeError, struct.error):  # of another format
                continue
    raise UnidentifiedImageError


def prepare(picture: Any) -> None:
    """Prepare a TIFF for decoding: allocate its memory, and set its byte order.

    Pillow allocates the memory when it decodes, and then checks its own global limit of pixels; the
    limit here is `max_pixels`. libtiff gives samples in the machine's byte order, but Pillow reads
    signed samples and floats in the file's.
    """
    if isinstance(picture, TiffImagePlugin.TiffImageFile) and picture._im is None:
        size = picture._tile_size
        picture.im = Image.core.new(picture.mode, size)  # type: ignore[attr-defined]
        picture.tile = [_native(tile) for tile in picture.tile]


def _native(tile: Any) -> Any:
    """A tile of a TIFF whose samples libtiff decodes, with the name of their native format."""
    if tile.codec_name != "libtiff" or tile.args[0] not in _NATIVE:
        return tile
    return tile._replace(args=(_NATIVE[tile.args[0]], *tile.args[1:]))


def refuse_unsound(picture: Any, max_pixels: int) -> None:
    """Refuse a file that Pillow would open by running a program, or wrongly, or with endless
    work."""
    refuse_if(picture.format == "EPS", "PostScript is a program; convert it to PNG first")
    if isinstance(picture, JpegImagePlugin.JpegImageFile):
        many = _scans(picture) > MOST_SCANS
        refuse_if(many, f"damaged: a JPEG in more than {MOST_SCANS} scans")
    if picture.format == "TIFF":  # libtiff allocates a whole tile, even if the picture is smaller
        width, height = (picture.tag_v2.get(tag, 0) for tag in _TILE)
        refuse_if(width * height > max_pixels, f"damaged: in tiles of {width} x {height} pixels")
    if picture.format == "PCX" and picture.mode == "L":
        picture.fp.seek(-_PCX_PALETTE, os.SEEK_END)
        refuse_if(picture.fp.read(1) != b"\x0c", "truncated: its palette is not there")
    tiles = [tile for tile in picture.tile if tile.codec_name == "raw"]
    if picture.format == "TIFF" and tiles:
        width, height = picture._tile_size
        covered = 0
        for tile in tiles:
            left, top, right, bottom = tile.extents
            covered += (right - left) * (bottom - top)
        refuse_if(covered < width * height, "truncated: it does not say where all its pixels are")
    if picture.format == "BMP" and tiles and "BGR;15" in str(tiles[0].args):
        # BITMAPV3 header and later: the mask of the alpha bit lies at byte 66.
        picture.fp.seek(14)
        header = picture.fp.read(56)
        masked = header[0] >= 56 and header[16] == 3 and any(header[52:56])
        refuse_if(masked, "16-bit BMP with transparency; save it as PNG")
    if (
        picture.format == "TIFF"
        and picture.tag_v2.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2
        and picture.mode not in ("RGB", "RGBA")
    ):
        alpha = picture.mode in ("LA", "PA")  # the fourth byte of a pixel, not the second
        refuse_if(alpha, "transparency in a plane of its own; save it with interleaved samples")
        deep = 16 in picture.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, ())
        refuse_if(bool(tiles) and deep, "16-bit planes; save it with interleaved colours")
    if picture.format == "TIFF" and tiles and picture.mode == "YCbCr":
        subsampling = picture.tag_v2.get(TiffImagePlugin.YCBCRSUBSAMPLING, (2, 2))
        refuse_if(subsampling != (1, 1), "subsampled YCbCr without compression; save it as PNG")


def _scans(picture: Any) -> int:
    """The number of scans of a JPEG, counted up to `MOST_SCANS` + 1. Each scan is a pass over all
    pixels, and needs only ten bytes of the file. If a file is not progressive and its first scan
    has all components, there is one scan (ISO/IEC 10918-1, section B.2)."""
    file, start = picture.fp, picture.tile[0].offset
    file.seek(start + 2)
    head = file.read(4)
    while head[:1] == b"\xff" and head[1] not in (_SOS, *_PROGRESSIVE, 0xFF):
        file.seek(int.from_bytes(head[2:]) - 2, os.SEEK_CUR)
        head = file.read(4)
    if head[:2] == bytes([0xFF, _SOS]) and file.read(1) == bytes([picture.layers]):
        return 1
    file.seek(start + 2)
    content, position, count = file.read(), 0, 0
    while count <= MOST_SCANS:
        marker = _MARKER.search(content, position)
        if marker is None or marker[0][1] == _EOI:
            break
        if marker[0][1] == _SOS:
            count += 1
        segment_length = int.from_bytes(content[marker.end() : marker.end() + 2])
        position = marker.end() + segment_length
    return count


def quieten(library: str) -> None:
    """Hide a library's warnings and log. They do not name the file, may contain values of it, which
    do not belong in a server's log, and serious problems (damage, bombs) are errors here.

    Filters are global and images are opened in threads, so that the filter is added permanently:
    adding and removing it around each image could undo a change by another thread.
    """
    if filter_of(library) not in warnings.filters:
        warnings.filterwarnings("ignore", module=rf"{library}\.")
        logging.getLogger(library).setLevel(logging.CRITICAL)
