"""Which patches of a photo are the object, and which are its background."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BORDER = 0.2  # share of each side of the photo that is not the middle
LEAST = 0.35  # share of the middle that the object covers
KERNEL = 3  # patches: the side of the dilation and of the closing


def foreground(rows: Tensor, grid: tuple[int, int], threshold: float) -> Tensor:
    """(n,) bool of the patch tokens (n, D) of one photo, row by row of `grid`: which are the object
    (AnomalyDINO, Damm et al. 2024, section 3.2).

    With c the first principal component, the object is where c > threshold; where that is at most
    `LEAST` of the photo's middle, it is where -c > threshold. The mask is then dilated and closed.
    As in the paper's code these run along the flat sequence of patches, so that the last patch of
    a row is next to the first of the following row.
    """
    component = first_component(rows)
    mask = component > threshold
    middle = mask.reshape(grid)
    for axis in (0, 1):
        start, end = int(grid[axis] * BORDER), int(grid[axis] * (1 - BORDER))
        middle = middle.narrow(axis, start, end - start)
    if int(middle.sum()) <= LEAST * middle.numel():
        mask = -component > threshold
    dilated = _dilate(mask.float()[None])
    closed = _erode(_dilate(dilated))
    return closed[0] > 0


def first_component(rows: Tensor) -> Tensor:
    """The score of each row (n, D) on the first principal component of all, (n,) float64. Its sign
    is that of scikit-learn's PCA: the loading of largest magnitude is positive."""
    centred = rows.double() - rows.double().mean(dim=0)
    axis: Tensor = torch.linalg.eigh(centred.mT @ centred).eigenvectors[:, -1]
    signed: Tensor = axis * axis[axis.abs().argmax()].sign()
    return centred @ signed


def _dilate(mask: Tensor) -> Tensor:
    """The largest value of each patch and its neighbours in the sequence."""
    return F.max_pool1d(mask, KERNEL, stride=1, padding=KERNEL // 2)


def _erode(mask: Tensor) -> Tensor:
    """The smallest value of each patch and its neighbours in the sequence."""
    return -_dilate(-mask)
