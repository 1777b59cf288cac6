"""Pixel-adaptive mask refinement: maps that follow the photo's edges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

STEPS, DILATIONS = 10, (8, 16)  # as NACLIP has them
SOFT, TINY = 0.1, 1e-8
FEW, AT_ONCE = 4, 32  # maps: fewer are faster shifted whole than gathered; more take more memory


def pamr(
    image: Tensor, maps: Tensor, steps: int = STEPS, dilations: Sequence[int] = DILATIONS
) -> Tensor:
    """maps (B, T, h, w) refined by their images (B, C, H, W): (B, T, H, W) (Araslanov & Roth 2020,
    "Single-stage semantic segmentation from image labels", section 3.2).

    Each pixel becomes `steps` times the mean of its eight neighbours at each of the dilations,
    weighted by a softmax of how similar their colours are: weights of the image alone, computed
    once for all maps. Smaller maps are first enlarged, bilinearly, corner to corner.
    """
    height, width = image.shape[-2:]
    if maps.shape[-2:] != image.shape[-2:]:
        maps = F.interpolate(maps, (height, width), mode="bilinear", align_corners=True)
    weights = alike(image, dilations)
    if maps.shape[1] < FEW or not maps.is_cpu:
        for _ in range(steps):
            maps = mixed(maps, weights, dilations)
        return maps
    around = beside((height, width), dilations)
    each = [gathered(own, of, around, steps) for own, of in zip(maps, weights, strict=True)]
    return torch.stack(each)


def mixed(maps: Tensor, weights: Tensor, dilations: Sequence[int]) -> Tensor:
    """One step of maps (B, T, H, W), neighbour by neighbour; weights (B, 8 D, H, W)."""
    out = torch.zeros_like(maps)
    for number, neighbour in enumerate(shifted(maps, dilations)):
        out.addcmul_(neighbour, weights[:, number, None])
    return out


def gathered(maps: Tensor, weights: Tensor, around: Tensor, steps: int) -> Tensor:
    """Maps (T, H, W) after all steps, pixel by pixel: each gathers its neighbours' values of many
    maps at once. weights (8 D, H, W); around: `beside`."""
    flat = weights.flatten(1).mT.flatten()
    starts = torch.arange(0, len(flat), len(weights), dtype=around.dtype, device=around.device)
    out = torch.empty_like(maps)
    for first in range(0, len(maps), AT_ONCE):
        some = slice(first, first + AT_ONCE)
        rows = maps[some].flatten(1).mT.contiguous()  # (H * W, T)
        for _ in range(steps):
            rows = F.embedding_bag(around, rows, starts, mode="sum", per_sample_weights=flat)
        out[some] = rows.mT.reshape(-1, *maps.shape[1:])
    return out


def beside(size: tuple[int, int], dilations: Sequence[int]) -> Tensor:
    """The numbers of each pixel's neighbours, in the order of `shifted`: (H * W * 8 D,), int32."""
    down, across = torch.tensor(list(offsets(dilations)), dtype=torch.int32, device="cpu").unbind(
        dim=1
    )
    rows, columns = (torch.arange(side, dtype=torch.int32, device="cpu")[:, None] for side in size)
    y = (rows + down).clamp_(0, size[0] - 1) * size[1]  # (H, 8 D)
    return (y[:, None] + (columns + across).clamp_(0, size[1] - 1)).flatten()


def alike(image: Tensor, dilations: Sequence[int]) -> Tensor:
    """How much each pixel of images (B, C, H, W) takes of each of its `neighbours`, (B, 8 D, H, W):
    a softmax of minus their difference, in tenths of the deviation of all of them and, once for
    each dilation, of the pixel itself."""
    count = 9 * len(dilations)
    distance = image.new_zeros(())
    for channel in torch.split(image, 1, dim=1):
        apart = neighbours(channel, dilations)[:, 0].sub_(channel)  # the pixel's own would be 0
        total = apart.sum(dim=1, keepdim=True)
        squares = apart.square().sum(dim=1, keepdim=True)
        variance = (squares - total.square_() / count) / (count - 1)
        spread = variance.clamp_(min=0).sqrt_()
        distance = apart.abs_().div_(TINY + SOFT * spread).add_(distance)
    return torch.softmax(distance / -image.shape[1], dim=1)


def neighbours(x: Tensor, dilations: Sequence[int]) -> Tensor:
    """All of `shifted`: (B, C, 8 D, H, W)."""
    return torch.stack(list(shifted(x, dilations)), dim=2)


def shifted(x: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    """Of x (B, C, H, W) each of the eight pixels around, at each dilation, (B, C, H, W); beyond the
    border the nearest pixel there is."""
    height, width = x.shape[-2:]
    for step in dilations:
        padded = F.pad(x, (step, step, step, step), mode="replicate")
        for down, across in offsets([step]):
            top, left = step + down, step + across
            yield padded[..., top : top + height, left : left + width]


def offsets(dilations: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Down and across, in pixels, to the eight around at each dilation."""
    for step in dilations:
        for down in (-step, 0, step):
            for across in (-step, 0, step):
                if down or across:
                    yield down, across
