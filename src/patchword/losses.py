"""Tensors in, one number out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive(image: Tensor, text: Tensor, scale: Tensor, same: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE (Radford et al. 2021, figure 3) of unit features (N, D) at `scale`.

    `same` (N, N) marks the texts j that are true of image i, the diagonal among them: the target
    of a row, or of a column, is then spread evenly over its positives (UniCL, Yang et al. 2022,
    eq. 2-4), so that two photos of a hat are not pushed apart for being "a photo of a hat".
    """
    logits = scale * image @ text.mT  # (N, N)
    if same is None:
        same = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    rows, columns = (m.to(logits.dtype) / m.sum(dim=1, keepdim=True) for m in (same, same.mT))
    return (F.cross_entropy(logits, rows) + F.cross_entropy(logits.mT, columns)) / 2
