"""What training does to pixels, a whole batch at a time."""

from __future__ import annotations

import torch
from torch import Tensor


def photometric(pixels: Tensor, chosen: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness, contrast and saturation of the chosen images times 0.6-1.4 each, and a random
    rectangle of half of them erased (Zhong et al. 2020); pixels (B, 3, H, W) in [0, 1]."""

    def factor() -> Tensor:
        drawn = 0.6 + 0.8 * torch.rand(len(pixels), 1, 1, 1, generator=generator)
        return torch.where(chosen.view(-1, 1, 1, 1), drawn, torch.ones(()))

    pixels = pixels * factor()
    mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
    pixels = mean + (pixels - mean) * factor()
    grey = pixels.mean(dim=1, keepdim=True)
    pixels = (grey + (pixels - grey) * factor()).clamp(0, 1)
    height, width = pixels.shape[-2:]
    draws = torch.rand(len(pixels), 5, generator=generator)
    for i in chosen.nonzero().flatten().tolist():
        lucky, tall, wide, down, right = draws[i].tolist()
        rows, columns = int(height * (0.1 + 0.3 * tall)), int(width * (0.1 + 0.3 * wide))
        top, left = int(down * (height - rows)), int(right * (width - columns))
        if lucky < 0.5:
            pixels[i, :, top : top + rows, left : left + columns] = 0.5
    return pixels
