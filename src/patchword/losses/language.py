"""BLIP's losses: images and texts told apart with soft targets, pairs judged, words predicted."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from patchword.losses.exact import wide

IGNORED = -100  # as a target: no word is asked for here


def soft_contrastive(
    logits: Tensor, true: Tensor, guess: Tensor | None = None, share: Tensor | float = 0.0
) -> Tensor:
    """Cross-entropy of logits (n, M), of n images with M texts or the other way round, with what
    belongs together: `true` (n, M) bool, evenly over the positives of a row.

    guess: logits (n, M) of a momentum encoder, whose softmax takes `share` of each target, so that
    a text that fits by chance is not pushed away (Li et al. 2021, ALBEF, eq. 6; Li et al. 2022,
    section 3.2).
    """
    targets = true / true.sum(dim=1, keepdim=True)
    if guess is not None:
        targets = (1 - share) * targets + share * wide(guess).softmax(dim=1)
    return -(targets * wide(logits).log_softmax(dim=1)).sum(dim=1).mean()


def matching(logits: Tensor, together: Tensor) -> Tensor:
    """Cross-entropy of logits (R, 2), apart and together, with `together` (R,) bool (Li et al.
    2022, section 3.2)."""
    return F.cross_entropy(wide(logits), together.long())


def language_modelling(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Minus the log-likelihood of each text (R,): logits (R, L, V), the id that follows each place
    in `targets` (R, L), `IGNORED` where none is asked for (Li et al. 2022, section 3.2).

    smoothing: the share of each target that is spread over the vocabulary (Szegedy et al. 2016).
    """
    each = F.cross_entropy(
        wide(logits).mT, targets, ignore_index=IGNORED, label_smoothing=smoothing, reduction="none"
    )
    return each.sum(dim=1)
