"""Several texts that are compared with each other, and patches by their keys (MaskCLIP, Zhou et al.
2022, section 3.2, "key smoothing" and "prompt denoising", as its code has them)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from patchword.bundle import Bundle
from patchword.errors import UnsupportedError
from patchword.models.edits import DenseEdit, Refined
from patchword.nn.inference_mode import inference

LEFT_OUT = -100.0  # instead of the cosines of a text that is left out


def by_keys(model: Bundle, pixels: Tensor, edit: DenseEdit, plan: Refined, texts: Tensor) -> Tensor:
    """Values (B, n, T) of the patches of images (B, 3, H, W) with unit texts (T, D). Raises
    UnsupportedError for a single text, and for an edit that the tower does not have."""
    if len(texts) < 2:
        raise UnsupportedError(
            "maskclip-keys compares texts with each other: give two or more, or take maskclip"
        )
    with inference(model.own_network):
        features, keys = model.image_tower.dense_keys(pixels, edit)
        cosines = F.normalize(features.float(), dim=-1) @ texts.mT
        return refined(cosines, keys.float(), plan)


def refined(cosines: Tensor, keys: Tensor, plan: Refined) -> Tensor:
    """What cosines (B, n, T) of patches with keys (B, n, D) become: probabilities, or what is like
    them. Keys are divided by their length over the patches, not over their numbers."""
    best = torch.softmax(plan.scale * cosines, dim=-1).amax(dim=1, keepdim=True)  # (B, 1, T)
    kept = cosines.masked_fill(best < plan.least, LEFT_OUT)
    if not plan.unsure:
        return kept
    shares = torch.softmax(plan.scale * kept, dim=-1)
    keys = F.normalize(keys, dim=1)
    mixed = keys @ (keys.mT @ shares)
    return torch.where(shares.amax(dim=-1, keepdim=True) < plan.unsure, mixed, shares)
