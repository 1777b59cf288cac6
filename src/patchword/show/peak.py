"""Where a map is highest, finer than the patches that it comes from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from patchword.errors import PatchwordError

LEVEL = 0.8  # of a map's range: what is above it, around the largest value, is the peak
FINEST = 512  # longer side at which the peak is outlined, pixels


def peak(values: NDArray[np.floating]) -> tuple[float, int, int]:
    """The largest of a map (H, W), and x and y of the middle of the peak around it. NaN is unknown.

    The map between the middles of patches is a straight line, so that its largest value is always
    in the middle of one. The middle of the peak is not: it is the mean place, weighted by height
    above `LEVEL`, of what is connected to the largest value and above `LEVEL` of the map's range.
    Where that place is itself not on the peak, as within a ring, it is the largest value's.

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
    step = -(-max(values.shape) // FINEST)
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
