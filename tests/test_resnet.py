"""Batch norms that are brought into the weights of their convolutions."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from patchword.models.resnet import Trunk


@pytest.fixture
def trunk() -> Trunk:
    """One whose norms change what they are given."""
    torch.manual_seed(0)
    made = Trunk(16, (1, 2)).eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.2, 3.0),
                (module.weight, 0.5, 1.5),
                (module.bias, -0.3, 0.3),
            ):
                values.data.uniform_(low, high)
    return made


PIXELS = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def convolved(trunk: Trunk, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, int]:
    """What a trunk makes of `PIXELS` in inference, and how many norms had a pass of their own."""
    norms = 0
    forward = nn.BatchNorm2d.forward

    def counted(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
        nonlocal norms
        norms += 1
        return forward(norm, x)

    with monkeypatch.context() as patch, torch.inference_mode():
        patch.setattr(nn.BatchNorm2d, "forward", counted)
        return trunk(PIXELS), norms


def test_norms_in_the_weights_give_the_same(trunk: Trunk, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = copy.deepcopy(trunk).double()(PIXELS.double())
    found, norms = convolved(trunk, monkeypatch)
    assert norms == 0
    assert (found - expected).abs().max() < 1e-6 * expected.abs().max()
    # Nothing is kept: a weight that is changed counts at once.
    trunk.layer1[0].conv2.weight.data *= 2
    expected = copy.deepcopy(trunk).double()(PIXELS.double())
    found, _ = convolved(trunk, monkeypatch)
    assert (found - expected).abs().max() < 1e-6 * expected.abs().max()


def test_what_others_add_to_layers_is_not_passed_over(
    trunk: Trunk, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = trunk.layer1[0]
    seen: list[Tensor] = []
    first.bn1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    prune.l1_unstructured(first.conv2, "weight", 0.5)
    trunk(PIXELS)
    first.conv2.weight_orig.data *= 2  # the weight itself follows at the next call of the layer
    seen.clear()
    found, norms = convolved(trunk, monkeypatch)
    assert len(seen) == 1
    assert norms == 2  # of the layer with a hook and of the pruned one
    expected = trunk(PIXELS)
    assert (found - expected).abs().max() < 1e-6 * expected.abs().max()


def test_norms_that_are_being_trained_have_their_own_pass(
    trunk: Trunk, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk.train()
    before = trunk.bn1.running_mean.clone()
    _, norms = convolved(trunk, monkeypatch)
    assert norms == sum(isinstance(each, nn.BatchNorm2d) for each in trunk.modules())
    assert not torch.equal(trunk.bn1.running_mean, before)
