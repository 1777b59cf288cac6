"""Losses over all pairs of a batch's images and texts, exact at any batch size."""

from __future__ import annotations

import torch
from torch import Tensor

from patchword.losses.exact import wide, without_autocast
from patchword.losses.tiles import known, log_sum_exps, pairwise_sigmoid


def contrastive(image: Tensor, text: Tensor, scale: Tensor, same: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE (Radford et al. 2021, figure 3) of unit features (N, D) at `scale`.

    `same` says which texts j are true of image i besides its own: (N, N) bool, the diagonal among
    them, or integers (N,), equal ones true of each other. The target of a row, or of a column, is
    then spread evenly over its positives (UniCL, Yang et al. 2022, eq. 2-4), so that two photos of
    a hat are not pushed apart for being "a photo of a hat". For mixed images it may be (N, N)
    floats, how much of text j is in image i: targets go in proportion to them.

    Memory grows with N, but for a `same` that is N x N itself.
    """
    check_pairs(image, text)
    rows, columns, own = log_sum_exps(image, text, scale)
    if same is not None:
        own = attraction(image, text, scale, same, same if same.ndim == 1 else same.sum(dim=0))
    return ((rows + columns) / 2 - own).mean().to(own.dtype)


def sigmoid(
    image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, same: Tensor | None = None
) -> Tensor:
    """Pairwise sigmoid loss (Zhai et al. 2023, eq. 1 and algorithm 1) of unit features (N, D): the
    sum over all N x N pairs, divided by N. Memory grows with N; `same` as for `contrastive`."""
    check_pairs(image, text)
    inputs = (image, text, scale, bias)
    if same is not None and same.ndim == 1:
        same = torch.cat([same, same])
    value, gradients = pairwise_sigmoid(inputs, same, wanted=wanted(*inputs))
    return known(value, inputs, gradients) / len(image)


def attraction(image: Tensor, text: Tensor, scale: Tensor, same: Tensor, whole: Tensor) -> Tensor:
    """The logits (N,) that the positives of N of the images add to the loss, of M texts in all.

    same: (N, M) bool, and whole (M,), of how many of all images each text is true; or same (N,) and
    whole (M,), the integers of these images and of all texts. Summed over all images it is the
    mean of the positives of every row and that of every column, halved together.
    """
    image, text = wide(image), wide(text)
    if same.ndim == 1:  # rows and columns have the same positives, and as many
        _, group = torch.unique(torch.cat([same, whole]), return_inverse=True)
        mine, theirs = group[: len(same)], group[len(same) :]
        totals = text.new_zeros(len(group), text.shape[1]).index_add(0, theirs, text)
        means = totals[mine] / theirs.bincount(minlength=len(group))[mine, None]
    else:
        shares = (0.5 / same.sum(dim=1, keepdim=True) + 0.5 / whole) * same
        with without_autocast(text):
            means = shares.to(text.dtype) @ text
    own: Tensor = scale * (image * means).sum(dim=1)
    return own


def wanted(*inputs: Tensor) -> list[bool]:
    """Whose gradients autograd will ask for."""
    return [torch.is_grad_enabled() and x.requires_grad for x in inputs]


def check_pairs(image: Tensor, text: Tensor) -> None:
    """Raise ValueError unless there is a text for every image."""
    if image.shape != text.shape or image.ndim != 2:
        raise ValueError(
            f"images {tuple(image.shape)} and texts {tuple(text.shape)} are not pairs (N, D)"
        )
