"""Images mixed in pairs, and their targets with them: mixup, CutMix."""

from __future__ import annotations

import torch
from torch import Tensor

from patchword import losses
from patchword.train.recipe import MixConfig


def mixed(
    config: MixConfig, pixels: Tensor, targets: Tensor, rows: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Those rows of pixels (n, ...) and targets (n, C) mixed, by mixup or CutMix."""
    kinds = [(losses.mixup, config.mixup), (losses.cutmix, config.cutmix)]
    kinds = [(kind, alpha) for kind, alpha in kinds if alpha > 0]
    spared, chosen = torch.rand(2, generator=generator).tolist()
    if spared >= config.share or not rows.any():
        return pixels, targets
    kind, alpha = kinds[int(chosen * len(kinds))]
    pixels, targets = pixels.clone(), targets.clone()
    pixels[rows], targets[rows] = kind(pixels[rows], targets[rows], generator, alpha)
    return pixels, targets
