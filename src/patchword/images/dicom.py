"""DICOM files, read by pydicom.

Grey levels are those of a monitor (DICOM PS3.3, C.7.6.3.1.2 and C.11.2). Stored values are rescaled
by slope and intercept or by a table. Then the table of values of interest, or else the first
window, defines black and white; without either they are the least and greatest value that the
stored bits can have. Empty attributes count as missing. MONOCHROME1 is inverted. Colours are RGB.
"""

from __future__ import annotations

import os
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from patchword.images import kinds
from patchword.images.high_bit_depth import Samples
from patchword.images.pillow import quieten
from patchword.images.unreadable import RefusedError

if TYPE_CHECKING:
    from pydicom import Dataset

Values = NDArray[np.float64]
MOST = 256 << 20  # bytes of an unpacked file
_FRAME = 8  # least bytes of a frame: the header of its item (PS3.5, A.4)
_RESCALING = ("RescaleSlope", "RescaleIntercept")


def pages(file: BinaryIO) -> list[int]:
    """The numbers of the frames, from 0, at most as many as fit into the file. Raises RefusedError,
    and errors of pydicom for a damaged header."""
    if not kinds.opens(kinds.DICOM):
        return [0]
    from pydicom import dcmread

    quieten("pydicom")
    most = max(_unpacked(file) // _FRAME, 1)
    file.seek(0)
    header = dcmread(file, stop_before_pixels=True, specific_tags=["NumberOfFrames"])
    return list(range(min(int(header.get("NumberOfFrames") or 1), most)))


def _unpacked(file: BinaryIO) -> int:
    """The size of a file in bytes, unpacked if it is deflated (PS3.5, A.5). Raises RefusedError
    above `MOST`."""
    from pydicom.filereader import read_dataset, read_preamble
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    read_preamble(file, force=False)
    start = file.tell()
    syntax = None
    for implicit in (False, True):  # as in pydicom: some programs write the second
        file.seek(start)
        with suppress(NotImplementedError):  # an unknown type
            meta = read_dataset(file, implicit, True, stop_when=lambda tag, *_: tag >> 16 != 2)
            syntax = meta.get("TransferSyntaxUID")
        if syntax:
            break
    if syntax == DeflatedExplicitVRLittleEndian:
        return _inflated(file)
    return file.seek(0, os.SEEK_END)


def _inflated(file: BinaryIO) -> int:
    unpack, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while part := file.read(1 << 16):
        size += len(unpack.decompress(part))
        if size > MOST:
            raise RefusedError(f"it unpacks to more than {MOST >> 20} MB; save it unpacked")
    return size


def read(file: BinaryIO, frame: int, stretch: bool) -> Samples:
    """The samples of one frame. stretch: without the window, because the caller scales them."""
    from pydicom import dcmread
    from pydicom.pixels.processing import apply_color_lut
    from pydicom.pixels.utils import pixel_array

    data = dcmread(file)
    if "PixelData" not in data:
        raise RefusedError("a DICOM file without an image")
    kind = str(data.PhotometricInterpretation)
    stored = pixel_array(data, index=frame)
    bits = int(data.BitsStored)
    if kind == "PALETTE COLOR":
        colours = apply_color_lut(stored, data)
        return Samples(colours, (0, float(np.iinfo(colours.dtype).max)))
    if stored.ndim == 3:
        return Samples(stored, (0, 2.0**bits - 1))
    return _grey(data, stored, frame, stretch, inverted=kind == "MONOCHROME1")


def size(file: BinaryIO) -> tuple[int, int]:
    """(width, height), before any pixel is decoded."""
    from pydicom import dcmread

    header = dcmread(file, stop_before_pixels=True, specific_tags=["Rows", "Columns"])
    return int(header.get("Columns") or 0), int(header.get("Rows") or 0)


def _grey(
    data: Dataset, stored: NDArray[Any], frame: int, stretch: bool, inverted: bool
) -> Samples:
    from pydicom.pixels.processing import apply_modality_lut, apply_voi

    rescaling = _functional_group(data, frame, "PixelValueTransformationSequence")
    window = _functional_group(data, frame, "FrameVOILUTSequence")
    rescaled = stored
    if rescaling.get("ModalityLUTSequence") or _has_values(rescaling, *_RESCALING):
        rescaled = apply_modality_lut(stored, rescaling)
    values: Values = rescaled.astype(np.float64)
    if not stretch and data.get("VOILUTSequence"):
        entry_bits = int(data.VOILUTSequence[0].LUTDescriptor[2])
        looked_up = apply_voi(np.floor(values).astype(np.int64), data)
        return Samples(looked_up.astype(np.float64), (0, 2.0**entry_bits - 1), inverted=inverted)
    if not stretch and _has_values(window, "WindowCenter", "WindowWidth"):
        return Samples(_apply_window(values, window), (0, 1), (0, 1), inverted)
    low, high = _possible_range(data, rescaling)
    signed = data.PixelRepresentation and not rescaling.get("ModalityLUTSequence")
    offset = low if signed else None
    return Samples(values - low, (0, high - low), inverted=inverted, offset=offset)


def _has_values(data: Dataset, *names: str) -> bool:
    """True if all these attributes have values. In anonymised files some may be empty."""
    return all(data.get(name) not in (None, "") for name in names)


def _functional_group(data: Dataset, frame: int, name: str) -> Dataset:
    """The attributes of a frame: its own functional group, the one that all frames share, or the
    data set itself (PS3.3, C.7.6.16)."""
    per_frame = data.get("PerFrameFunctionalGroupsSequence") or []
    shared = data.get("SharedFunctionalGroupsSequence") or []
    for groups in (*per_frame[frame : frame + 1], *shared[:1]):
        sequence = groups.get(name)
        if sequence:
            group: Dataset = sequence[0]
            return group
    return data


def _possible_range(data: Dataset, rescaling: Dataset) -> tuple[float, float]:
    """The least and greatest value that rescaling can give."""
    table = rescaling.get("ModalityLUTSequence")
    if table:
        return 0.0, 2.0 ** int(table[0].LUTDescriptor[2]) - 1
    bits = int(data.BitsStored)
    if data.PixelRepresentation:  # signed
        low, high = -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1
    else:
        low, high = 0.0, 2.0**bits - 1
    if _has_values(rescaling, *_RESCALING):
        slope, intercept = (float(rescaling[name].value) for name in _RESCALING)
        ends = low * slope + intercept, high * slope + intercept
        return min(ends), max(ends)
    return low, high


def _apply_window(values: Values, window: Dataset) -> Values:
    """Rescaled values in 0..1 by the first window (PS3.3, C.11.2.1.2 and C.11.2.1.3)."""
    centre, width = _first(window["WindowCenter"].value), _first(window["WindowWidth"].value)
    function = str(window.get("VOILUTFunction") or "LINEAR").upper()
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    if width < 0 or (width == 0 and function != "LINEAR"):
        raise RefusedError(f"damaged: a window of width {width:g}")
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - centre) / width))
    if width == 0:
        return (values > centre).astype(np.float64)
    return np.clip((values - centre) / width + 0.5, 0, 1)


def _first(value: Any) -> float:
    return float(value if isinstance(value, (int, float, str)) else value[0])
