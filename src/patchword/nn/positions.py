"""Position embeddings: learned, resampled, sine-cosine, rotary, and over an image pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchword.errors import ConfigError

Grid = tuple[int, int]  # patches (rows, columns)


def learned(count: int, width: int) -> nn.Parameter:
    """A parameter of position embeddings (1, count, width) (Dosovitskiy et al. 2021, eq. 1): one
    vector for each token, added to it."""
    values = nn.Parameter(torch.empty(1, count, width))
    nn.init.normal_(values, std=0.02)
    return values


def resample(
    positions: Tensor,
    grid: Grid,
    new_grid: Grid,
    prefix: int = 1,
    mode: str = "bicubic",
    antialias: bool = True,
    offset: float = 0.0,
) -> Tensor:
    """Interpolate learned position embeddings (1, prefix + h * w, D) of one grid to another: (1,
    prefix + H * W, D). The first `prefix` (class token) stay as they are. Computed in float32.

    Bicubic and antialiased as in timm's `resample_abs_pos_embed` and open_clip's
    `resize_pos_embed`; bicubic and not antialiased as in transformers' `interpolate_pos_encoding`;
    bilinear and antialiased as in SigLIP 2's NaFlex (Tschannen et al. 2025, section 2.4). With
    `offset` a side is scaled by (H + offset) / h instead of H / h, as in DINO and SCLIP.
    """
    if grid == new_grid:
        return positions
    prefix_positions, patch_positions = positions[:, :prefix], positions[:, prefix:]
    # Contiguous: from channels-last memory torch (2.13, CPU) resamples wrongly to a width of 1.
    image = torch.unflatten(patch_positions, 1, grid).permute(0, 3, 1, 2)  # (1, D, h, w)
    image = image.float().contiguous()
    if offset:
        factor = ((new_grid[0] + offset) / grid[0], (new_grid[1] + offset) / grid[1])
        image = F.interpolate(image, scale_factor=factor, mode=mode, antialias=antialias)
    else:
        image = F.interpolate(image, new_grid, mode=mode, antialias=antialias, align_corners=False)
    patch_positions = image.flatten(2).mT.to(positions.dtype)
    return torch.cat([prefix_positions, patch_positions], dim=1)


def sincos_2d(grid: Grid, width: int) -> Tensor:
    """Fixed sine-cosine positions (h * w, D), D a multiple of 4 (He et al. 2022, section 3; after
    Vaswani et al. 2017, 3.5, and MoCo v3). For the patch in column x and row y:

        rate_t = 10000^(-t / (D / 4)),   t = 0, ..., D / 4 - 1
        position = [sin(x rate); cos(x rate); sin(y rate); cos(y rate)]
    """
    if width % 4:
        raise ConfigError(f"width {width} is no multiple of 4, as sine-cosine positions need")
    rate = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows = torch.arange(grid[0], dtype=torch.float64).repeat_interleave(grid[1])
    columns = torch.arange(grid[1], dtype=torch.float64).repeat(grid[0])
    x, y = columns[:, None] * rate, rows[:, None] * rate  # (h * w, D / 4)
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1).float()


def rope_2d(grid: Grid, width: int, prefix: int = 0, device: torch.device | None = None) -> Tensor:
    """Axial rotary position embeddings (Heo et al. 2024, "Rotary position embedding for vision
    transformer", section 3.2; after Su et al. 2021): cosines and sines (2, prefix + h * w, d / 2)
    of the angles by which `rotate` turns pairs of channels. For the patch in column x and row y:

        rate_t = 100^(-t / (d / 4)),   t = 0, ..., d / 4 - 1
        angle = [x rate; y rate]

    The product of a rotated query and a rotated key depends only on the offset between their
    patches. width: d, of one head, a multiple of 4. The `prefix` tokens have no position: their
    angles are 0.
    """
    if width % 4:
        raise ConfigError(
            f"rotary positions need a head width that is a multiple of 4, not {width}"
        )
    rate = 100.0 ** -(torch.arange(width // 4, device=device, dtype=torch.float32) / (width // 4))
    rows = torch.arange(grid[0], device=device).repeat_interleave(grid[1])
    columns = torch.arange(grid[1], device=device).repeat(grid[0])
    angles = torch.cat([columns[:, None] * rate, rows[:, None] * rate], dim=1)
    angles = F.pad(angles, (0, 0, prefix, 0))
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Rotate queries or keys x (B, H, N, d) by angles a (Su et al. 2021, 3.4.2). Channels 2t and
    2t + 1 form the pair (u, v):

        (u, v) -> (u cos a - v sin a, u sin a + v cos a)

    rotary: cosines and sines (2, N, d / 2), or (2, B, 1, N, d / 2) for images of different sizes.
    """
    cosine, sine = rotary
    u, v = torch.unflatten(x, -1, (-1, 2)).unbind(dim=-1)
    rotated = torch.stack([u * cosine - v * sine, u * sine + v * cosine], dim=-1)
    return rotated.flatten(-2).to(x.dtype)


def pyramid_grids(grid: Grid) -> list[Grid]:
    """Patch grids of an image's scaled-down versions, largest first (Shu & Bain 2024, RetinaViT,
    arXiv 2403.13677). The shorter side takes the powers of 2 below its own number of patches (in
    the paper 128, 64, 32 and 16 pixels below 224); the longer one keeps the aspect ratio."""
    rows, columns = grid
    short, long = min(grid), max(grid)
    levels = []
    for power in reversed(range((short - 1).bit_length())):
        shorter = 2**power
        longer = round(shorter * long / short)
        levels.append((shorter, longer) if rows <= columns else (longer, shorter))
    return levels


def scaled_average(positions: Tensor, grid: Grid, levels: Sequence[Grid]) -> Tensor:
    """Scaled average positions of a pyramid's levels (Shu & Bain 2024, RetinaViT), from those of
    the image's own patches (1, h * w, D): (1, sum of rows * columns, D), level after level.

    A patch of a scaled-down image covers an area of a patches of the full image, some in part:

        position = sqrt(a) * mean of their positions, weighted by the area covered

    Its direction encodes where the patch is, its length how much of the image it covers.
    """
    full = torch.unflatten(positions[0].float(), 0, grid)  # (h, w, D)
    parts = [full.new_empty(0, full.shape[-1])]  # for an image that has no levels
    for rows, columns in levels:
        row_weights = _overlaps(grid[0], rows, positions.device)
        column_weights = _overlaps(grid[1], columns, positions.device)
        mean = torch.einsum("rh,cw,hwd->rcd", row_weights, column_weights, full)
        area = grid[0] / rows * grid[1] / columns
        parts.append(mean.flatten(0, 1) * area**0.5)
    return torch.cat(parts)[None].to(positions.dtype)


def _overlaps(count: int, cells: int, device: torch.device) -> Tensor:
    """A line is divided into `cells` and into `count` equal parts. Of each cell, the share (cells,
    count) that lies in each of the parts; rows sum to 1."""
    edges = torch.arange(cells + 1, device=device) * (count / cells)
    starts = torch.arange(count, device=device)
    left = torch.maximum(edges[:-1, None], starts)
    right = torch.minimum(edges[1:, None], starts + 1)
    return (right - left).clamp(min=0) * (cells / count)
