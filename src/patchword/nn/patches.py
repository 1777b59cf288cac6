"""Images as sequences of patches."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """z_i = x_i E + b for each non-overlapping P x P patch x_i of an image (Dosovitskiy et al.
    2021, eq. 1), computed as a convolution with stride P: (B, C, H, W) -> (B, D, H / P, W / P)."""

    def __init__(self, channels: int, width: int, patch_size: int, bias: bool = True) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch_size, stride=patch_size, bias=bias)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.proj(pixels)  # type: ignore[no-any-return]


def patchify(pixels: Tensor, patch_size: int) -> Tensor:
    """Images (B, 3, H, W) -> the pixels of their patches (B, h * w, P * P * 3): patches and their
    pixels row by row, the three colours of a pixel together (He et al. 2022, section 3)."""
    x = torch.unflatten(pixels, 3, (-1, patch_size))
    x = torch.unflatten(x, 2, (-1, patch_size))  # (B, 3, h, P, w, P)
    return x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """The inverse of `patchify`: (B, h * w, P * P * 3) on a grid (h, w) -> (B, 3, H, W)."""
    x = torch.unflatten(patches, 2, (patch_size, patch_size, 3))
    x = torch.unflatten(x, 1, grid)  # (B, h, w, P, P, 3)
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
