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


def masked_pixels(painted: Tensor, patches: Tensor, hidden: Tensor, norm: bool) -> Tensor:
    """Mean squared error of the patches painted (B, N, C) where they were hidden (B, N) (He et al.
    2022, section 3, "Reconstruction target").

    patches (B, N, C): the image's own. norm: each less its mean, over its standard deviation.
    """
    if norm:
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        patches = (patches - mean) / (variance + 1e-6).sqrt()
    error = (painted - patches).square().mean(dim=-1)  # (B, N)
    return (error * hidden).sum() / hidden.sum()
