"""The masked autoencoder's loss."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_pixels(predicted: Tensor, patches: Tensor, hidden: Tensor, norm: bool) -> Tensor:
    """Mean squared error of the predicted patches (B, N, C) that were hidden (B, N) (He et al.
    2022, section 3, "Reconstruction target").

    patches (B, N, C): those of the image. norm: normalise each target patch by its own mean and
    standard deviation.
    """
    if norm:
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        patches = (patches - mean) / (variance + 1e-6).sqrt()
    error = (predicted - patches).square().mean(dim=-1)  # (B, N)
    return (error * hidden).sum() / hidden.sum()
