"""DICOM, read by pydicom: rescaled, windowed, dark where low.

The grey levels of a monitor (DICOM PS3.3, C.7.6.3.1.2 and C.11.2): stored values are rescaled
(slope and intercept, or a table), and the table of values of interest, or else the first window,
defines black and white; without either, they are the least and the greatest value of the stored
bits. What is there and empty is not there. MONOCHROME1 is inverted. Colours are RGB.
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
MOST = 256 << 20  # bytes of a file when it is unpacked
_FRAME = 8  # bytes of a frame, at least: the head of its item (PS3.5, A.4)
_RESCALING = ("RescaleSlope", "RescaleIntercept")


def pages(file: BinaryIO) -> list[int]:
    """The numbers of the frames, from 0, at most as many as the file has room for. Raises
    RefusedError, and whatever pydicom makes of a damaged header."""
    if not kinds.opens(kinds.DICOM):
        return [0]
    from pydicom import dcmread

    quieten("pydicom")
    most = max(_unpacked(file) // _FRAME, 1)
    file.seek(0)
    header = dcmread(file, stop_before_pixels=True, specific_tags=["NumberOfFrames"])
    return list(range(min(int(header.get("NumberOfFrames") or 1), most)))


def _unpacked(file: BinaryIO) -> int:
    """The bytes of a file, of one that is deflated (PS3.5, A.5) when it is unpacked. Raises
    RefusedError for many."""
    from pydicom.filereader import read_dataset, read_preamble
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    read_preamble(file, force=False)
    start = file.tell()
    syntax = None
    for implicit in (False, True):  # as pydicom reads it: some write the second
        file.seek(start)
        with suppress(NotImplementedError):  # a type that there is not
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
    """One frame. stretch: only rescaled, without its window, to be scaled by the caller."""
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

    change = _functional(data, frame, "PixelValueTransformationSequence")
    window = _functional(data, frame, "FrameVOILUTSequence")
    rescales = change.get("ModalityLUTSequence") or _stated(change, *_RESCALING)
    rescaled = apply_modality_lut(stored, change) if rescales else stored
    values: Values = rescaled.astype(np.float64)
    if not stretch and data.get("VOILUTSequence"):
        entries = int(data.VOILUTSequence[0].LUTDescriptor[2])  # bits of an entry
        shown = apply_voi(np.floor(values).astype(np.int64), data)
        return Samples(shown.astype(np.float64), (0, 2.0**entries - 1), inverted=inverted)
    if not stretch and _stated(window, "WindowCenter", "WindowWidth"):
        return Samples(_windowed(values, window), (0, 1), (0, 1), inverted)
    low, high = _extent(data, change)
    signed = data.PixelRepresentation and not change.get("ModalityLUTSequence")
    least = low if signed else None
    return Samples(values - low, (0, high - low), inverted=inverted, least=least)


def _stated(data: Dataset, *names: str) -> bool:
    """Whether a data set has all these attributes; anonymised files leave some empty."""
    return all(data.get(name) not in (None, "") for name in names)


def _functional(data: Dataset, frame: int, name: str) -> Dataset:
    """The part of a data set with the attributes of a frame: its functional group, the one that
    frames share, or the data set itself (PS3.3, C.7.6.16)."""
    own = data.get("PerFrameFunctionalGroupsSequence") or []
    shared = data.get("SharedFunctionalGroupsSequence") or []
    for group in (*own[frame : frame + 1], *shared[:1]):
        if found := group.get(name):
            group_of_one: Dataset = found[0]
            return group_of_one
    return data


def _extent(data: Dataset, change: Dataset) -> tuple[float, float]:
    """The least and greatest value that rescaling can give."""
    if table := change.get("ModalityLUTSequence"):
        return 0.0, 2.0 ** int(table[0].LUTDescriptor[2]) - 1
    bits, signed = int(data.BitsStored), bool(data.PixelRepresentation)
    ends = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
    if _stated(change, *_RESCALING):
        slope, intercept = (float(change[name].value) for name in _RESCALING)
        rescaled = [end * slope + intercept for end in ends]
        return min(rescaled), max(rescaled)
    return ends


def _windowed(values: Values, window: Dataset) -> Values:
    """Rescaled values in 0..1 by the first window (PS3.3, C.11.2.1.2 and C.11.2.1.3)."""
    centre, width = (_first(window[name].value) for name in ("WindowCenter", "WindowWidth"))
    shape = str(window.get("VOILUTFunction") or "LINEAR").upper()
    if shape == "LINEAR":
        centre, width = centre - 0.5, width - 1
    if width < 0 or (width == 0 and shape != "LINEAR"):
        raise RefusedError(f"damaged: a window of width {width:g}")
    if shape == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - centre) / width))
    if width == 0:
        return (values > centre).astype(np.float64)
    return np.clip((values - centre) / width + 0.5, 0, 1)


def _first(value: Any) -> float:
    return float(value if isinstance(value, (int, float, str)) else value[0])
