"""Loss functions of tensors."""

from patchword.losses.classes import classification, cutmix, mixup
from patchword.losses.distillation import (
    feature_distillation,
    hard_distillation,
    logit_distillation,
    soft_distillation,
)
from patchword.losses.language import (
    IGNORED,
    language_modelling,
    matching,
    soft_contrastive,
)
from patchword.losses.maps import text_maps
from patchword.losses.pairs import (
    check_pairs,
    contrastive,
    needs_gradient,
    positive_logits,
    sigmoid,
)
from patchword.losses.pixels import masked_pixels
from patchword.losses.tiles import Gradients, log_sum_exps, pairwise_sigmoid, with_gradients

__all__ = [
    "IGNORED",
    "Gradients",
    "check_pairs",
    "classification",
    "contrastive",
    "cutmix",
    "feature_distillation",
    "hard_distillation",
    "language_modelling",
    "log_sum_exps",
    "logit_distillation",
    "masked_pixels",
    "matching",
    "mixup",
    "needs_gradient",
    "pairwise_sigmoid",
    "positive_logits",
    "sigmoid",
    "soft_contrastive",
    "soft_distillation",
    "text_maps",
    "with_gradients",
]
