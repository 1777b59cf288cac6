"""Pixel-adaptive mask refinement: maps that follow the photo's edges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

STEPS, DILATIONS = 10, (8, 16)  # as NACLIP has them
SOFT, TINY = 0.1, 1e-8


def pamr(
    image: Tensor, maps: Tensor, steps: int = STEPS, dilations: Sequence[int] = DILATIONS
) -> Tensor:
    """maps (B, T, h, w) refined by their images (B, C, H, W): (B, T, H, W) (Araslanov & Roth 2020,
    "Single-stage semantic segmentation from image labels", section 3.2).

    Each pixel becomes `steps` times the mean of its eight neighbours at each of the dilations,
    weighted by a softmax of how similar their colours are. Smaller maps are first enlarged,
    bilinearly, corner to corner.
    """
    height, width = image.shape[-2:]
    if maps.shape[-2:] != image.shape[-2:]:
        maps = F.interpolate(maps, (height, width), mode="bilinear", align_corners=True)
    weights = alike(image, dilations)
    for _ in range(steps):
        out = torch.zeros_like(maps)
        for number, beside in enumerate(shifted(maps, dilations)):
            out.addcmul_(beside, weights[:, number, None])
        maps = out
    return maps


def alike(image: Tensor, dilations: Sequence[int]) -> Tensor:
    """How much each pixel of images (B, C, H, W) takes of each of its `neighbours`, (B, 8 D, H, W):
    a softmax of minus their difference, in tenths of the deviation of all of them and, once for
    each dilation, of the pixel itself."""
    apart = neighbours(image, dilations).sub_(image[:, :, None])  # the pixel's own would be 0
    count = 9 * len(dilations)
    total = apart.sum(dim=2)
    variance = (apart.square().sum(dim=2) - total.square() / count) / (count - 1)
    spread = variance.clamp_(min=0).sqrt_()
    distance = (apart.abs_() / (TINY + SOFT * spread)[:, :, None]).mean(dim=1)
    return torch.softmax(-distance, dim=1)


def neighbours(x: Tensor, dilations: Sequence[int]) -> Tensor:
    """All of `shifted`: (B, C, 8 D, H, W)."""
    return torch.stack(list(shifted(x, dilations)), dim=2)


def shifted(x: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    """Of x (B, C, H, W) each of the eight pixels around, at each dilation, (B, C, H, W); beyond the
    border the nearest pixel there is."""
    height, width = x.shape[-2:]
    for step in dilations:
        padded = F.pad(x, (step, step, step, step), mode="replicate")
        for down in (0, step, 2 * step):
            for across in (0, step, 2 * step):
                if (down, across) != (step, step):
                    yield padded[..., down : down + height, across : across + width]
