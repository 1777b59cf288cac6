"""Good photos in 8 rotations, for parts that lie in any direction (AnomalyDINO, Damm et al. 2024,
section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
import torch.nn.functional as F

from patchword.inspect.protocol import RGB

ANGLES = range(0, 360, 45)  # degrees


def with_rotations(photos: Iterable[RGB]) -> Iterator[RGB]:
    """Each photo in 8 rotations."""
    for photo in photos:
        yield from rotated(photo)


def rotated(photo: RGB) -> Iterator[RGB]:
    """A photo (H, W, 3) rotated about its middle by each of `ANGLES`, at its own size. Pixels
    beyond its border are its mirror image."""
    yield photo
    height, width = photo.shape[:2]
    values = torch.from_numpy(np.ascontiguousarray(photo)).movedim(-1, 0)[None].float()
    y = torch.arange(height, dtype=torch.float32, device="cpu") - height / 2
    x = torch.arange(width, dtype=torch.float32, device="cpu") - width / 2
    y, x = torch.meshgrid(y, x, indexing="ij")
    for angle in ANGLES[1:]:
        radians = math.radians(angle)
        source_x = math.cos(radians) * x - math.sin(radians) * y + width / 2
        source_y = math.sin(radians) * x + math.cos(radians) * y + height / 2
        # grid_sample takes places from -1 to 1.
        places = torch.stack(
            [2 * source_x / max(width - 1, 1) - 1, 2 * source_y / max(height - 1, 1) - 1], dim=-1
        )
        pixels = F.grid_sample(
            values, places[None], mode="bilinear", padding_mode="reflection", align_corners=True
        )
        yield pixels[0].movedim(0, -1).round().clamp(0, 255).to(torch.uint8).numpy()
