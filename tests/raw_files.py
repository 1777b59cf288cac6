"""A small DNG, as cameras write it: the samples of the sensor and a JPEG preview."""

import io
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SENSOR, _PREVIEW = 4096, 2048  # offsets of the samples and of the preview's directory
_FORMS = {1: "B", 3: "H", 4: "I", 5: "I", 10: "i"}  # TIFF field types; 5 and 10 are fractions

Entry = tuple[int, int, Any]  # tag, type, values


def dng(sensor: NDArray[np.uint16], preview: bytes = b"", orientation: int = 1) -> bytes:
    """A file of DNG 1.4. sensor: samples (H, W) of a Bayer pattern; preview: a JPEG, or b"" for
    none."""
    height, width = sensor.shape
    samples = sensor.astype("<u2").tobytes()
    one, none = (1, 1), (0, 1)
    main: list[Entry] = [
        (254, 4, [0]), (256, 4, [width]), (257, 4, [height]), (258, 3, [16]), (259, 3, [1]),
        (262, 3, [32803]), (271, 2, b"Patchword\0"), (272, 2, b"Test\0"), (273, 4, [_SENSOR]),
        (274, 3, [orientation]), (277, 3, [1]), (278, 4, [height]), (279, 4, [len(samples)]),
        (33421, 3, [2, 2]), (33422, 1, [0, 1, 1, 2]), (50706, 1, [1, 4, 0, 0]),
        (50707, 1, [1, 1, 0, 0]), (50708, 2, b"Patchword Test\0"), (50714, 3, [0]),
        (50717, 4, [65535]), (50721, 10, [one, none, none, none, one, none, none, none, one]),
        (50728, 5, [one, one, one]), (50778, 3, [21]),
    ]  # fmt: skip
    preview_directory = b""
    if preview:
        with Image.open(io.BytesIO(preview)) as photo:
            columns, rows = photo.size
        main.append((330, 4, [_PREVIEW]))
        preview_offset = _SENSOR + len(samples)
        entries: list[Entry] = [
            (254, 4, [1]), (256, 4, [columns]), (257, 4, [rows]), (258, 3, [8, 8, 8]),
            (259, 3, [7]), (262, 3, [6]), (273, 4, [preview_offset]), (277, 3, [3]),
            (278, 4, [rows]), (279, 4, [len(preview)]),
        ]  # fmt: skip
        preview_directory = _directory(entries, _PREVIEW)
    header = struct.pack("<2sHI", b"II", 42, 8) + _directory(main, 8)
    file = header.ljust(_PREVIEW, b"\0") + preview_directory
    return file.ljust(_SENSOR, b"\0") + samples + preview


def _directory(entries: list[Entry], offset: int) -> bytes:
    """A TIFF directory at this offset in the file, with the values that do not fit into it."""
    entries = sorted(entries)
    table, extra = struct.pack("<H", len(entries)), b""
    extra_offset = offset + 2 + 12 * len(entries) + 4
    for tag, kind, values in entries:
        if kind == 2:
            data = values
        elif kind in (5, 10):
            data = b"".join(struct.pack("<2" + _FORMS[kind], *value) for value in values)
        else:
            data = struct.pack(f"<{len(values)}{_FORMS[kind]}", *values)
        table += struct.pack("<HHI", tag, kind, len(values))
        if len(data) <= 4:
            table += data.ljust(4, b"\0")
        else:
            table += struct.pack("<I", extra_offset + len(extra))
            extra += data + b"\0" * (len(data) % 2)
    return table + bytes(4) + extra
