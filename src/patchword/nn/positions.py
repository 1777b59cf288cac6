"""Where a patch or a word is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resample(
    positions: Tensor, grid: tuple[int, int], to: tuple[int, int], prefix: int = 1
) -> Tensor:
    """Learned positions (1, prefix + h * w, D) of one grid on another: (1, prefix + H * W, D).

    Bicubic and antialiased in float32, the `prefix` positions (class token) untouched, as timm's
    `resample_abs_pos_embed` and open_clip's `resize_pos_embed` do.
    """
    if grid == to:
        return positions
    head, body = positions[:, :prefix], positions[:, prefix:]
    image = torch.unflatten(body, 1, grid).permute(0, 3, 1, 2).float()  # (1, D, h, w)
    image = F.interpolate(image, to, mode="bicubic", antialias=True, align_corners=False)
    body = image.flatten(2).mT.to(positions.dtype)
    return torch.cat([head, body], dim=1)
