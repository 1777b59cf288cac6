"""Maps in a photo's own pixels, as 16-bit TIFF."""

from __future__ import annotations

import math
import os

import numpy as np
from PIL import Image, TiffImagePlugin

from patchword.atomic_write import replacing
from patchword.inspect.result import Inspection

TOP = 65535
DESCRIPTION = 270  # the TIFF tag ImageDescription


def full_scale(edge: float) -> float:
    """The value that 65535 stands for in all maps of one threshold: a power of two, 256 times
    `edge` or more and at least 1/4; 1 where there is no threshold."""
    return 2.0 ** max(math.ceil(math.log2(256 * edge)), -2) if 0 < edge < math.inf else 1.0


def save_map(found: Inspection, path: str | os.PathLike[str]) -> bool:
    """Write the map (H, W) as uint16; the file's description says which value 65535 stands for.
    Returns whether all values fit below it; larger ones are 65535."""
    full = full_scale(found.edge)
    # Not `found.values`, which would be kept with it: 64 MB of a photo of 4,000 x 4,000 pixels.
    values = np.round(found.geometry.to_source(found.grid) / full * TOP)
    picture = Image.fromarray(values.clip(0, TOP).astype(np.uint16))
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[DESCRIPTION] = f"patchword inspect: value = sample / {TOP} * {full:g}"
    with replacing(path) as part:
        picture.save(part, "TIFF", tiffinfo=tags, compression="tiff_adobe_deflate")
    return bool(values.max() <= TOP)
