"""The refinements of MaskCLIP (Zhou et al. 2022, section 3.2, as its code has them).

Prompt denoising: a text whose largest probability over all patches is below `least` is left out.
Key smoothing: with keys k_i, unsure patches take the probabilities of patches with similar keys,

    p_i <- sum over j of cos(k_i, k_j) p_j
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from patchword.bundle import Bundle
from patchword.errors import UnsupportedError
from patchword.models.edits import DenseEdit, Refined
from patchword.nn.inference_mode import inference

LEFT_OUT = -100.0  # the cosine of a text that is left out


def by_keys(model: Bundle, pixels: Tensor, edit: DenseEdit, plan: Refined, texts: Tensor) -> Tensor:
    """Refined values (B, n, T) of the patches of images (B, 3, H, W) for unit texts (T, D). Raises
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
    """Cosines (B, n, T) of patches whose keys are (B, n, D), denoised and smoothed: (B, n, T).
    As in the code, keys are normalised over the patches, not over their channels, so that smoothed
    values are no probabilities."""
    best = torch.softmax(plan.scale * cosines, dim=-1).amax(dim=1, keepdim=True)  # (B, 1, T)
    denoised = cosines.masked_fill(best < plan.least, LEFT_OUT)
    if not plan.unsure:
        return denoised
    probabilities = torch.softmax(plan.scale * denoised, dim=-1)
    keys = F.normalize(keys, dim=1)
    smoothed = keys @ (keys.mT @ probabilities)
    unsure = probabilities.amax(dim=-1, keepdim=True) < plan.unsure
    return torch.where(unsure, smoothed, probabilities)
