"""Files of masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchword.errors import ImageError
from patchword.images import pillow

NUMBERS = ("1", "L", "P", "I", "F")  # modes of Pillow with one number a pixel; "I;16" too


def samples(path: Path, colours: bool = False) -> NDArray[Any]:
    """The numbers (H, W) in a mask's file, of a palette the numbers of its entries; of a file with
    colours those, (H, W, C). colours: the brightest of red, green and blue instead, (H, W), where
    there are colours or a palette. Raises ImageError for a file that cannot be opened."""
    try:
        with pillow.opened(lambda: path.open("rb"), 0) as picture:
            grey = picture.mode.startswith("I;") or picture.mode in NUMBERS
            if not colours or (grey and picture.mode != "P"):
                return np.asarray(picture)
            found: NDArray[Any] = np.asarray(picture.convert("RGB")).max(axis=2)
            return found
    # As where photos are opened: a damaged header makes plugins raise whatever it is.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(str(path), f"not a mask that can be read: {reason}") from error
