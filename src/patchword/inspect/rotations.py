"""Good photos in other directions, for parts that lie in any."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F

from patchword.inspect.protocol import RGB

ANGLES = range(0, 360, 45)


def rotated(photo: RGB) -> Iterator[RGB]:
    """A photo (H, W, 3) in 8 rotations about its middle, of its own size; what lies beyond its
    border is its mirror image (AnomalyDINO, Damm et al. 2024, section 3.3)."""
    yield photo
    height, width = photo.shape[:2]
    values = torch.from_numpy(np.ascontiguousarray(photo)).movedim(-1, 0)[None].float()
    y, x = (torch.arange(side, dtype=torch.float32, device="cpu") for side in (height, width))
    y, x = torch.meshgrid(y - height / 2, x - width / 2, indexing="ij")
    for angle in ANGLES[1:]:
        turn = math.radians(angle)
        from_x = math.cos(turn) * x - math.sin(turn) * y + width / 2
        from_y = math.sin(turn) * x + math.cos(turn) * y + height / 2
        places = torch.stack(
            [2 * from_x / max(width - 1, 1) - 1, 2 * from_y / max(height - 1, 1) - 1], dim=-1
        )
        seen = F.grid_sample(
            values, places[None], mode="bilinear", padding_mode="reflection", align_corners=True
        )
        yield seen[0].movedim(0, -1).round().clamp(0, 255).to(torch.uint8).numpy()
