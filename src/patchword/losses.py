"""Tensors in, one number out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive(image: Tensor, text: Tensor, scale: Tensor, same: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE (Radford et al. 2021, figure 3) of unit features (N, D), times `scale`.

    `same` (N, N) marks pairs of equal meaning beyond the diagonal: each row's target is then
    spread evenly over its positives (UniCL, Yang et al. 2022, eq. 2-4), so that two photos of a
    hat are not pushed apart because both are "a photo of a hat".
    """
    logits = scale * image @ text.mT  # (N, N)
    if same is None:
        target = torch.eye(len(logits), dtype=logits.dtype, device=logits.device)
    else:
        target = same.to(logits.dtype) / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.mT, target)) / 2
