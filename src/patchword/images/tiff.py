"""Reads the directories of a TIFF, one for each image in it, without decoding the images (TIFF 6.0,
section 2; BigTIFF)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO

from patchword.errors import counted
from patchword.images.kinds import TIFF

_SUBFILE, _OLD_SUBFILE, _PHOTOMETRIC, _SUB_IFDS, _DNG_VERSION = 254, 255, 262, 330, 50706
_BITS, _COMPRESSION, _CHANNELS, _SAMPLE_FORMAT = 258, 259, 277, 339
_WANTED = {
    *(_SUBFILE, _OLD_SUBFILE, _PHOTOMETRIC, _SUB_IFDS, _DNG_VERSION),
    *(_BITS, _COMPRESSION, _CHANNELS, _SAMPLE_FORMAT),
}
_COMPRESSIONS = {
    **dict.fromkeys((33003, 33004, 33005, 34712), "JPEG 2000"),
    **dict.fromkeys((50002, 52546), "JPEG XL"),
    **dict.fromkeys((22610, 34934), "JPEG XR"),
    34887: "LERC",
}
_KINDS = {1: "integers", 2: "signed integers", 3: "floats", 5: "complex numbers"}  # SampleFormat
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_CFA, _LINEAR_RAW = 32803, 34892
_FORMATS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}  # field types -> struct formats
_MOST = 4_000_000  # tags in all directories; a file with more counts as damaged
_INSIDE = 16  # sub-directories of a page that are read

Tags = dict[int, tuple[int, ...]]  # the numbers in each tag of `_WANTED`


def pages(file: BinaryIO) -> list[int]:
    """The numbers, from 0, of the directories that are pages: neither reduced copies (thumbnails,
    levels of a pyramid) nor masks. The first if there are no others."""
    numbers = [number for number, tags in enumerate(directories(file)) if _is_page(tags)]
    return numbers or [0]


def is_raw(file: BinaryIO) -> bool:
    """True if a TIFF is a camera's raw file: a CR2, a DNG, or one with samples of the sensor."""
    file.seek(0)
    if file.read(10)[8:] == b"CR":  # CR2
        return True
    first = next(directories(file), {})
    if _DNG_VERSION in first:
        return True
    offsets = first.get(_SUB_IFDS, ())[:_INSIDE]
    sub_directories = [next(directories(file, offset), {}) for offset in offsets]
    photometric = [tags.get(_PHOTOMETRIC, (0,))[0] for tags in (first, *sub_directories)]
    return any(value in (_CFA, _LINEAR_RAW) for value in photometric)


def unusual(file: BinaryIO, number: int) -> str:
    """What makes a directory, from 0, unreadable for many programs, such as "3 channels of 32-bit
    floats"; empty if nothing does."""
    file.seek(0)
    if file.read(4) == TIFF[-1]:
        return "64-bit offsets in big-endian order"
    tags = next(islice(directories(file), number, None), {})
    compression = _COMPRESSIONS.get(tags.get(_COMPRESSION, (1,))[0])
    if compression:
        return f"{compression} inside"
    bits, form = (tags.get(tag, (1,))[0] for tag in (_BITS, _SAMPLE_FORMAT))
    if (bits <= 8 and form == 1) or form not in _KINDS:
        return ""
    channels = tags.get(_CHANNELS, (1,))[0]
    white = ", 0 being white" if tags.get(_PHOTOMETRIC) == (0,) else ""
    return f"{counted(channels, 'channel')} of {bits}-bit {_KINDS[form]}{white}"


def directories(file: BinaryIO, start: int | None = None) -> Iterator[Tags]:
    """The tags of each directory in the order of the file, from the one at offset `start` or from
    the first, up to a damaged one."""
    file.seek(0)
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    if head[:2] not in (b"II", b"MM") or len(head) < 16:
        return
    big = struct.unpack(order + "H", head[2:4])[0] == 43
    word, count, entry = ("Q", "Q", 20) if big else ("I", "H", 12)
    word_size = struct.calcsize(word)
    if start is None:
        (offset,) = struct.unpack_from(order + word, head, 8 if big else 4)
    else:
        offset = start
    seen: set[int] = set()
    tags_read = 0
    while offset and offset not in seen and tags_read < _MOST:
        seen.add(offset)
        file.seek(offset)
        try:
            (length,) = struct.unpack(order + count, file.read(struct.calcsize(count)))
            table = file.read(min(length, 1 << 16) * entry)
            (next_offset,) = struct.unpack(order + word, file.read(word_size))
            tags_read += 1 + len(table) // entry
            yield _tags(file, table, order, word, entry)
        except struct.error:
            return
        offset = next_offset


def _tags(file: BinaryIO, table: bytes, order: str, word: str, entry: int) -> Tags:
    """The tags of `_WANTED` in a directory. Of a tag that is there twice the first counts, as in
    Pillow."""
    tags: Tags = {}
    word_size = struct.calcsize(word)
    entries = memoryview(table)[: len(table) // entry * entry]  # without an incomplete last one
    for tag, kind, count, value in struct.iter_unpack(f"{order}HH{word}{word_size}s", entries):
        if tag not in _WANTED or tag in tags or kind not in _FORMATS or not 0 < count < 1000:
            continue
        form = f"{order}{count}{_FORMATS[kind]}"
        if struct.calcsize(form) > word_size:  # the value is an offset
            file.seek(struct.unpack(order + word, value)[0])
            value = file.read(struct.calcsize(form))
        tags[tag] = struct.unpack_from(form, value)
    return tags


def _is_page(tags: Tags) -> bool:
    if _SUBFILE in tags:
        return not tags[_SUBFILE][0] & (_REDUCED | _MASK)
    return tags.get(_OLD_SUBFILE, (0,))[0] != 2  # a reduced copy
