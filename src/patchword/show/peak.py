"""The peak of a map, finer than the patches that the map comes from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from patchword.errors import PatchwordError

LEVEL = 0.8  # of a map's range: the peak is what lies above it around the largest value
MAX_SIDE = 512  # longer side at which the peak is computed, pixels


def peak(values: NDArray[np.floating]) -> tuple[float, int, int]:
    """The largest value of a map (H, W), and x and y of the centre of its peak. NaN is unknown.

    A map is interpolated between the centres of patches, so its largest value always lies at such a
    centre. The peak is the region around it above `LEVEL`. Its centre is the mean position in it,
    weighted by the height above `LEVEL`; if that lies outside the peak, as within a ring, it is the
    position of the largest value.

    Raises PatchwordError for a map of NaN alone.
    """
    from scipy.ndimage import label  # type: ignore[import-untyped]

    if np.isnan(values).all():
        raise PatchwordError(
            "a map of NaN alone: the model's numbers are beyond what its type holds; load it in "
            "float32, if it is not of a training that diverged"
        )
    high, low = float(np.nanmax(values)), float(np.nanmin(values))
    top, left = np.unravel_index(int(np.nanargmax(values)), values.shape)
    level = low + LEVEL * (high - low)
    step = -(-max(values.shape) // MAX_SIDE)
    part = np.nan_to_num(values[top % step :: step, left % step :: step] - level, nan=-1.0)
    parts, _ = label(part > 0)  # connected by sides; 0 outside
    region = (part > 0) & (parts == parts[int(top) // step, int(left) // step])
    height = np.where(region, part, 0)
    if not height.any():  # a flat map
        return high, int(left), int(top)
    rows, columns = np.indices(part.shape)
    y = round(float((rows * height).sum() / height.sum()) * step) + int(top) % step
    x = round(float((columns * height).sum() / height.sum()) * step) + int(left) % step
    return (high, x, y) if values[y, x] >= level else (high, int(left), int(top))
