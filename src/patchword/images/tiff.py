"""The directories of a TIFF, one for each image in it, without decoding any (TIFF 6.0, section 2;
BigTIFF)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO

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
_FORMATS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}  # field types that are read here
_MOST = 4_000_000  # tags in all directories, after which a file is taken to be damaged
_INSIDE = 16  # directories in a page that are looked at

Tags = dict[int, tuple[int, ...]]  # the numbers of those tags that are read


def pages(file: BinaryIO) -> list[int]:
    """Which of the directories are pages, from 0: not reduced copies (thumbnails, levels of a
    pyramid) nor masks. Where all are, the first."""
    kept = [number for number, tags in enumerate(directories(file)) if _is_page(tags)]
    return kept or [0]


def is_raw(file: BinaryIO) -> bool:
    """Whether a TIFF is the raw file of a camera: a DNG, or with samples of its sensor."""
    file.seek(0)
    if file.read(10)[8:] == b"CR":  # CR2
        return True
    first = next(directories(file), {})
    inside = [next(directories(file, at), {}) for at in first.get(_SUB_IFDS, ())[:_INSIDE]]
    sensors = (tags.get(_PHOTOMETRIC, (0,))[0] in (_CFA, _LINEAR_RAW) for tags in (first, *inside))
    return _DNG_VERSION in first or any(sensors)


def unusual(file: BinaryIO, number: int) -> str:
    """What a directory, from 0, has that few programs read: "3 channels of 32-bit floats"; empty
    where it has nothing of that kind."""
    file.seek(0)
    if file.read(4) == TIFF[-1]:
        return "64-bit offsets in big-endian order"
    tags = next(islice(directories(file), number, None), {})
    if compression := _COMPRESSIONS.get(tags.get(_COMPRESSION, (1,))[0]):
        return f"{compression} inside"
    bits, form = (tags.get(tag, (1,))[0] for tag in (_BITS, _SAMPLE_FORMAT))
    if (bits <= 8 and form == 1) or form not in _KINDS:
        return ""
    channels = tags.get(_CHANNELS, (1,))[0]
    white = ", 0 being white" if tags.get(_PHOTOMETRIC) == (0,) else ""
    return f"{channels} channel{'s' * (channels != 1)} of {bits}-bit {_KINDS[form]}{white}"


def directories(file: BinaryIO, start: int | None = None) -> Iterator[Tags]:
    """The tags of each directory in the order of the file, from the one at `start` or from the
    first; a damaged one ends them."""
    file.seek(0)
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    if head[:2] not in (b"II", b"MM") or len(head) < 16:
        return
    big = struct.unpack(order + "H", head[2:4])[0] == 43
    word, count, entry = ("Q", "Q", 20) if big else ("I", "H", 12)
    wide = struct.calcsize(word)
    at = struct.unpack_from(order + word, head, 8 if big else 4)[0] if start is None else start
    seen: set[int] = set()
    read = 0
    while at and at not in seen and read < _MOST:
        seen.add(at)
        file.seek(at)
        try:
            (length,) = struct.unpack(order + count, file.read(struct.calcsize(count)))
            table = file.read(min(length, 1 << 16) * entry)
            (following,) = struct.unpack(order + word, file.read(wide))
            read += 1 + len(table) // entry
            yield _tags(file, table, order, word, entry)
        except struct.error:
            return
        at = following


def _tags(file: BinaryIO, table: bytes, order: str, word: str, entry: int) -> Tags:
    """The tags of a directory that are used here; of one that is there twice the first, as Pillow
    has it."""
    found: Tags = {}
    wide = struct.calcsize(word)
    whole = memoryview(table)[: len(table) // entry * entry]
    for tag, kind, count, value in struct.iter_unpack(f"{order}HH{word}{wide}s", whole):
        if tag not in _WANTED or tag in found or kind not in _FORMATS or not 0 < count < 1000:
            continue
        form = f"{order}{count}{_FORMATS[kind]}"
        if struct.calcsize(form) > wide:
            file.seek(struct.unpack(order + word, value)[0])
            value = file.read(struct.calcsize(form))
        found[tag] = struct.unpack_from(form, value)
    return found


def _is_page(tags: Tags) -> bool:
    if _SUBFILE in tags:
        return not tags[_SUBFILE][0] & (_REDUCED | _MASK)
    return tags.get(_OLD_SUBFILE, (0,))[0] != 2  # a reduced copy
