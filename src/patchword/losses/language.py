"""BLIP's losses: contrastive with soft targets, image-text matching, language modelling."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from patchword.losses.precision import upcast

IGNORED = -100  # a target without a loss


def soft_contrastive(
    logits: Tensor, positives: Tensor, teacher: Tensor | None = None, share: Tensor | float = 0.0
) -> Tensor:
    """Cross-entropy of logits (n, M), of n images with M texts or of n texts with M images. The
    target of a row is spread evenly over its `positives` (n, M) bool.

    teacher: logits (n, M) of momentum encoders, whose softmax is `share` of each target, so that a
    text that fits by chance is less of a negative (Li et al. 2021, ALBEF, eq. 6; Li et al. 2022,
    section 3.2).
    """
    targets = positives / positives.sum(dim=1, keepdim=True)
    if teacher is not None:
        targets = (1 - share) * targets + share * upcast(teacher).softmax(dim=1)
    return -(targets * upcast(logits).log_softmax(dim=1)).sum(dim=1).mean()


def matching(logits: Tensor, matches: Tensor) -> Tensor:
    """Cross-entropy of logits (R, 2), no match and match, with `matches` (R,) bool (Li et al. 2022,
    section 3.2)."""
    return F.cross_entropy(upcast(logits), matches.long())


def language_modelling(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """The negative log-likelihood of each text (R,), from logits (R, L, V) and the next token at
    each position, `targets` (R, L), `IGNORED` where there is no loss (Li et al. 2022, section 3.2).

    smoothing: of labels, over the vocabulary (Szegedy et al. 2016).
    """
    tokens = F.cross_entropy(
        upcast(logits).mT,
        targets,
        ignore_index=IGNORED,
        label_smoothing=smoothing,
        reduction="none",
    )
    return tokens.sum(dim=1)
