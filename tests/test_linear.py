"""Packed linear layers give what `F.linear` gives, of the weights as they are now."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import patchword
from patchword import checkpoints
from patchword.nn import linear, transformer
from patchword.nn.linear import Linear, pack

PACKS = torch.float32 in linear.TYPES  # elsewhere the same answers are asked of torch's own product
SHAPES = [(1, 64, 192), (3, 48, 100), (50, 192, 768), (577, 96, 31)]


def made(inside: int, outside: int, dtype: torch.dtype, bias: bool = True) -> Linear:
    torch.manual_seed(outside)
    layer = Linear(inside, outside, bias=bias).to(dtype)
    pack(layer)
    return layer


def test_every_x86_processor_packs() -> None:
    assert linear.X86 is PACKS


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("rows", "inside", "outside"), SHAPES)
def test_products(
    rows: int, inside: int, outside: int, bias: bool, wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On processors that pack everything, and on those that pack for a few rows alone."""
    monkeypatch.setattr(linear, "WIDE", wide)
    layer = made(inside, outside, torch.float32, bias)
    x = torch.randn(2, rows, inside)
    exact = nn.functional.linear(x.double(), layer.weight.double())
    exact = exact + layer.bias.double() if bias else exact
    with torch.inference_mode():
        found = layer(x)
        again = layer(x)
    assert (layer.packed.held is not None) is (PACKS and (wide or rows < 9))
    assert found.shape == (2, rows, outside)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=4e-6)
    assert found.equal(again)


@pytest.mark.parametrize(("rows", "inside", "outside"), SHAPES)
def test_products_in_bfloat16(rows: int, inside: int, outside: int) -> None:
    layer = made(inside, outside, torch.bfloat16)
    x = torch.randn(rows, inside).bfloat16()
    exact = nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double())
    with torch.inference_mode():
        found = layer(x)
    assert found.dtype == torch.bfloat16
    # Half a unit in the last of 8 bits, and float32 sums before.
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-5)


def test_a_changed_weight_is_packed_anew() -> None:
    layer = made(32, 8, torch.float32)
    x = torch.randn(4, 32)
    with torch.inference_mode():
        before = layer(x)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.1)
    layer(x).sum().backward()
    optimiser.step()
    with torch.inference_mode():
        after = layer(x)
    assert not after.equal(before)
    torch.testing.assert_close(after, nn.functional.linear(x, layer.weight, layer.bias))
    layer.load_state_dict({"weight": torch.zeros(8, 32), "bias": torch.ones(8)})
    with torch.inference_mode():
        assert layer(x).equal(torch.ones(4, 8))
    layer.to(torch.bfloat16)
    with torch.inference_mode():
        assert layer(x.bfloat16()).equal(torch.ones(4, 8).bfloat16())


def test_where_gradients_or_other_types_are_wanted() -> None:
    layer = made(32, 8, torch.float32)
    x = torch.randn(4, 32, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert layer.packed.held is None
    with torch.inference_mode():
        assert layer(x[:0]).shape == (0, 8)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
    assert layer.packed.held is None


def test_copies_and_state() -> None:
    layer = made(32, 8, torch.float32)
    x = torch.randn(4, 32)
    with torch.inference_mode():
        expected = layer(x)
    twin = copy.deepcopy(layer)
    assert twin.packed.held is None
    assert set(layer.state_dict()) == {"weight", "bias"}
    with torch.inference_mode():
        torch.testing.assert_close(twin(x), expected)


def test_a_loaded_model_packs_and_training_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "WIDE", True)
    photos = [np.full((40, 40, 3), value, np.uint8) for value in (30, 200)]
    model, plain = patchword.load("demo"), checkpoints.load("demo")
    found, expected = model.embed_images(photos), plain.embed_images(photos)
    assert isinstance(model.network.image.blocks[0].mlp.fc1, Linear)
    assert (model.network.image.blocks[0].mlp.fc1.packed.held is not None) is PACKS
    assert plain.network.image.blocks[0].mlp.fc1.packed.held is None
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_many_images_go_through_in_parts() -> None:
    network = checkpoints.load("demo").network
    pixels = torch.randn(40, 3, 96, 96)
    assert len(pixels) * 145 > transformer.TOKENS * torch.get_num_threads()
    with torch.no_grad():
        whole = network.encode_image(pixels)
    with torch.inference_mode():
        parts = network.encode_image(pixels)
    torch.testing.assert_close(parts, whole, rtol=0, atol=2e-5)
