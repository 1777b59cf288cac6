"""Losses of distillation, classes and pixels, against their formulas in float64 and against other
libraries."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision_cpu  # noqa: F401  before open_clip and timm

# isort: split
import timm.data.mixup
from loss_formulas import expected, features, inputs, log_softmax, logits64
from open_clip.loss import DistillClipLoss
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.task import LogitDistillationTask, TokenDistillationTask
from torch import Tensor
from torch.testing import assert_close

from patchword import losses
from patchword.losses import classes

# Distillation


def some_logits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits of the class token, of the distillation token and of the teacher, and the classes
    (N,)."""
    generator = torch.Generator().manual_seed(0)
    drawn = 2 * torch.randn(3, 6, 5, generator=generator)
    return (*drawn, torch.tensor([0, 4, 1, 1, 2, 3]))


class FixedLogits(torch.nn.Module):
    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def normalize_input(self, pixels: Tensor, *_: object) -> Tensor:
        return pixels

    def forward(self, _: Tensor, **__: object) -> Tensor:
        return self.logits


def by_timm(kind: str, weight: float, temperature: float) -> Tensor:
    """The loss of timm's task, whose networks return `some_logits`."""
    ours, distilled, teacher, target = some_logits()
    task = SimpleNamespace(
        trainable_module=lambda _: (ours, distilled),
        teacher=FixedLogits(teacher),
        criterion=torch.nn.CrossEntropyLoss(),
        distill_type=kind,
        task_loss_weight=1 - weight,
        distill_loss_weight=weight,
        temperature=temperature,
        student_mean=None,
        student_std=None,
    )
    return TokenDistillationTask.forward(task, ours, target)["loss"]


def test_soft_distillation_equals_equation_2_and_timm() -> None:
    z, distilled, teacher, y = (x.double().numpy() for x in some_logits())
    p, q = (log_softmax(x / 3.0) for x in (teacher, distilled))
    divergence = (np.exp(p) * (p - q)).sum(1).mean()
    value = -0.9 * log_softmax(z)[np.arange(6), y.astype(int)].mean() + 0.1 * 9 * divergence
    ours = losses.soft_distillation(*some_logits())
    assert_close(ours, expected(value))
    assert_close(ours, by_timm("soft", 0.1, 3.0))
    other = losses.soft_distillation(*some_logits(), weight=0.4, temperature=2.0)
    assert_close(other, by_timm("soft", 0.4, 2.0))
    assert abs(other - ours) > 1e-2


def test_hard_distillation_equals_equation_3_and_timm() -> None:
    z, distilled, teacher, y = (x.double().numpy() for x in some_logits())
    labels = log_softmax(z)[np.arange(6), y.astype(int)].mean()
    theirs = log_softmax(distilled)[np.arange(6), teacher.argmax(1)].mean()
    ours = losses.hard_distillation(*some_logits())
    assert_close(ours, expected(-(labels + theirs) / 2))
    assert_close(ours, by_timm("hard", 0.5, 1.0))


def test_one_head_for_labels_and_teacher_equals_timm() -> None:
    ours, _, teacher, target = some_logits()
    task = SimpleNamespace(
        trainable_module=lambda _: ours,
        teacher=FixedLogits(teacher),
        criterion=torch.nn.CrossEntropyLoss(),
        task_loss_weight=0.7,
        distill_loss_weight=0.3,
        temperature=4.0,
        student_mean=None,
        student_std=None,
    )
    theirs = LogitDistillationTask.forward(task, ours, target)["loss"]
    assert_close(losses.soft_distillation(ours, ours, teacher, target, 0.3, 4.0), theirs)


def test_distillation_with_mixed_and_smoothed_targets() -> None:
    ours, distilled, teacher, target = some_logits()
    soft = timm.data.mixup.mixup_target(target, 5, 0.3, 0.1)
    smoothed = losses.hard_distillation(ours, distilled, teacher, F.one_hot(target, 5).float(), 0.1)
    assert_close(smoothed, losses.hard_distillation(ours, distilled, teacher, target, 0.1))
    mixed = losses.hard_distillation(ours, distilled, teacher, soft)
    half = SoftTargetCrossEntropy()(ours, soft) + F.cross_entropy(distilled, teacher.argmax(1))
    assert_close(mixed, half / 2)


def test_logit_distillation_equals_open_clip_and_float64() -> None:
    student = inputs(*features(), 12.0)
    teacher = inputs(*features(9, 24, seed=1), 30.0)
    theirs = DistillClipLoss()(*student, *teacher, output_dict=True)["distill_loss"]
    ours = losses.logit_distillation(tuple(student), tuple(teacher))
    assert_close(ours, theirs)
    assert_close(torch.autograd.grad(ours, student), torch.autograd.grad(theirs, student))
    x = logits64(*(v.detach() for v in student[:2]), 12.0)
    t = logits64(*(v.detach() for v in teacher[:2]), 30.0)
    rows = -(np.exp(log_softmax(t)) * log_softmax(x)).sum(1).mean()
    columns = -(np.exp(log_softmax(t.T)) * log_softmax(x.T)).sum(1).mean()
    assert_close(ours.detach(), expected((rows + columns) / 2))


def test_feature_distillation_equals_the_formula_and_moves_the_student_alone() -> None:
    student, teacher = inputs(*features())
    value = ((student.detach().double() - teacher.detach().double()).numpy() ** 2).sum() / 9
    loss = losses.feature_distillation(student, teacher)
    assert_close(loss.detach(), expected(value))
    loss.backward()
    assert student.grad is not None
    assert teacher.grad is None


# Classes


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_classification_equals_the_formula_and_timm(smoothing: float) -> None:
    logits, _, _, target = some_logits()
    q = (1 - smoothing) * np.eye(5)[target.numpy()] + smoothing / 5
    value = expected(-(q * log_softmax(logits.double().numpy())).sum(1).mean())
    ours = losses.classification(logits, target, smoothing)
    assert_close(ours, value)
    assert_close(ours, LabelSmoothingCrossEntropy(smoothing)(logits, target))
    assert_close(losses.classification(logits, F.one_hot(target, 5).float(), smoothing), value)
    assert abs(losses.classification(logits, target, 0.3) - ours) > 1e-2
    soft = torch.softmax(logits.flip(0), 1)
    assert_close(losses.classification(logits, soft), SoftTargetCrossEntropy()(logits, soft))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixup_equals_timm(smoothing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    share = 0.3
    monkeypatch.setattr(classes, "_beta_share", lambda alpha, generator: share)
    pixels, target = torch.randn(6, 3, 4, 4), some_logits()[3]
    theirs = timm.data.mixup.Mixup(1.0, label_smoothing=smoothing, num_classes=5)
    monkeypatch.setattr(np.random, "beta", lambda *_: share)
    mixed, soft = losses.mixup(pixels, F.one_hot(target, 5).float(), torch.Generator())
    their_pixels, their_soft = theirs(pixels.clone(), target)
    assert_close(mixed, their_pixels)
    logits = some_logits()[0]
    ours = losses.classification(logits, soft, smoothing)
    assert_close(ours, SoftTargetCrossEntropy()(logits, their_soft))
    assert abs(losses.classification(logits, soft.flip(0), smoothing) - ours) > 1e-2


@pytest.mark.parametrize("seed", range(8))
def test_cutmix_equals_timm(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = torch.Generator().manual_seed(seed)
    centres = [int(torch.randint(length, (), generator=draws)) for length in (20, 14)]
    share = (0.3, 0.8)[seed % 2]
    monkeypatch.setattr(classes, "_beta_share", lambda alpha, generator: share)
    monkeypatch.setattr(np.random, "beta", lambda *_: share)
    monkeypatch.setattr(np.random, "rand", lambda *_: 0.0)  # cutmix
    next_centre = iter(centres)
    monkeypatch.setattr(np.random, "randint", lambda *_, **__: next(next_centre))
    pixels, target = torch.randn(6, 3, 20, 14), some_logits()[3]
    mix = timm.data.mixup.Mixup(0.0, cutmix_alpha=1.0, label_smoothing=0.0, num_classes=5)
    their_pixels, their_soft = mix(pixels.clone(), target)
    generator = torch.Generator().manual_seed(seed)
    mixed, soft = losses.cutmix(pixels, F.one_hot(target, 5).float(), generator)
    assert_close(mixed, their_pixels)
    assert_close(soft, their_soft)


@pytest.mark.parametrize("mix", [losses.mixup, losses.cutmix])
def test_mixing_depends_on_the_generator_alone(mix: Callable[..., Any]) -> None:
    levels = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 50, 50)
    target = torch.eye(4)
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    results = [mix(levels, target, generator) for _ in range(400)]
    generator.set_state(state)
    torch.manual_seed(5)
    assert_close(mix(levels, target, generator), results[0], rtol=0, atol=0)
    for pixels, soft in results:  # an image is mixed as its target says
        assert_close(pixels.mean(dim=(1, 2, 3)), soft @ torch.arange(4.0))
        assert_close(soft.sum(dim=1), torch.ones(4))
    shares = torch.stack([soft[0, 0] for _, soft in results])
    assert shares.std() > 0.15
    assert_close(levels[:, 0, 0, 0], torch.arange(4.0))  # the inputs are unchanged


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0, 5.0])
def test_shares_are_beta(alpha: float) -> None:
    generator = torch.Generator().manual_seed(0)
    shares = np.array([classes._beta_share(alpha, generator) for _ in range(4000)])
    assert abs(shares.mean() - 0.5) < 0.02
    assert abs(shares.var() - 1 / (4 * (2 * alpha + 1))) < 0.008  # of Beta(alpha, alpha)


def test_classes_as_numbers_cannot_be_mixed() -> None:
    with pytest.raises(ValueError, match="probabilities"):
        losses.mixup(torch.zeros(4, 3, 2, 2), torch.arange(4), torch.Generator())


# Pixels


@pytest.mark.parametrize("norm", [False, True])
def test_masked_pixels_equal_the_formula_in_float64(norm: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, patches = torch.randn(2, 3, 8, 12, generator=generator)
    hidden = torch.rand(3, 8, generator=generator) < 0.75
    target = patches.double().numpy()
    if norm:
        variance = target.var(-1, ddof=1, keepdims=True)
        target = (target - target.mean(-1, keepdims=True)) / np.sqrt(variance + 1e-6)
    error = ((predicted.double().numpy() - target) ** 2).mean(-1)
    ours = losses.masked_pixels(predicted, patches, hidden, norm)
    assert_close(ours, expected(error[hidden.numpy()].mean()))
    assert abs(losses.masked_pixels(predicted, patches, hidden, not norm) - ours) > 1e-3
    assert abs(losses.masked_pixels(predicted, patches, ~hidden, norm) - ours) > 1e-3
