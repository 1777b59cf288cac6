"""One suite for every variant: what any network of the house must do."""

import copy
from pathlib import Path

import pytest
import torch
from shrunk import WORDS, shrunk, tiny_hybrid
from torch import Tensor, nn
from torch.testing import assert_close

from patchword import checkpoints, models, variants
from patchword.bundle import make
from patchword.config import ModelConfig

CONFIGS = {name: shrunk(variant.config) for name, variant in variants.VARIANTS.items()}
CONFIGS["hybrid"] = tiny_hybrid()


@pytest.fixture(params=CONFIGS, scope="module")
def config(request: pytest.FixtureRequest) -> ModelConfig:
    return CONFIGS[request.param]


@pytest.fixture(scope="module")
def network(config: ModelConfig) -> nn.Module:
    torch.manual_seed(1)
    network = models.build(config)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics that are not the identity
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def pixels(config: ModelConfig, count: int = 3, seed: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *config.vision.image_size, generator=generator)


def ids() -> Tensor:
    end = WORDS - 1
    return torch.tensor([[1, 7, 8, end, 0], [1, 9, end, 0, 0], [1, 2, 3, 4, end]])


def out_dim(config: ModelConfig) -> int:
    return config.feature_dim


def test_shapes(config: ModelConfig, network: nn.Module) -> None:
    assert network.encode_image(pixels(config)).shape == (3, out_dim(config))
    if config.text:
        assert network.encode_text(ids()).shape == (3, config.embed_dim)
    elif config.classes:
        assert network(pixels(config)).shape == (3, config.classes)


@torch.no_grad()
def test_same_again_and_in_any_batch(config: ModelConfig, network: nn.Module) -> None:
    x = pixels(config)
    together = network.encode_image(x)
    assert torch.equal(together, network.encode_image(x))
    assert_close(torch.cat([network.encode_image(row[None]) for row in x]), together)
    with pytest.raises(AssertionError):
        assert_close(together[0], together[1])


@torch.no_grad()
def test_what_follows_the_end_token_does_not_matter(
    config: ModelConfig, network: nn.Module
) -> None:
    if config.text is None:
        return
    full = nn.functional.pad(ids(), (0, config.text.context - 5))
    assert_close(network.encode_text(ids()), network.encode_text(full))
    noisy = full.clone()
    noisy[:, 5:] = 11
    assert_close(network.encode_text(noisy), network.encode_text(full))


def test_save_and_load(config: ModelConfig, network: nn.Module, tmp_path: Path) -> None:
    bundle = make(copy.deepcopy(network), config, None, "tiny")
    checkpoints.save(bundle, tmp_path / "model")
    again = checkpoints.load(tmp_path / "model")
    assert again.config == config
    assert again.fingerprint == bundle.fingerprint
    for name, value in network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value), name


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(config: ModelConfig, network: nn.Module, dtype: torch.dtype) -> None:
    half = copy.deepcopy(network).to(dtype)
    features = half.encode_image(pixels(config).to(dtype))
    assert features.dtype == dtype
    cosine = nn.functional.cosine_similarity(features.float(), network.encode_image(pixels(config)))
    assert cosine.min() > 0.99
    if config.text:
        cosine = nn.functional.cosine_similarity(
            half.encode_text(ids()).float(), network.encode_text(ids())
        )
        assert cosine.min() > 0.99


def test_gradients_reach_every_parameter(config: ModelConfig, network: nn.Module) -> None:
    network = copy.deepcopy(network).train()
    generator = torch.Generator().manual_seed(3)
    if config.text:
        image, text, scale = network(pixels(config), ids())
        loss = (scale * image @ text.T).log_softmax(-1).diagonal().mean()
    else:
        out = network(pixels(config))
        loss = (out * torch.randn(out.shape, generator=generator)).sum()
    loss.backward()
    still = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().max()]
    assert still == []


@torch.no_grad()
def test_taps_come_back_and_change_nothing(config: ModelConfig, network: nn.Module) -> None:
    names = ["image.blocks.0", "image.blocks.1.attn", "image.blocks.1.attn.v"]
    if config.vision.kind == "resnet":
        names = ["image.layer1", "image.attnpool.attn", "image.attnpool.attn.v"]
    if config.vision.kind == "swin":
        block = "image.layers.0.blocks.1"
        names = [block, f"{block}.attn", f"{block}.attn.v"]
    features, taps = network.encode_image(pixels(config), taps=names)
    assert_close(features, network.encode_image(pixels(config)))
    assert sorted(taps) == sorted(names)
    weights = taps[names[1]]
    assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    if config.text:
        features, taps = network.encode_text(ids(), taps=["text.blocks.1.attn"])
        assert_close(features, network.encode_text(ids()))
        assert taps["text.blocks.1.attn"].triu(1).abs().max() == 0


@torch.no_grad()
def test_other_sizes(config: ModelConfig, network: nn.Module) -> None:
    height, width = config.vision.image_size
    x = torch.randn(1, 3, height, width + 2 * config.vision.patch_size)
    assert network.encode_image(x).shape == (1, out_dim(config))
