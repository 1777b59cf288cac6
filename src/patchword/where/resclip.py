"""Which patches belong together, from the labels of a first pass (ResCLIP, Yang et al. 2024,
section 3.3, "semantic feedback refinement", as its code has it)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from patchword.models.edits import Semantic
from patchword.where.pamr import pamr

Grid = tuple[int, int]
BLUR, LONGEST = 5.0, 31  # standard deviation and length of the blur along the patches


def together(pixels: Tensor, texts: Tensor, grid: Grid, plan: Semantic, features: Tensor) -> Tensor:
    """E (B, n, n), float16, its maximum 1, of images (B, 3, H, W) whose patches have `features`
    (B, n, D), by unit texts (T, D)."""
    cosines = F.normalize(features.float(), dim=-1) @ texts.to(features.device, torch.float32).mT
    maps = torch.unflatten(cosines.mT, -1, grid)  # (B, T, h, w)
    out = []
    for image, own in zip(pixels.float(), maps, strict=True):
        labels = majority(label_map(image, own, plan), grid)
        matrix = blurred(same(labels, plan.paths))
        out.append((matrix / matrix.max()).half())  # as the code has it; moves cosines by 5e-5
    return torch.stack(out)


def probabilities(image: Tensor, cosines: Tensor, scale: float) -> Tensor:
    """Of each text, (T, H, W), from cosines (T, h, w) of an image (3, H, W): refined by its pixels,
    then a softmax over texts."""
    size = (image.shape[-2], image.shape[-1])
    maps = F.interpolate(cosines[None], size, mode="bilinear", align_corners=False)
    return torch.softmax(scale * pamr(image[None], maps)[0], dim=0)


def label_map(image: Tensor, cosines: Tensor, plan: Semantic) -> Tensor:
    """The most probable text of each pixel (H, W); the first where none is probable enough."""
    if len(cosines) == 1:
        return torch.zeros(image.shape[-2:], dtype=torch.long, device=image.device)
    best, labels = probabilities(image, cosines, plan.scale).max(dim=0)
    return labels.masked_fill(best < plan.threshold, 0)


def majority(labels: Tensor, grid: Grid) -> Tensor:
    """The label that most pixels (H, W) of each patch have, of several the smallest: (h, w)."""
    rows, columns = labels.shape[0] // grid[0], labels.shape[1] // grid[1]
    cut = labels[: rows * grid[0], : columns * grid[1]]
    cells = torch.unflatten(torch.unflatten(cut, 1, (grid[1], columns)), 0, (grid[0], rows))
    return cells.transpose(1, 2).flatten(2).mode(dim=-1).values


def same(labels: Tensor, paths: bool) -> Tensor:
    """Which patches share a label (h, w), row by row: (n, n). With `paths`, pairs whose line leaves
    the label count less, with distance: exp(-distance / largest distance), distances
    being Chebyshev's.

    The line is sampled at as many points as the longest one needs, of which a shorter pair tests
    the first distance + 1.
    """
    height, width = labels.shape
    equal = labels.flatten()[:, None] == labels.flatten()
    if not paths:
        return equal.float()
    if bool(equal.all()):  # as for a single text: no line leaves the label
        return equal.float()
    # Of pairs in the order (row, row, column, column), rows and columns each by themselves.
    rows, columns = (torch.arange(side, device=labels.device) for side in (height, width))
    apart = torch.maximum(_distances(rows)[..., None, None], _distances(columns))
    longest = int(apart.max())
    shares = torch.linspace(0, 1, longest + 1, dtype=torch.float32, device=labels.device)
    shares = shares[:, None, None]
    y, x = (
        ((1 - shares) * side[:, None] + shares * side).round().long() for side in (rows, columns)
    )
    start = labels[:, None, :, None].expand(apart.shape).contiguous()
    inside = torch.ones_like(apart, dtype=torch.bool)
    for step in range(longest + 1):
        across = labels.mT.index_select(0, x[step].flatten()).mT.contiguous()
        passed = across.index_select(0, y[step].flatten()).view(apart.shape)
        inside &= (passed == start) | (apart < step)
    fading = torch.where(inside, 1.0, torch.exp(-apart.float() / max(longest, 1)))
    return equal * fading.transpose(1, 2).reshape(equal.shape)


def _distances(places: Tensor) -> Tensor:
    """Between all of them (n,): (n, n)."""
    return (places - places[:, None]).abs()


def blurred(matrix: Tensor) -> Tensor:
    """Rows (n, n) blurred along the patches' numbers, each divided by its sum."""
    count = min(len(matrix), LONGEST)
    count -= count % 2 == 0
    place = torch.arange(count, dtype=matrix.dtype, device=matrix.device) - count // 2
    kernel = torch.exp(-(place**2) / (2 * BLUR**2))
    rows = F.conv1d(matrix[:, None], (kernel / kernel.sum())[None, None], padding=count // 2)[:, 0]
    return rows / (rows.sum(dim=-1, keepdim=True) + 1e-8)
