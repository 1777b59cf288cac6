"""Cross-entropy with classes; mixup and CutMix."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import Tensor

from patchword.losses.precision import upcast


def classification(logits: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of logits (N, C) with classes (N,), or with their probabilities (N, C).

    smoothing: the share of each target that is spread over all classes (Szegedy et al. 2016,
    section 7).
    """
    logits = upcast(logits)
    if target.is_floating_point():
        target = target.to(logits.dtype)
    return F.cross_entropy(logits, target, label_smoothing=smoothing)


def mixup(
    pixels: Tensor, target: Tensor, generator: torch.Generator, alpha: float = 0.8
) -> tuple[Tensor, Tensor]:
    """Mix each image and its target with those of the batch in reverse order, the first with the
    last (mixup, Zhang et al. 2018, eq. 1), with one share from Beta(alpha, alpha) for all.

    pixels (N, ...); target (N, C), probabilities: one-hot, or mixed already; generator: on the CPU.
    The order of a batch is random, and so are the pairs.
    """
    share = _beta_share(alpha, generator)
    return pixels.lerp(pixels.flip(0), 1 - share), _mixed(target, share)


def cutmix(
    pixels: Tensor, target: Tensor, generator: torch.Generator, alpha: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Replace a rectangle of each image by that of its partner in the reversed batch, and mix the
    targets in proportion to the areas (CutMix, Yun et al. 2019, eq. 1-2).

    pixels (N, C, H, W); target (N, C), probabilities. The rectangle has the image's aspect ratio,
    the area 1 - share with share from Beta(alpha, alpha), and a random centre. It is cut off at the
    borders of the image, and the targets are mixed by the area that is left.
    """
    height, width = pixels.shape[-2:]
    side = (1 - _beta_share(alpha, generator)) ** 0.5
    spans = []
    for length in (height, width):
        centre = int(torch.randint(length, (), generator=generator))
        cut_length = int(length * side)
        start = max(0, centre - cut_length // 2)
        end = min(length, centre + (cut_length + 1) // 2)
        spans.append(slice(start, end))
    rows, columns = spans
    mixed = pixels.clone()
    mixed[..., rows, columns] = pixels.flip(0)[..., rows, columns]
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    return mixed, _mixed(target, 1 - area / (height * width))


def _mixed(target: Tensor, share: float) -> Tensor:
    """Targets (N, C) mixed with those in reverse order: `share` of each one's own."""
    if target.ndim != 2 or not target.is_floating_point():
        raise ValueError("targets to mix must be probabilities (N, C), such as one-hot ones")
    return target.lerp(target.flip(0), 1 - share)


def _beta_share(alpha: float, generator: torch.Generator) -> float:
    """A number from Beta(alpha, alpha). Torch's own sampler takes no generator."""
    seed = int(torch.randint(2**62, (), generator=generator))
    return random.Random(seed).betavariate(alpha, alpha)
