"""Linear layers give what `F.linear` gives, of the weights as they are now."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision_cpu  # noqa: F401  # before peft, which imports transformers and torchvision
from torch import Tensor, nn

import patchword
from patchword import checkpoints
from patchword.bundle import Bundle
from patchword.nn import linear as module
from patchword.nn import transformer
from patchword.nn.linear import Linear
from patchword.nn.linear import onednn_is_faster as faster
from patchword.train import lora
from patchword.train.recipe import LoraConfig

SHAPES = [(1, 64, 192), (3, 48, 100), (50, 192, 768), (577, 96, 31), (2, 768, 768)]
PHOTOS = [np.random.default_rng(i).integers(0, 256, (64, 64, 3), np.uint8) for i in range(4)]


def made(inside: int, outside: int, dtype: torch.dtype, bias: bool = True) -> Linear:
    torch.manual_seed(outside)
    return Linear(inside, outside, bias=bias).to(dtype)


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN for products of any size, on any processor that has it."""
    monkeypatch.setattr(module, "ONEDNN_TYPES", [torch.float32])
    monkeypatch.setattr(module, "LARGE_WEIGHT", 0)
    monkeypatch.setattr(module, "INTEL", False)


@pytest.mark.parametrize("intel", [True, False])
def test_where_it_is_faster(intel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTEL", intel)
    x, large, small = torch.zeros(2, 768), made(768, 768, torch.float32), nn.Linear(768, 31)
    with torch.inference_mode():
        assert faster(x, large.weight) is (module.ONEDNN and not intel)
        assert faster(x.expand(40, 2, 768), small.weight) is module.ONEDNN
        assert faster(x.expand(300, 2, 768), large.weight) is (module.ONEDNN and not intel)
        assert not faster(x, small.weight)
        assert not faster(x.double(), large.weight)
        assert not faster(x[:0], large.weight)
        with torch.autocast("cpu", torch.bfloat16):
            assert not faster(x, large.weight)
    assert not faster(x, large.weight)


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("rows", "inside", "outside"), SHAPES)
def test_products(rows: int, inside: int, outside: int, bias: bool) -> None:
    layer = made(inside, outside, torch.float32, bias)
    x = torch.randn(2, rows, inside)
    exact = nn.functional.linear(x.double(), layer.weight.double())
    exact = exact + layer.bias.double() if bias else exact
    with torch.inference_mode():
        found = layer(x)
        again = layer(x)
        turned = layer(x.transpose(0, 1).contiguous().transpose(0, 1))
    assert found.shape == (2, rows, outside)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=4e-6)
    torch.testing.assert_close(turned, found, rtol=0, atol=4e-6)
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


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(768,), (1, 1, 768)])
def test_a_single_row(shape: tuple[int, ...], bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a product of matrix and vector, on any processor."""
    monkeypatch.setattr(module, "HAS_AMX", True)
    monkeypatch.setattr(module, "ONEDNN_TYPES", [torch.bfloat16])
    layer, x = made(768, 768, torch.bfloat16, bias), torch.randn(shape).bfloat16()
    exact = nn.functional.linear(x.double(), layer.weight.double())
    exact = exact + layer.bias.double() if bias else exact
    with torch.inference_mode():
        assert module._is_vector(x, layer.weight)
        assert not module._is_vector(torch.zeros(2, 768).bfloat16(), layer.weight)
        found = layer(x)
    assert found.shape == shape
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-5)


def optimised(layer: Linear) -> None:
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.1)
    layer(torch.ones(1, layer.in_features)).sum().backward()
    optimiser.step()


def held(layer: Linear) -> None:
    """Through an array that shares the weight's memory."""
    layer.weight.detach().numpy()[3, 5] += 7


def replaced(layer: Linear) -> None:
    """By another Parameter, which may come to lie where the last one lay."""
    layer.weight = None  # type: ignore[assignment]
    layer.weight = nn.Parameter(torch.randn(layer.out_features, layer.in_features))


def assigned(layer: Linear) -> None:
    state = {name: torch.randn_like(value) for name, value in layer.state_dict().items()}
    layer.load_state_dict(state, assign=True)


def rounded(layer: Linear) -> None:
    layer.bfloat16()
    layer.float()


CHANGES: list[Callable[[Linear], object]] = [
    optimised,
    held,
    replaced,
    assigned,
    rounded,
    lambda layer: layer.weight.data.add_(1.0),
    lambda layer: layer.weight.data.view(-1)[7:8].add_(9.0),
    lambda layer: setattr(layer.weight, "data", torch.randn_like(layer.weight.data)),
    lambda layer: layer.load_state_dict({"weight": torch.zeros(8, 32), "bias": torch.ones(8)}),
    lambda layer: nn.utils.vector_to_parameters(torch.randn(8 * 32 + 8), layer.parameters()),
]


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_weight_counts_at_once(change: Callable[[Linear], object]) -> None:
    layer, x = made(32, 8, torch.float32), torch.randn(4, 32)
    for _ in range(20):
        with torch.inference_mode():
            before = layer(x)
        change(layer)
        weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
        with torch.inference_mode():
            after = layer(x)
        torch.testing.assert_close(after, nn.functional.linear(x, weight, bias))
        assert change is rounded or not after.equal(before) or not weight.any()


@pytest.mark.usefixtures("everywhere")
def test_a_merged_adapter_counts_at_once() -> None:
    """peft adds what it learned to `weight.data`."""
    model = patchword.load("demo")
    before = model.embed_images(PHOTOS)
    lora.add(model.network, LoraConfig())
    torch.manual_seed(0)
    for name, value in model.network.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(value, std=0.1)
    model.network.eval()
    adapted = model.embed_images(PHOTOS)
    lora.merge(model.network)
    merged = model.embed_images(PHOTOS)
    assert np.abs(adapted - before).max() > 0.005
    np.testing.assert_allclose(merged, adapted, rtol=0, atol=2e-6)


@pytest.mark.usefixtures("everywhere")
def test_gradients_are_recorded() -> None:
    layer = made(32, 8, torch.float32)
    x = torch.randn(4, 32, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    with torch.inference_mode():
        assert layer(x[:0]).shape == (0, 8)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16


def test_copies_and_state() -> None:
    layer = made(32, 8, torch.float32)
    x = torch.randn(4, 32)
    twin = copy.deepcopy(layer)
    assert set(layer.state_dict()) == {"weight", "bias"}
    with torch.inference_mode():
        torch.testing.assert_close(twin(x), layer(x))


@pytest.mark.usefixtures("everywhere")
def test_a_network_by_onednn_and_by_torch() -> None:
    model: Bundle = checkpoints.load("demo")
    assert isinstance(model.network.image.blocks[0].mlp.fc1, Linear)

    def features() -> Tensor:
        pixels = np.stack([model.open(photo)[0] for photo in PHOTOS])
        return model.network.encode_image(torch.from_numpy(pixels))

    with torch.inference_mode():
        found = features()
    with torch.no_grad():
        expected = features()
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_many_images_go_through_in_parts() -> None:
    network = checkpoints.load("demo").network
    pixels = torch.randn(40, 3, 96, 96)
    assert len(pixels) * 145 > transformer.TOKENS_PER_THREAD * torch.get_num_threads()
    with torch.no_grad():
        whole = network.encode_image(pixels)
    with torch.inference_mode():
        parts = network.encode_image(pixels)
    torch.testing.assert_close(parts, whole, rtol=0, atol=2e-5)
