"""From a value for each place to one score for the photo, and to a map."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from patchword.images.preprocess import Geometry

SIGMA = 4.0  # pixels of the network's input by which maps are smoothed

Grid = NDArray[np.float32]  # (h, w)


def top_share(values: Tensor, share: float = 0.01) -> float:
    """The mean of the int(share * n) largest of n values, at least of one: at 1% the maximum below
    200 values (AnomalyDINO, Damm et al. 2024, section 3.1, as its code counts)."""
    flat = values.flatten().double()
    return float(flat.topk(max(int(share * flat.numel()), 1)).values.mean())


def smooth_map(
    grid: Grid, height: int, width: int, truncate: float = 4.0, mode: str = "reflect"
) -> Grid:
    """Values (h, w) of cells that cover an image -> (height, width) of its pixels: bilinear, then
    a Gaussian of `SIGMA` pixels (Damm et al. 2024, section 3.1).

    truncate, mode  of `scipy.ndimage.gaussian_filter`: in how many sigmas the Gaussian ends, and
                    what lies beyond the border
    """
    from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped]

    size = (height, width)
    pixels = Geometry(size, size, (0, 0), size).to_source(grid)
    return np.asarray(gaussian_filter(pixels, SIGMA, truncate=truncate, mode=mode), np.float32)
