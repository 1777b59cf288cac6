"""The MLP in inference with bfloat16, where oneDNN applies the activation, against float64."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from patchword.nn import linear
from patchword.nn.linear import Linear
from patchword.nn.mlp import Mlp

TOGETHER = torch.bfloat16 in linear.ONEDNN_TYPES
UNIT = 2**-7  # in the last place of bfloat16, relative to the number
ACTS = ["gelu", "gelu_tanh", "quick_gelu"]


def made(act: str) -> tuple[Mlp, Tensor]:
    torch.manual_seed(0)
    return Mlp(192, 768, act).bfloat16(), torch.randn(3, 50, 192).bfloat16()


def in_turn(mlp: Mlp, x: Tensor) -> Tensor:
    return mlp.fc2(mlp.act(mlp.fc1(x)))  # type: ignore[no-any-return]


def apart(found: Tensor, expected: Tensor) -> float:
    """||found - expected|| / ||expected||."""
    return float((found.double() - expected).norm() / expected.double().norm())


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("act", ACTS)
def test_values(act: str, biases: bool) -> None:
    mlp, x = made(act)
    if not biases:
        mlp.fc1.register_parameter("bias", None)
        mlp.fc2.register_parameter("bias", None)
    with torch.inference_mode():
        found, parts = mlp(x), in_turn(mlp, x)
        exact = in_turn(mlp.double(), x.double())
    assert apart(found, exact) < UNIT
    assert apart(found, exact) < 1.1 * apart(parts, exact)


@pytest.mark.parametrize("act", ACTS)
def test_one_call_where_onednn_has_it(act: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mlp, x = made(act)
    called = []
    forward = Linear.forward
    monkeypatch.setattr(Linear, "forward", lambda self, x: called.append(x) or forward(self, x))
    with torch.inference_mode():
        mlp(x)
    parts = (0 if act == "quick_gelu" else 1) if TOGETHER else 2
    assert len(called) == parts


@pytest.mark.parametrize("part", ["fc1", "act", "fc2"])
@pytest.mark.parametrize("act", ACTS)
def test_hooks_run(act: str, part: str) -> None:
    mlp, x = made(act)
    with torch.inference_mode():
        without = mlp(x)
        getattr(mlp, part).register_forward_hook(lambda *call: 3 * call[2])
        assert apart(mlp(x), in_turn(mlp, x)) < UNIT
        assert apart(mlp(x), without) > 0.5


@pytest.mark.parametrize("part", ["fc1", "fc2"])
@pytest.mark.parametrize("act", ACTS)
def test_pruned_layers(act: str, part: str) -> None:
    """Pruning applies its mask in a hook."""
    mlp, x = made(act)
    layer = getattr(mlp, part)
    prune.identity(layer, "bias")
    layer.bias_mask[:] = 0
    bare, _ = made(act)
    nn.init.zeros_(getattr(bare, part).bias)
    with torch.inference_mode():
        assert apart(mlp(x), in_turn(bare, x)) < UNIT


@pytest.mark.parametrize("part", ["fc1", "fc2"])
@pytest.mark.parametrize("act", ACTS)
def test_another_layer_in_place_of_a_linear_one(act: str, part: str) -> None:
    """As an adapter does."""
    mlp, x = made(act)
    setattr(mlp, part, nn.Sequential(getattr(mlp, part), nn.Tanh()))
    with torch.inference_mode():
        assert apart(mlp(x), in_turn(mlp, x)) < UNIT
