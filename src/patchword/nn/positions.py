"""Where a patch or a word is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resample(
    positions: Tensor,
    grid: tuple[int, int],
    to: tuple[int, int],
    prefix: int = 1,
    mode: str = "bicubic",
) -> Tensor:
    """Learned positions (1, prefix + h * w, D) of one grid on another: (1, prefix + H * W, D).

    Antialiased in float32, the `prefix` positions (class token) untouched. Bicubic as timm's
    `resample_abs_pos_embed` and open_clip's `resize_pos_embed`; bilinear as SigLIP 2's NaFlex
    (Tschannen et al. 2025, section 2.4).
    """
    if grid == to:
        return positions
    head, body = positions[:, :prefix], positions[:, prefix:]
    image = torch.unflatten(body, 1, grid).permute(0, 3, 1, 2).float()  # (1, D, h, w)
    image = F.interpolate(image, to, mode=mode, antialias=True, align_corners=False)
    body = image.flatten(2).mT.to(positions.dtype)
    return torch.cat([head, body], dim=1)


def sincos_2d(grid: tuple[int, int], width: int) -> Tensor:
    """Fixed sines and cosines (h * w, D) of a patch's column, then of its row (He et al. 2022,
    section 3; after Vaswani et al. 2017, 3.5, and MoCo v3). D is a multiple of 4."""
    rate = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows = torch.arange(grid[0], dtype=torch.float64).repeat_interleave(grid[1])
    columns = torch.arange(grid[1], dtype=torch.float64).repeat(grid[0])
    angles = [place[:, None] * rate for place in (columns, rows)]
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], 1).float()
