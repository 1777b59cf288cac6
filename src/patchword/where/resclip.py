"""Semantic feedback refinement: an affinity of patches from the labels of a first pass (ResCLIP,
Yang et al. 2024, section 3.3, as its code has it).

Each patch gets the label that most of its pixels have. With d the Chebyshev distance,

    E_ij = 1                  if i and j have one label, and so have all patches on the line between
           exp(-d_ij / max d) if i and j have one label, but not all patches on the line
           0                  if their labels differ

E is then blurred along its rows and divided by its maximum.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from patchword.models.edits import Semantic
from patchword.where.pamr import pamr

Grid = tuple[int, int]
SIGMA, KERNEL = 5.0, 31  # standard deviation and greatest length of the blur, in patches


def semantic_affinity(
    pixels: Tensor, texts: Tensor, grid: Grid, plan: Semantic, features: Tensor
) -> Tensor:
    """E (B, n, n), float16, of images (B, 3, H, W) whose patches have `features` (B, n, D), by unit
    texts (T, D)."""
    cosines = F.normalize(features.float(), dim=-1) @ texts.to(features.device, torch.float32).mT
    maps = torch.unflatten(cosines.mT, -1, grid)  # (B, T, h, w)
    affinities = []
    for image, image_maps in zip(pixels.float(), maps, strict=True):
        labels = majority(label_map(image, image_maps, plan), grid)
        matrix = blurred(same_label(labels, plan.paths))
        # Half precision as in the code; it changes cosines by 5e-5.
        affinities.append((matrix / matrix.max()).half())
    return torch.stack(affinities)


def probabilities(image: Tensor, cosines: Tensor, scale: float) -> Tensor:
    """The probability of each text (T, H, W) from cosines (T, h, w) of an image (3, H, W): refined
    by PAMR, then a softmax over texts."""
    size = (image.shape[-2], image.shape[-1])
    maps = F.interpolate(cosines[None], size, mode="bilinear", align_corners=False)
    return torch.softmax(scale * pamr(image[None], maps)[0], dim=0)


def label_map(image: Tensor, cosines: Tensor, plan: Semantic) -> Tensor:
    """The most probable text of each pixel (H, W); 0 below the threshold."""
    if len(cosines) == 1:
        return torch.zeros(image.shape[-2:], dtype=torch.long, device=image.device)
    best, labels = probabilities(image, cosines, plan.scale).max(dim=0)
    return labels.masked_fill(best < plan.threshold, 0)


def majority(labels: Tensor, grid: Grid) -> Tensor:
    """The label that most pixels (H, W) of each patch have, the smallest of several: (h, w)."""
    rows, columns = labels.shape[0] // grid[0], labels.shape[1] // grid[1]
    cut = labels[: rows * grid[0], : columns * grid[1]]
    cells = torch.unflatten(torch.unflatten(cut, 1, (grid[1], columns)), 0, (grid[0], rows))
    return cells.transpose(1, 2).flatten(2).mode(dim=-1).values


def same_label(labels: Tensor, paths: bool) -> Tensor:
    """E (n, n) of patches with labels (h, w), row by row, before the blur. Without `paths` all
    pairs with one label have 1.

    As in the code, each line is sampled at as many points as the longest line has patches, and a
    pair at distance d tests the first d + 1 of them.
    """
    height, width = labels.shape
    equal = labels.flatten()[:, None] == labels.flatten()
    if not paths:
        return equal.float()
    if bool(equal.all()):  # with a single text: no line crosses another label
        return equal.float()
    # Tensors of pairs have the axes (row, row, column, column): rows and columns are independent.
    rows = torch.arange(height, device=labels.device)
    columns = torch.arange(width, device=labels.device)
    row_distance, column_distance = (rows - rows[:, None]).abs(), (columns - columns[:, None]).abs()
    distance = torch.maximum(row_distance[..., None, None], column_distance)
    longest = int(distance.max())
    t = torch.linspace(0, 1, longest + 1, dtype=torch.float32, device=labels.device)
    t = t[:, None, None]
    y = ((1 - t) * rows[:, None] + t * rows).round().long()  # (longest + 1, h, h)
    x = ((1 - t) * columns[:, None] + t * columns).round().long()
    start = labels[:, None, :, None].expand(distance.shape).contiguous()
    unbroken = torch.ones_like(distance, dtype=torch.bool)
    for step in range(longest + 1):
        at_x = labels.mT.index_select(0, x[step].flatten()).mT.contiguous()
        on_line = at_x.index_select(0, y[step].flatten()).view(distance.shape)
        unbroken &= (on_line == start) | (distance < step)
    weights = torch.where(unbroken, 1.0, torch.exp(-distance.float() / max(longest, 1)))
    return equal * weights.transpose(1, 2).reshape(equal.shape)


def blurred(matrix: Tensor) -> Tensor:
    """The rows of a matrix (n, n) blurred by a Gaussian along the sequence of patches, and each
    divided by its sum."""
    length = min(len(matrix), KERNEL)
    if length % 2 == 0:
        length -= 1
    place = torch.arange(length, dtype=matrix.dtype, device=matrix.device) - length // 2
    kernel = torch.exp(-(place**2) / (2 * SIGMA**2))
    rows = F.conv1d(matrix[:, None], (kernel / kernel.sum())[None, None], padding=length // 2)[:, 0]
    return rows / (rows.sum(dim=-1, keepdim=True) + 1e-8)
