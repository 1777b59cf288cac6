"""The loss of maps of where texts apply, against masks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

OUTSIDE = 0.3  # weight of places outside a mask: masks are small
POINTING = 0.3  # weight of the softmax over places
ABSENT = 0.5  # weight of texts that are not in the image
HARDEST = 64  # places of such a text that count: those where it is least absent
HALF = 0.5  # of a mask's largest share: places of more are its own
SOMEWHERE = 0.1  # share of all places that a text at an unknown place is assumed to cover


def places(
    cosines: Tensor, background: Tensor, covers: Tensor, somewhere: Tensor, scale: float
) -> Tensor:
    """The mean over images of the loss of their maps: cosines (B, T, h, w) of each place with
    texts, and with the background (B, h, w). covers (B, T, h, w): the share of each place that a
    text's mask covers, nothing but 0 where it is not in the image; somewhere (B, T) bool: it is in
    the image, but nobody knows where.

    A text's logit at a place is `scale` times its cosine less that of the background. Of texts
    with a mask: binary cross-entropy by place; the Dice loss (Milletari et al. 2016, eq. 3, without
    squares), which does not depend on how small the mask is; and the negative logarithm of the
    mask's share in a softmax of the text's scaled cosine over all places. Of texts at an unknown
    place, binary cross-entropy at the tenth of the places where the logit is highest; of those that
    are not in the image, at the `HARDEST` ones.
    """
    logits = scale * (cosines - background[:, None]).flatten(2)  # (B, T, places)
    shares = covers.flatten(2)
    masked = (shares.amax(dim=-1) > 0) & ~somewhere  # (B, T)
    some = max(round(SOMEWHERE * logits.shape[-1]), 1)
    found = F.softplus(-logits.topk(some, dim=-1).values).mean(dim=-1)
    hardest = logits.topk(min(HARDEST, logits.shape[-1]), dim=-1).values
    absent = ABSENT * F.softplus(hardest).mean(dim=-1)
    present = torch.where(somewhere, found, 0.0)
    if masked.any():
        own = _of_masks(logits[masked], scale * cosines.flatten(2)[masked], shares[masked])
        present = present.masked_scatter(masked, own)
    there = masked | somewhere
    return (_mean(present, there) + _mean(absent, ~there)).mean()


def _of_masks(logits: Tensor, cosines: Tensor, shares: Tensor) -> Tensor:
    """(K,) of K pairs of an image and a text with a mask: (K, places) each."""
    weights = shares + (1 - shares) * OUTSIDE
    entropy = F.binary_cross_entropy_with_logits(logits, shares, weights, reduction="none")
    likely = torch.sigmoid(logits)
    both = (likely * shares).sum(dim=-1)
    dice = 1 - (2 * both + 1) / (likely.sum(dim=-1) + shares.sum(dim=-1) + 1)
    own = shares >= HALF * shares.amax(dim=-1, keepdim=True)
    least = torch.finfo(cosines.dtype).min
    inside = torch.logsumexp(cosines.masked_fill(~own, least), dim=-1)
    pointing = torch.logsumexp(cosines, dim=-1) - inside
    return 4 * entropy.mean(dim=-1) + dice + POINTING * pointing


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    """The mean over texts of those that count (B, T); 0 where none does."""
    return torch.where(counted, values, 0.0).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
