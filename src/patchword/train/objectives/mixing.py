"""Images mixed in pairs, and their targets with them: mixup, CutMix."""

from __future__ import annotations

import torch
from torch import Tensor

from patchword import losses
from patchword.train.recipe import MixConfig


def mixed(
    config: MixConfig, pixels: Tensor, targets: Tensor, rows: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Pixels (n, ...) and targets (n, C), with those of `rows` (n,) bool mixed by mixup or
    CutMix."""
    methods = [(losses.mixup, config.mixup), (losses.cutmix, config.cutmix)]
    enabled = [(method, alpha) for method, alpha in methods if alpha > 0]
    whether, which = torch.rand(2, generator=generator).tolist()
    if whether >= config.share or not rows.any():
        return pixels, targets
    method, alpha = enabled[int(which * len(enabled))]
    pixels, targets = pixels.clone(), targets.clone()
    pixels[rows], targets[rows] = method(pixels[rows], targets[rows], generator, alpha)
    return pixels, targets
