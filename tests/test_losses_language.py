"""BLIP's losses against their formulas in numpy's float64."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loss_formulas import expected, inputs, log_softmax, with_gradient
from torch import Tensor
from torch.testing import assert_close

from patchword import losses

ROWS, COLUMNS, WORDS = 4, 7, 11  # COLUMNS: the batch and a queue


def random_logits(*shape: int, seed: int = 0, size: float = 3.0) -> Tensor:
    return size * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


OWN_ALONE = torch.eye(ROWS, COLUMNS, dtype=torch.bool)
SEVERAL = OWN_ALONE | (random_logits(ROWS, COLUMNS, seed=4) > 3)


def expected_loss(logits: Tensor, teacher: Tensor, positives: Tensor, share: float) -> float:
    """One direction of `loss_ita` (salesforce/BLIP, models/blip_pretrain.py; with several positives
    models/blip_retrieval.py): sim_targets = pos_idx / pos_idx.sum(1), then
    alpha * softmax(sim_m) + (1 - alpha) * sim_targets."""
    total = 0.0
    for row, teacher_row, marks in zip(
        logits.double().numpy(), teacher.double().numpy(), positives.numpy(), strict=True
    ):
        exponentials = np.exp(teacher_row - teacher_row.max())
        target = share * exponentials / exponentials.sum() + (1 - share) * marks / marks.sum()
        total -= float((log_softmax(row) * target).sum())
    return total / len(logits)


@pytest.mark.parametrize("positives", [OWN_ALONE, SEVERAL])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_soft_contrastive_equals_the_originals_arithmetic(positives: Tensor, share: float) -> None:
    logits, teacher = random_logits(ROWS, COLUMNS), random_logits(ROWS, COLUMNS, seed=1)
    value = expected_loss(logits, teacher, positives, share)
    assert_close(losses.soft_contrastive(logits, positives, teacher, share), expected(value))
    with_tensor_share = losses.soft_contrastive(logits, positives, teacher, torch.tensor(share))
    assert_close(with_tensor_share, expected(value))


def test_soft_contrastive_without_a_guess_is_that_of_share_0() -> None:
    assert SEVERAL.sum() > OWN_ALONE.sum()
    logits = random_logits(ROWS, COLUMNS)
    value = expected_loss(logits, logits, SEVERAL, 0.0)
    assert_close(losses.soft_contrastive(logits, SEVERAL), expected(value))
    own = F.cross_entropy(logits, torch.arange(ROWS))
    assert_close(losses.soft_contrastive(logits, OWN_ALONE), own)


def test_the_gradient_of_soft_contrastive_is_of_the_logits() -> None:
    """It is (softmax(logits) - targets) / rows: the targets get no gradient."""
    logits = random_logits(ROWS, COLUMNS).requires_grad_()
    teacher = random_logits(ROWS, COLUMNS, seed=1)
    losses.soft_contrastive(logits, SEVERAL, teacher, 0.4).backward()
    targets = 0.4 * teacher.softmax(1) + 0.6 * SEVERAL / SEVERAL.sum(1, keepdim=True)
    assert_close(logits.grad, (logits.detach().softmax(1) - targets) / ROWS)


def test_matching_is_cross_entropy_of_two() -> None:
    logits = random_logits(6, 2)
    matches = torch.tensor([True, True, False, False, False, True])
    log_probabilities = log_softmax(logits.double().numpy())
    value = -np.mean(
        [row[int(match)] for row, match in zip(log_probabilities, matches, strict=True)]
    )
    assert_close(losses.matching(logits, matches), expected(value))
    constant = torch.zeros(6, 2)  # predicts the ratio of 1 to 2 for every pair
    constant[:, 0] = np.log(2)
    one_third = torch.arange(6) < 2
    assert losses.matching(constant, one_third).item() == pytest.approx(0.6365, abs=1e-4)


TARGETS = torch.tensor(
    [[3, 0, 7, 2, 5], [1, 10, 2, -100, -100], [-100, -100, 4, 2, -100], [-100] * 5]
)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_language_modelling_is_the_formula_in_float64(smoothing: float) -> None:
    """Szegedy et al. 2016, section 7: q'(k) = (1 - e) [k = y] + e / K."""
    logits = random_logits(4, 5, WORDS)
    log_probabilities = log_softmax(logits.double().numpy())
    expected = [0.0] * 4
    for row, targets in enumerate(TARGETS.tolist()):
        for position, token in enumerate(targets):
            if token != losses.IGNORED:
                target = np.full(WORDS, smoothing / WORDS)
                target[token] += 1 - smoothing
                expected[row] -= float((target * log_probabilities[row, position]).sum())
    result = losses.language_modelling(logits, TARGETS, smoothing)
    assert_close(result, torch.tensor(expected))
    assert expected[3] == 0


def test_padding_has_no_gradient() -> None:
    logits = random_logits(4, 5, WORDS).requires_grad_()
    losses.language_modelling(logits, TARGETS, 0.1).sum().backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad.abs().sum(2) > 0, TARGETS != losses.IGNORED)


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "contrast": lambda x: losses.soft_contrastive(
        x.flatten(0, 1)[:ROWS, :COLUMNS], SEVERAL, random_logits(ROWS, COLUMNS, seed=1), 0.4
    ),
    "match": lambda x: losses.matching(x[:, 0, :2], torch.arange(4) < 2),
    "words": lambda x: losses.language_modelling(x, TARGETS, 0.1).sum(),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_logits_are_computed_in_float32(name: str, autocast: bool) -> None:
    logits = random_logits(4, 5, WORDS).bfloat16()
    exact = with_gradient(LOSSES[name], inputs(logits.float()))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        ours = with_gradient(LOSSES[name], inputs(logits))
    assert_close(ours, [exact[0], exact[1].bfloat16()])
