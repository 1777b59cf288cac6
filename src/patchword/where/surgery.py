"""Feature surgery: what the texts have in common is subtracted from their maps (CLIP Surgery, Li et
al. 2023, section 3.4, as its code has it).

With unit vectors p of a patch, x of the image and t of the texts,

    w_t = softmax over t of 2 cos(x, t), divided by its mean
    map_t(p) = w_t cos(p, t) - mean over t' of w_t' cos(p, t')
"""

from __future__ import annotations

import torch
from torch import Tensor

SCALE = 2.0  # of the cosines with the image; the code ignores its argument


def class_weights(image: Tensor, texts: Tensor) -> Tensor:
    """The weights w (B, T) of unit texts (T, D) in unit images (B, D)."""
    probabilities = torch.softmax(SCALE * image @ texts.mT, dim=-1)
    return probabilities / probabilities.mean(dim=-1, keepdim=True)


def without_common(patches: Tensor, image: Tensor, texts: Tensor, empty: Tensor) -> Tensor:
    """The maps (B, n, T) of unit patches (B, n, D), unit images (B, D) and unit texts (T, D). From
    the map of a single text the cosine with the empty text `empty` (D,) is subtracted."""
    cosines = patches @ texts.mT
    if len(texts) == 1:
        return cosines - (patches @ empty)[..., None]
    weighted = cosines * class_weights(image, texts)[:, None]
    return weighted - weighted.mean(dim=-1, keepdim=True)
