"""An image as patches."""

from __future__ import annotations

from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """Non-overlapping patches through one linear map, as a strided convolution (Dosovitskiy et al.
    2021, eq. 1): (B, C, H, W) -> (B, D, H / P, W / P)."""

    def __init__(self, channels: int, width: int, patch_size: int, bias: bool = True) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch_size, stride=patch_size, bias=bias)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.proj(pixels)  # type: ignore[no-any-return]
