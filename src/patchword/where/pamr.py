"""Pixel-adaptive mask refinement, PAMR: maps that follow the photo's edges (Araslanov & Roth 2020,
"Single-stage semantic segmentation from image labels", section 3.2).

With the eight neighbours j of a pixel i at each dilation, the map m is replaced `steps` times by

    m_i <- sum over j of a_ij m_j,   a_i = softmax over j of -mean over channels c of
                                           |x_ic - x_jc| / (SOFT s_ic)

x are colours, s the standard deviation of the pixel and its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

STEPS, DILATIONS = 10, (8, 16)  # those of NACLIP
SOFT, EPS = 0.1, 1e-8
GATHERED = 4  # maps from which gathering neighbours is faster than shifting whole maps
BATCH = 32  # maps gathered at a time, which bounds memory


def pamr(
    image: Tensor, maps: Tensor, steps: int = STEPS, dilations: Sequence[int] = DILATIONS
) -> Tensor:
    """Maps (B, T, h, w) refined by their images (B, C, H, W): (B, T, H, W). Smaller maps are first
    enlarged, bilinearly with aligned corners."""
    height, width = image.shape[-2:]
    if maps.shape[-2:] != image.shape[-2:]:
        maps = F.interpolate(maps, (height, width), mode="bilinear", align_corners=True)
    weights = affinities(image, dilations)
    if maps.shape[1] < GATHERED or not maps.is_cpu:
        for _ in range(steps):
            maps = shifted_step(maps, weights, dilations)
        return maps
    indices = neighbour_indices((height, width), dilations)
    pairs = zip(maps, weights, strict=True)
    return torch.stack([gathered_steps(*pair, indices, steps) for pair in pairs])


def shifted_step(maps: Tensor, weights: Tensor, dilations: Sequence[int]) -> Tensor:
    """One step of maps (B, T, H, W) with weights (B, 8 D, H, W), by shifting whole maps."""
    out = torch.zeros_like(maps)
    for number, neighbour in enumerate(shifted(maps, dilations)):
        out.addcmul_(neighbour, weights[:, number, None])
    return out


def gathered_steps(maps: Tensor, weights: Tensor, indices: Tensor, steps: int) -> Tensor:
    """All steps of the maps (T, H, W) of one image with weights (8 D, H, W), by gathering the
    values of many maps at each neighbour. indices: see `neighbour_indices`."""
    flat = weights.flatten(1).mT.flatten()
    starts = torch.arange(0, len(flat), len(weights), dtype=indices.dtype, device=indices.device)
    out = torch.empty_like(maps)
    for first in range(0, len(maps), BATCH):
        batch = slice(first, first + BATCH)
        rows = maps[batch].flatten(1).mT.contiguous()  # (H * W, T)
        for _ in range(steps):
            rows = F.embedding_bag(indices, rows, starts, mode="sum", per_sample_weights=flat)
        out[batch] = rows.mT.reshape(-1, *maps.shape[1:])
    return out


def neighbour_indices(size: tuple[int, int], dilations: Sequence[int]) -> Tensor:
    """The flat indices of each pixel's neighbours, in the order of `shifted`: (H * W * 8 D,),
    int32."""
    down, across = torch.tensor(list(offsets(dilations)), dtype=torch.int32, device="cpu").unbind(
        dim=1
    )
    rows, columns = (torch.arange(side, dtype=torch.int32, device="cpu")[:, None] for side in size)
    y = (rows + down).clamp_(0, size[0] - 1) * size[1]  # (H, 8 D)
    return (y[:, None] + (columns + across).clamp_(0, size[1] - 1)).flatten()


def affinities(image: Tensor, dilations: Sequence[int]) -> Tensor:
    """The weights a (B, 8 D, H, W) of the neighbours of each pixel of images (B, C, H, W). The
    standard deviation counts the pixel itself once for each dilation."""
    count = 9 * len(dilations)
    distance = image.new_zeros(())
    for channel in torch.split(image, 1, dim=1):
        difference = neighbours(channel, dilations)[:, 0].sub_(channel)  # 0 for the pixel itself
        total = difference.sum(dim=1, keepdim=True)
        squares = difference.square().sum(dim=1, keepdim=True)
        variance = (squares - total.square_() / count) / (count - 1)
        deviation = variance.clamp_(min=0).sqrt_()
        distance = difference.abs_().div_(EPS + SOFT * deviation).add_(distance)
    return torch.softmax(distance / -image.shape[1], dim=1)


def neighbours(x: Tensor, dilations: Sequence[int]) -> Tensor:
    """All of `shifted`: (B, C, 8 D, H, W)."""
    return torch.stack(list(shifted(x, dilations)), dim=2)


def shifted(x: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    """Images x (B, C, H, W) shifted by each of the eight offsets at each dilation, (B, C, H, W).
    Beyond the border stands the nearest pixel."""
    height, width = x.shape[-2:]
    for step in dilations:
        padded = F.pad(x, (step, step, step, step), mode="replicate")
        for down, across in offsets([step]):
            top, left = step + down, step + across
            yield padded[..., top : top + height, left : left + width]


def offsets(dilations: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(down, across), in pixels, of the eight neighbours at each dilation."""
    for step in dilations:
        for down in (-step, 0, step):
            for across in (-step, 0, step):
                if down or across:
                    yield down, across
