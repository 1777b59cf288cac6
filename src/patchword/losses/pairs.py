"""Losses over all pairs of a batch's images and texts, exact at any batch size."""

from __future__ import annotations

import torch
from torch import Tensor

from patchword.losses.precision import upcast, without_autocast
from patchword.losses.tiles import log_sum_exps, pairwise_sigmoid, with_gradients


def contrastive(
    image: Tensor, text: Tensor, scale: Tensor, positives: Tensor | None = None
) -> Tensor:
    """Symmetric InfoNCE (Radford et al. 2021, figure 3) of unit features (N, D) at `scale`.

    positives: which texts are true of which images; None: each text is true of its own image alone.
    (N, N) bool: whether text j is true of image i, true on the diagonal. (N,) integers: texts are
    true of the images with the same number. The target of a row, or of a column, is spread evenly
    over its positives (UniCL, Yang et al. 2022, eq. 2-4): two photos of a hat are not negatives for
    each other's "a photo of a hat". For mixed images, (N, N) float: how much of text j is in image
    i; targets are proportional to that.

    Memory grows with N, not with N x N, unless `positives` itself is N x N.
    """
    check_pairs(image, text)
    rows, columns, logits = log_sum_exps(image, text, scale)
    if positives is not None:
        of_texts = positives if positives.ndim == 1 else positives.sum(dim=0)
        logits = positive_logits(image, text, scale, positives, of_texts)
    return ((rows + columns) / 2 - logits).mean().to(logits.dtype)


def sigmoid(
    image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, positives: Tensor | None = None
) -> Tensor:
    """Pairwise sigmoid loss (Zhai et al. 2023, eq. 1 and algorithm 1) of unit features (N, D): the
    sum over all N x N pairs, divided by N. Memory grows with N; `positives` as for `contrastive`.
    """
    check_pairs(image, text)
    inputs = (image, text, scale, bias)
    if positives is not None and positives.ndim == 1:
        positives = torch.cat([positives, positives])
    value, gradients = pairwise_sigmoid(inputs, positives, 0, needs_gradient(*inputs))
    return with_gradients(value, inputs, gradients) / len(image)


def positive_logits(
    image: Tensor, text: Tensor, scale: Tensor, positives: Tensor, of_texts: Tensor
) -> Tensor:
    """The part of `contrastive` (N,) that comes from the logits of the positive pairs, for N of the
    images and all M texts.

    positives  (N, M) bool, with of_texts (M,): of how many of all images each text is true. Or
               (N,) integers of these images, with of_texts (M,) integers of all texts.

    Its sum over all images is half the sum of the mean positive logit of every row and of every
    column.
    """
    image, text = upcast(image), upcast(text)
    if positives.ndim == 1:  # rows and columns have the same positives, and as many
        _, groups = torch.unique(torch.cat([positives, of_texts]), return_inverse=True)
        image_groups, text_groups = groups[: len(positives)], groups[len(positives) :]
        totals = text.new_zeros(len(groups), text.shape[1]).index_add(0, text_groups, text)
        counts = text_groups.bincount(minlength=len(groups))
        means = totals[image_groups] / counts[image_groups, None]
    else:
        shares = (0.5 / positives.sum(dim=1, keepdim=True) + 0.5 / of_texts) * positives
        with without_autocast(text):
            means = shares.to(text.dtype) @ text
    logits: Tensor = scale * (image * means).sum(dim=1)
    return logits


def needs_gradient(*inputs: Tensor) -> list[bool]:
    """Which of the inputs need a gradient."""
    return [torch.is_grad_enabled() and x.requires_grad for x in inputs]


def check_pairs(image: Tensor, text: Tensor) -> None:
    """Raise ValueError unless there is a text for every image."""
    if image.shape != text.shape or image.ndim != 2:
        raise ValueError(
            f"images {tuple(image.shape)} and texts {tuple(text.shape)} are not pairs (N, D)"
        )
