"""What texts have in common, subtracted from their maps (CLIP Surgery, Li et al. 2023, section 3.4,
"feature surgery", as its code has it)."""

from __future__ import annotations

import torch
from torch import Tensor

SHARPNESS = 2.0  # what cosines of the image are multiplied by; the code ignores its argument


def class_weights(image: Tensor, texts: Tensor) -> Tensor:
    """(B, T): how much each of unit texts (T, D) is of unit images (B, D); the mean is 1."""
    shares = torch.softmax(SHARPNESS * image @ texts.mT, dim=-1)
    return shares / shares.mean(dim=-1, keepdim=True)


def without_common(patches: Tensor, image: Tensor, texts: Tensor, empty: Tensor) -> Tensor:
    """(B, n, T): cosines of unit patches (B, n, D) with unit texts (T, D), each weighted by what it
    is of the image, less their mean over texts; of one text less the cosine with the empty text
    `empty` (D,)."""
    cosines = patches @ texts.mT
    if len(texts) == 1:
        return cosines - (patches @ empty)[..., None]
    weighted = cosines * class_weights(image, texts)[:, None]
    return weighted - weighted.mean(dim=-1, keepdim=True)
