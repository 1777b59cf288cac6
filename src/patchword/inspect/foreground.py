"""Which patches of a photo are the object, and not what lies around it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BORDER = 0.2  # of the photo's sides, in which no object is expected
LEAST = 0.35  # of the patches within, if they are the object
AROUND = 3  # patches by which what was found is widened, and its gaps are closed


def foreground(rows: Tensor, grid: tuple[int, int], threshold: float) -> Tensor:
    """(n,) bool of the patch tokens (n, D) of one photo, row by row of `grid`: those whose first
    principal component is above the threshold, or, where that is at most `LEAST` of the middle,
    below minus it; then widened and closed (AnomalyDINO, Damm et al. 2024, section 3.2).

    As in that paper's code patches beside each other are those one after the other, so that the
    last of a row is beside the first of the next.
    """
    component = first_component(rows)
    mask = component > threshold
    middle = mask.reshape(grid)
    for side in (0, 1):
        start, end = int(grid[side] * BORDER), int(grid[side] * (1 - BORDER))
        middle = middle.narrow(side, start, end - start)
    if int(middle.sum()) <= LEAST * middle.numel():
        mask = -component > threshold
    found = mask.float()[None]
    found = -_widened(-_widened(_widened(found)))
    return found[0] > 0


def first_component(rows: Tensor) -> Tensor:
    """The score of each row (n, D) on their first principal component, (n,) float64, whose largest
    loading is positive, as scikit-learn has it."""
    centred = rows.double() - rows.double().mean(dim=0)
    axis: Tensor = torch.linalg.eigh(centred.mT @ centred).eigenvectors[:, -1]
    turned: Tensor = axis * axis[axis.abs().argmax()].sign()
    return centred @ turned


def _widened(values: Tensor) -> Tensor:
    """The largest of each patch and those beside it."""
    return F.max_pool1d(values, AROUND, stride=1, padding=AROUND // 2)
