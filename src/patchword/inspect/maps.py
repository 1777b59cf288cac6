"""Maps in a photo's own pixels, as 16-bit TIFF."""

from __future__ import annotations

import math
import os

import numpy as np
from PIL import Image, TiffImagePlugin

from patchword.atomic_write import replacing
from patchword.inspect.result import Inspection

TOP = 65535  # the largest sample
DESCRIPTION = 270  # the TIFF tag ImageDescription


def full_scale(edge: float) -> float:
    """The value that the sample 65535 stands for in all maps with this edge: the power of two at or
    above 256 * edge, at least 1/4; 1 if the edge is not known."""
    if not 0 < edge < math.inf:
        return 1.0
    return 2.0 ** max(math.ceil(math.log2(256 * edge)), -2)


def save_map(inspection: Inspection, path: str | os.PathLike[str]) -> bool:
    """Write the map (H, W) as uint16; the file's description says which value 65535 stands for.
    Larger values are written as 65535. Returns True if there are none."""
    full = full_scale(inspection.edge)
    # `inspection.values` would be cached: 64 MB for a photo of 4,000 x 4,000 pixels.
    values = np.round(inspection.geometry.to_source(inspection.grid) / full * TOP)
    picture = Image.fromarray(values.clip(0, TOP).astype(np.uint16))
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[DESCRIPTION] = f"patchword inspect: value = sample / {TOP} * {full:g}"
    with replacing(path) as part:
        picture.save(part, "TIFF", tiffinfo=tags, compression="tiff_adobe_deflate")
    return bool(values.max() <= TOP)
