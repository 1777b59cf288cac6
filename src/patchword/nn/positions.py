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
    to: Grid,
    prefix: int = 1,
    mode: str = "bicubic",
    antialias: bool = True,
    offset: float = 0.0,
) -> Tensor:
    """Learned position embeddings (1, prefix + h * w, D) of one grid, interpolated to another: (1,
    prefix + H * W, D).

    In float32, the `prefix` positions (class token) untouched. Bicubic, antialiased as timm's
    `resample_abs_pos_embed` and open_clip's `resize_pos_embed`, or not, as transformers'
    `interpolate_pos_encoding`; bilinear and antialiased as SigLIP 2's NaFlex (Tschannen et al.
    2025, section 2.4). With `offset` the factor of a side is (H + offset) / h
    instead of H / h, as DINO and SCLIP have it.
    """
    if grid == to:
        return positions
    head, body = positions[:, :prefix], positions[:, prefix:]
    # Contiguous: from channels-last memory torch (2.13, CPU) resamples wrongly to a width of 1.
    image = torch.unflatten(body, 1, grid).permute(0, 3, 1, 2).float().contiguous()  # (1, D, h, w)
    if offset:
        factor = ((to[0] + offset) / grid[0], (to[1] + offset) / grid[1])
        image = F.interpolate(image, scale_factor=factor, mode=mode, antialias=antialias)
    else:
        image = F.interpolate(image, to, mode=mode, antialias=antialias, align_corners=False)
    body = image.flatten(2).mT.to(positions.dtype)
    return torch.cat([head, body], dim=1)


def sincos_2d(grid: Grid, width: int) -> Tensor:
    """Fixed sines and cosines (h * w, D) of a patch's column, then of its row (He et al. 2022,
    section 3; after Vaswani et al. 2017, 3.5, and MoCo v3). D is a multiple of 4."""
    if width % 4:
        raise ConfigError(f"width {width} is no multiple of 4, as sine-cosine positions need")
    rate = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows = torch.arange(grid[0], dtype=torch.float64).repeat_interleave(grid[1])
    columns = torch.arange(grid[1], dtype=torch.float64).repeat(grid[0])
    angles = [place[:, None] * rate for place in (columns, rows)]
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], 1).float()


def rope_2d(grid: Grid, width: int, prefix: int = 0, device: torch.device | None = None) -> Tensor:
    """Axial rotary position embeddings: cosines and sines (2, prefix + h * w, d / 2), for `rotate`.

    width: d, of one head, a multiple of 4. Pair t of channels of a query or key is rotated by the
    patch's column times 100^(-t / (d / 4)); d / 4 pairs later, by its row times the same (Heo et
    al. 2024, "Rotary position embedding for vision transformer", section 3.2; after Su et al.
    2021). The product of a query and a key then depends on the offset of their patches alone. The
    `prefix` tokens have no position and are not rotated.
    """
    if width % 4:
        raise ConfigError(
            f"rotary positions need a head width that is a multiple of 4, not {width}"
        )
    rate = 100.0 ** -(torch.arange(width // 4, device=device, dtype=torch.float32) / (width // 4))
    rows = torch.arange(grid[0], device=device).repeat_interleave(grid[1])
    columns = torch.arange(grid[1], device=device).repeat(grid[0])
    angles = torch.cat([place[:, None] * rate for place in (columns, rows)], dim=1)
    angles = F.pad(angles, (0, 0, prefix, 0))
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Queries or keys (B, H, N, d) rotated, channels 2t and 2t + 1 as a pair, by `rotary`: cosines
    and sines (2, N, d / 2), or (2, B, 1, N, d / 2) for images of different sizes."""
    cosine, sine = rotary
    first, second = torch.unflatten(x, -1, (-1, 2)).unbind(dim=-1)
    turned = [first * cosine - second * sine, first * sine + second * cosine]
    return torch.stack(turned, dim=-1).flatten(-2).to(x.dtype)


def pyramid_grids(grid: Grid) -> list[Grid]:
    """Patch grids of an image's scaled-down versions, largest first: the shorter side has the
    powers of 2 below its own number of patches (Shu & Bain 2024, RetinaViT, arXiv 2403.13677:
    128, 64, 32 and 16 pixels below 224), and the longer one keeps the image's shape."""
    short, long = min(grid), max(grid)
    levels = []
    for power in reversed(range((short - 1).bit_length())):
        pair = (2**power, round(2**power * long / short))
        levels.append(pair if grid[0] <= grid[1] else pair[::-1])
    return levels


def scaled_average(positions: Tensor, grid: Grid, levels: Sequence[Grid]) -> Tensor:
    """Scaled average positions of a pyramid's levels (Shu & Bain 2024, RetinaViT), from those of
    the image's own patches (1, h * w, D): (1, sum of rows * columns, D), level after level.

    A patch of a scaled-down image covers several of the image's own patches, some in part. It gets
    the mean of their positions, weighted by the area covered, times the side of what it covers,
    counted in patches (the root of the area). So its direction encodes where a patch is, and its
    length how much of the image it covers; the image's own patches keep their embeddings.
    """
    body = torch.unflatten(positions[0].float(), 0, grid)  # (h, w, D)
    parts = []
    for rows, columns in levels:
        down = _covered(grid[0], rows, positions.device)
        across = _covered(grid[1], columns, positions.device)
        mean = torch.einsum("rh,cw,hwd->rcd", down, across, body)
        parts.append(mean.flatten(0, 1) * (grid[0] / rows * grid[1] / columns) ** 0.5)
    return torch.cat([body.new_empty(0, body.shape[-1]), *parts])[None].to(positions.dtype)


def _covered(count: int, cells: int, device: torch.device) -> Tensor:
    """Of each of `cells` equal parts of a line, the share (cells, count) that lies in each of
    `count` equal parts; rows sum to 1."""
    edges = torch.arange(cells + 1, device=device) * (count / cells)
    starts = torch.arange(count, device=device)
    left = torch.maximum(edges[:-1, None], starts)
    right = torch.minimum(edges[1:, None], starts + 1)
    return (right - left).clamp(min=0) * (cells / count)
