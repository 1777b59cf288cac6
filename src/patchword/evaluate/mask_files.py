"""Reading files of masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchword.errors import ImageError
from patchword.images import pillow

ONE_CHANNEL = ("1", "L", "P", "I", "F")  # modes of Pillow with one number per pixel


def samples(path: Path, colours: bool = False) -> NDArray[Any]:
    """The numbers (H, W) in a mask's file; for a palette image the indices, for a colour image the
    colours (H, W, C). colours: for palette and colour images the brightest of red, green and blue
    (H, W) instead. Raises ImageError for a file that cannot be opened."""
    try:
        with pillow.opened(lambda: path.open("rb"), 0) as picture:
            one_channel = picture.mode.startswith("I;") or picture.mode in ONE_CHANNEL
            if not colours or (one_channel and picture.mode != "P"):
                return np.asarray(picture)
            brightest: NDArray[Any] = np.asarray(picture.convert("RGB")).max(axis=2)
            return brightest
    except Exception as error:  # plugins raise errors of any type for a damaged header
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(str(path), f"not a mask that can be read: {reason}") from error
