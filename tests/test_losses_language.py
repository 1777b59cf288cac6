"""BLIP's losses against their formulas in numpy's float64, and transformers' language model."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loss_formulas import expected, inputs, log_softmax, with_gradient
from torch import Tensor
from torch.testing import assert_close

from patchword import losses

ROWS, OTHERS, WORDS = 4, 7, 11  # OTHERS: the batch and a queue


def numbers(*shape: int, seed: int = 0, size: float = 3.0) -> Tensor:
    return size * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


TRUE = torch.eye(ROWS, OTHERS, dtype=torch.bool)
SEVERAL = TRUE | (numbers(ROWS, OTHERS, seed=4) > 3)


def alignment(logits: Tensor, guess: Tensor, true: Tensor, share: float) -> float:
    """One way of `loss_ita` (salesforce/BLIP, models/blip_pretrain.py; with several positives
    models/blip_retrieval.py): sim_targets = pos_idx / pos_idx.sum(1), then
    alpha * softmax(sim_m) + (1 - alpha) * sim_targets."""
    total = 0.0
    for row, guesses, marks in zip(
        logits.double().numpy(), guess.double().numpy(), true.numpy(), strict=True
    ):
        says = np.exp(guesses - guesses.max())
        target = share * says / says.sum() + (1 - share) * marks / marks.sum()
        total -= float((log_softmax(row) * target).sum())
    return total / len(logits)


@pytest.mark.parametrize("true", [TRUE, SEVERAL])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_soft_contrastive_equals_the_originals_arithmetic(true: Tensor, share: float) -> None:
    logits, guess = numbers(ROWS, OTHERS), numbers(ROWS, OTHERS, seed=1)
    value = alignment(logits, guess, true, share)
    assert_close(losses.soft_contrastive(logits, true, guess, share), expected(value))
    there = losses.soft_contrastive(logits, true, guess, torch.tensor(share))
    assert_close(there, expected(value))


def test_soft_contrastive_without_a_guess_is_that_of_share_0() -> None:
    assert SEVERAL.sum() > TRUE.sum()
    logits = numbers(ROWS, OTHERS)
    value = alignment(logits, logits, SEVERAL, 0.0)
    assert_close(losses.soft_contrastive(logits, SEVERAL), expected(value))
    own = F.cross_entropy(logits, torch.arange(ROWS))
    assert_close(losses.soft_contrastive(logits, TRUE), own)


def test_the_gradient_of_soft_contrastive_is_of_the_logits() -> None:
    """(softmax(logits) - targets) / rows; nothing flows into what the targets are made of."""
    logits, guess = numbers(ROWS, OTHERS).requires_grad_(), numbers(ROWS, OTHERS, seed=1)
    losses.soft_contrastive(logits, SEVERAL, guess, 0.4).backward()
    targets = 0.4 * guess.softmax(1) + 0.6 * SEVERAL / SEVERAL.sum(1, keepdim=True)
    assert_close(logits.grad, (logits.detach().softmax(1) - targets) / ROWS)


def test_matching_is_cross_entropy_of_two() -> None:
    logits = numbers(6, 2)
    together = torch.tensor([True, True, False, False, False, True])
    chances = log_softmax(logits.double().numpy())
    value = -np.mean([row[int(own)] for row, own in zip(chances, together, strict=True)])
    assert_close(losses.matching(logits, together), expected(value))
    same = torch.zeros(6, 2)  # knows nothing but the ratio of 1 to 2
    same[:, 0] = np.log(2)
    third = torch.arange(6) < 2
    assert losses.matching(same, third).item() == pytest.approx(0.6365, abs=1e-4)


TARGETS = torch.tensor(
    [[3, 0, 7, 2, 5], [1, 10, 2, -100, -100], [-100, -100, 4, 2, -100], [-100] * 5]
)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_language_modelling_is_the_formula_in_float64(smoothing: float) -> None:
    """Szegedy et al. 2016, section 7: q'(k) = (1 - e) [k = y] + e / K."""
    logits = numbers(4, 5, WORDS)
    chances = log_softmax(logits.double().numpy())
    each = [0.0] * 4
    for row, targets in enumerate(TARGETS.tolist()):
        for place, word in enumerate(targets):
            if word != losses.IGNORED:
                target = np.full(WORDS, smoothing / WORDS)
                target[word] += 1 - smoothing
                each[row] -= float((target * chances[row, place]).sum())
    found = losses.language_modelling(logits, TARGETS, smoothing)
    assert_close(found, torch.tensor(each))
    assert each[3] == 0


def test_padding_has_no_gradient() -> None:
    logits = numbers(4, 5, WORDS).requires_grad_()
    losses.language_modelling(logits, TARGETS, 0.1).sum().backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad.abs().sum(2) > 0, TARGETS != losses.IGNORED)


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "contrast": lambda x: losses.soft_contrastive(
        x.flatten(0, 1)[:ROWS, :OTHERS], SEVERAL, numbers(ROWS, OTHERS, seed=1), 0.4
    ),
    "match": lambda x: losses.matching(x[:, 0, :2], torch.arange(4) < 2),
    "words": lambda x: losses.language_modelling(x, TARGETS, 0.1).sum(),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_logits_are_computed_in_float32(name: str, autocast: bool) -> None:
    logits = numbers(4, 5, WORDS).bfloat16()
    exact = with_gradient(LOSSES[name], inputs(logits.float()))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        ours = with_gradient(LOSSES[name], inputs(logits))
    assert_close(ours, [exact[0], exact[1].bfloat16()])
