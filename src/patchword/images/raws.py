"""Camera raw files, read by rawpy (LibRaw): the photo that the camera embedded; if that is only a
thumbnail, the sensor's samples as LibRaw renders them."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from patchword.images.unreadable import RefusedError, TooManyPixelsError

_THUMBNAIL = 640  # pixels: an embedded photo with a shorter side than that is a thumbnail
_TURNS = {3: 2, 5: 1, 6: 3}  # LibRaw's flip -> quarter turns to the left


def read(file: BinaryIO, max_pixels: int) -> bytes | NDArray[np.uint8]:
    """The embedded JPEG, with its orientation in EXIF; or RGB uint8 (H, W, 3), upright. Raises
    RefusedError for a damaged file, and TooManyPixelsError."""
    import rawpy

    try:
        with rawpy.imread(file) as raw:
            photo = _embedded(raw)
            if photo is not None:
                return photo
            if raw.sizes.width * raw.sizes.height > max_pixels:
                raise TooManyPixelsError(raw.sizes.width, raw.sizes.height)
            developed: NDArray[np.uint8] = raw.postprocess(use_camera_wb=True)
            return developed
    except rawpy.LibRawError as error:
        reason = f"a damaged raw file, or of an unknown camera: {_message(error)}"
        raise RefusedError(reason) from error


def _embedded(raw: Any) -> bytes | NDArray[np.uint8] | None:
    """The embedded photo; None if there is none, or only a thumbnail."""
    import rawpy

    try:
        thumbnail = raw.extract_thumb()
    except (rawpy.LibRawNoThumbnailError, rawpy.LibRawUnsupportedThumbnailError):
        return None
    photo: bytes | NDArray[np.uint8] = thumbnail.data
    if isinstance(photo, bytes):  # a JPEG; LibRaw adds EXIF data with the raw's orientation
        with Image.open(io.BytesIO(photo)) as header:
            side = min(header.size)
    else:
        photo = np.ascontiguousarray(np.rot90(photo, _TURNS.get(raw.sizes.flip, 0)))
        side = min(photo.shape[:2])
    if side < min(_THUMBNAIL, raw.sizes.width, raw.sizes.height):
        return None
    return photo


def _message(error: Exception) -> str:
    """LibRaw's message; rawpy gives it as bytes."""
    reason = error.args[0] if error.args else ""
    return reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
