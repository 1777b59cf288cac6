"""From a value for each patch to the score of a photo, and to a map of its pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from patchword.images.preprocess import Geometry

SIGMA = 4.0  # pixels of the network's input: the Gaussian that smooths maps

Grid = NDArray[np.float32]  # (h, w)


def top_share(values: Tensor, share: float = 0.01) -> float:
    """The mean of the largest int(share * n) of n values, at least of one: at 1% the maximum below
    200 values (AnomalyDINO, Damm et al. 2024, section 3.1, as its code counts)."""
    flat = values.flatten().double()
    return float(flat.topk(max(int(share * flat.numel()), 1)).values.mean())


def smooth_map(
    grid: Grid, height: int, width: int, truncate: float = 4.0, mode: str = "reflect"
) -> Grid:
    """Values (h, w) of patches that cover an image -> (height, width) of its pixels: bilinear, then
    a Gaussian of `SIGMA` pixels (Damm et al. 2024, section 3.1).

    truncate, mode  as in `scipy.ndimage.gaussian_filter`: at how many sigmas the Gaussian ends, and
                    what stands beyond the border
    """
    from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped]

    size = (height, width)
    pixels = Geometry(size, size, (0, 0), size).to_source(grid)
    return np.asarray(gaussian_filter(pixels, SIGMA, truncate=truncate, mode=mode), np.float32)
