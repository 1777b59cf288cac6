"""The loss of maps that show where texts apply, against masks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

OUTSIDE = 0.3  # weight of places outside a mask: masks are small
POINTING = 0.3  # weight of the softmax over places
ABSENT = 0.5  # weight of texts that are not in the image
HARDEST = 64  # of a text that is not in the image, the places of the highest logits count
HALF = 0.5  # of a mask's largest share: places with at least this much belong to the mask
SOMEWHERE = 0.1  # share of all places that a text at an unknown place is assumed to cover


def text_maps(
    cosines: Tensor, background: Tensor, coverage: Tensor, unknown_place: Tensor, scale: float
) -> Tensor:
    """The loss of maps that show where texts apply, the mean over images.

    cosines (B, T, h, w): of each place with each text. background (B, h, w): of each place with the
    text for the background. coverage (B, T, h, w): the share of each place that a text's mask
    covers; 0 everywhere where the text is not in the image. unknown_place (B, T) bool: the text is
    in the image, but nobody knows where.

    A text's logit at a place is `scale` times its cosine less that of the background. The loss of a
    text with a mask is the sum of the binary cross-entropy by place; the Dice loss (Milletari et
    al. 2016, eq. 3, without squares), which does not depend on how small the mask is; and the
    negative logarithm of the mask's share in a softmax of the text's scaled cosine over all places.
    For a text at an unknown place it is the binary cross-entropy at the tenth of the places where
    the logit is highest; for one that is not in the image, at the `HARDEST` places.
    """
    logits = scale * (cosines - background[:, None]).flatten(2)  # (B, T, places)
    shares = coverage.flatten(2)
    masked = (shares.amax(dim=-1) > 0) & ~unknown_place  # (B, T)
    count = max(round(SOMEWHERE * logits.shape[-1]), 1)
    unplaced = F.softplus(-logits.topk(count, dim=-1).values).mean(dim=-1)
    hardest = logits.topk(min(HARDEST, logits.shape[-1]), dim=-1).values
    absent = ABSENT * F.softplus(hardest).mean(dim=-1)
    present = torch.where(unknown_place, unplaced, 0.0)
    if masked.any():
        losses = _mask_losses(logits[masked], scale * cosines.flatten(2)[masked], shares[masked])
        present = present.masked_scatter(masked, losses)
    in_image = masked | unknown_place
    return (_mean(present, in_image) + _mean(absent, ~in_image)).mean()


def _mask_losses(logits: Tensor, cosines: Tensor, shares: Tensor) -> Tensor:
    """The losses (K,) of K pairs of an image and a text with a mask; each input is (K, places)."""
    weights = shares + (1 - shares) * OUTSIDE
    entropy = F.binary_cross_entropy_with_logits(logits, shares, weights, reduction="none")
    probabilities = torch.sigmoid(logits)
    overlap = (probabilities * shares).sum(dim=-1)
    dice = 1 - (2 * overlap + 1) / (probabilities.sum(dim=-1) + shares.sum(dim=-1) + 1)
    in_mask = shares >= HALF * shares.amax(dim=-1, keepdim=True)
    lowest = torch.finfo(cosines.dtype).min
    inside = torch.logsumexp(cosines.masked_fill(~in_mask, lowest), dim=-1)
    pointing = torch.logsumexp(cosines, dim=-1) - inside
    return 4 * entropy.mean(dim=-1) + dice + POINTING * pointing


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    """The mean (B,) over those texts (B, T) that are `counted` (B, T); 0 where none is."""
    return torch.where(counted, values, 0.0).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
