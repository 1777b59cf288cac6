"""Knowledge distillation: a student learns from a teacher's outputs, besides the labels or instead
of them. The teacher's tensors get no gradient.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from patchword.losses.classes import classification
from patchword.losses.precision import upcast, without_autocast


def soft_distillation(
    classes: Tensor,
    distilled: Tensor,
    teacher: Tensor,
    target: Tensor,
    weight: float = 0.1,
    temperature: float = 3.0,
    smoothing: float = 0.0,
) -> Tensor:
    """DeiT's soft distillation (Touvron et al. 2021, eq. 2; the defaults are the paper's): (1 -
    weight) * cross-entropy with the labels + weight * temperature^2 * KL(teacher || student).

    Logits (N, C): `classes` of the class token, compared with the labels, and `distilled` of the
    distillation token, compared with the teacher's; for a student without one both are the same.
    target and smoothing: as for `classification`. KL is the mean over N; DeiT's published training
    code divides by N * C instead.
    """
    ours = F.log_softmax(upcast(distilled) / temperature, -1)
    theirs = F.log_softmax(upcast(teacher).detach() / temperature, -1)
    divergence = F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    supervised = classification(classes, target, smoothing)
    return (1 - weight) * supervised + weight * temperature**2 * divergence


def hard_distillation(
    classes: Tensor, distilled: Tensor, teacher: Tensor, target: Tensor, smoothing: float = 0.0
) -> Tensor:
    """DeiT's hard-label distillation (Touvron et al. 2021, eq. 3): half the cross-entropy with the
    labels, half that with the teacher's most probable class. Arguments: as for `soft_distillation`;
    `smoothing` applies to the labels alone."""
    supervised = classification(classes, target, smoothing)
    return (supervised + classification(distilled, teacher.argmax(dim=-1))) / 2


def logit_distillation(
    student: tuple[Tensor, Tensor, Tensor], teacher: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """Cross-entropy of a CLIP's logits with its teacher's, the mean over rows and columns (CLIP-KD,
    Yang et al. 2024, "Contrastive Relational Distillation", up to the entropy of the teacher, which
    is constant).

    student, teacher: unit image features (N, D), unit text features (N, D), logit scale; the two D
    may differ. Computes the whole N x N matrices.
    """
    with without_autocast(student[0]):
        logits = _logits(*student)
        targets = _logits(*teacher).detach()
    rows = F.cross_entropy(logits, targets.softmax(dim=1))
    columns = F.cross_entropy(logits.mT, targets.mT.softmax(dim=1))
    return (rows + columns) / 2


def _logits(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    return scale * upcast(image) @ upcast(text).mT


def feature_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of features (N, D) from the teacher's, mean over N (CLIP-KD, Yang et al.
    2024, "Feature Distillation": that of the images plus that of the texts). A student of another
    width needs a projection first."""
    return (upcast(student) - upcast(teacher).detach()).square().sum(dim=-1).mean()
