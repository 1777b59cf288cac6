"""One suite for every variant: what any network of the house must do."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import embeds_text, ids, pixels, shrunk, tiny_hybrid, tiny_vit
from torch import Tensor, nn
from torch.testing import assert_close

from patchword import checkpoints, models, variants
from patchword.bundle import make
from patchword.config import ModelConfig, ResNetConfig, SwinConfig

EVERY = {name: shrunk(variant.config) for name, variant in variants.VARIANTS.items()}
EVERY["hybrid"] = tiny_hybrid()
for positions in ("patches", "flexible", "sincos", "rope", "pyramid"):
    EVERY[positions] = tiny_vit(positions)


def distinct(configs: dict[str, ModelConfig]) -> dict[str, ModelConfig]:
    """Those that are another network than all before them: sizes alone, shrunk, are the same."""
    first: dict[str, str] = {}
    for name, config in configs.items():
        first.setdefault(repr(replace(config, assumed={}, source="")), name)
    return {name: configs[name] for name in first.values()}


CONFIGS = distinct(EVERY)
READ = [name for name, config in CONFIGS.items() if embeds_text(config)]
SEE = [name for name, config in CONFIGS.items() if config.vision is not None]


def test_every_variant_is_one_of_those_that_run() -> None:
    assert len(EVERY) == len(variants.VARIANTS) + 6
    kept = [replace(config, assumed={}, source="") for config in CONFIGS.values()]
    assert all(replace(config, assumed={}, source="") in kept for config in EVERY.values())


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


def out_dim(config: ModelConfig) -> int:
    return config.feature_dim


def encoder(config: ModelConfig, network: nn.Module) -> tuple[Callable[..., Any], Tensor]:
    """What every network does, and something to do it to: it sees or, without an eye, reads."""
    if config.vision is None:
        return network.encode_text, ids(config)
    return network.encode_image, pixels(config)


def test_shapes(config: ModelConfig, network: nn.Module) -> None:
    encode, x = encoder(config, network)
    assert encode(x).shape == (3, out_dim(config))
    if embeds_text(config):
        assert network.encode_text(ids(config)).shape == (3, out_dim(config))
    elif config.classes:
        assert network(pixels(config)).shape == (3, config.classes)


@torch.no_grad()
def test_same_again_and_in_any_batch(config: ModelConfig, network: nn.Module) -> None:
    encode, x = encoder(config, network)
    together = encode(x)
    assert torch.equal(together, encode(x))
    assert_close(torch.cat([encode(row[None]) for row in x]), together)
    with pytest.raises(AssertionError):
        assert_close(together[0], together[1])


@torch.no_grad()
@pytest.mark.parametrize("config", READ, indirect=True)
def test_what_follows_the_end_token_does_not_matter(
    config: ModelConfig, network: nn.Module
) -> None:
    given = ids(config)
    more = config.text.context - given.shape[1]
    full = nn.functional.pad(given, (0, more), value=config.text.pad_token)
    assert_close(network.encode_text(given), network.encode_text(full))
    if config.text.causal:
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
    encode, x = encoder(config, half)
    features = encode(x.to(dtype) if x.is_floating_point() else x)
    assert features.dtype == dtype
    encode, x = encoder(config, network)
    cosine = nn.functional.cosine_similarity(features.float(), encode(x))
    assert cosine.min() > 0.99
    if embeds_text(config):
        cosine = nn.functional.cosine_similarity(
            half.encode_text(ids(config)).float(), network.encode_text(ids(config))
        )
        assert cosine.min() > 0.99


def test_gradients_reach_every_parameter(config: ModelConfig, network: nn.Module) -> None:
    network = copy.deepcopy(network).train()
    generator = torch.Generator().manual_seed(3)
    if config.vision is None:
        out = network.encode_text(ids(config))
        loss = (out * torch.randn(out.shape, generator=generator)).sum()
    elif config.decoder or config.matching:
        said = network(pixels(config), ids(config))
        loss = sum(
            (out * torch.randn(out.shape, generator=generator)).sum()
            for out in (said.matching, said.words)
            if out is not None
        )
        if config.embed_dim:
            loss = loss + (network.scale * said.image @ said.text.T).log_softmax(-1)[0, 0]
    elif config.text:
        image, text, scale, *bias = network(pixels(config), ids(config))
        logits = scale * image @ text.T
        assert len(bias) == (config.score == "sigmoid")
        if bias:
            loss = nn.functional.logsigmoid(logits + bias[0]).sum()
        else:
            loss = logits.log_softmax(-1).diagonal().mean()
    else:
        out = network(pixels(config))
        out = out[0] if config.masked else out  # what was painted; the other says where
        loss = (out * torch.randn(out.shape, generator=generator)).sum()
    loss.backward()
    still = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().max()]
    assert still == []


@torch.no_grad()
def test_taps_come_back_and_change_nothing(config: ModelConfig, network: nn.Module) -> None:
    names = ["image.blocks.0", "image.blocks.1.attn", "image.blocks.1.attn.v"]
    if isinstance(config.vision, ResNetConfig):
        names = ["image.layer1", "image.attnpool.attn", "image.attnpool.attn.v"]
    if isinstance(config.vision, SwinConfig):
        block = "image.layers.0.blocks.1"
        names = [block, f"{block}.attn", f"{block}.attn.v"]
    if config.vision is None:
        names = [name.replace("image", "text") for name in names]
    encode, x = encoder(config, network)
    features, taps = encode(x, taps=names)
    assert_close(features, encode(x))
    assert sorted(taps) == sorted(names)
    weights = taps[names[1]]
    assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    if embeds_text(config):
        features, taps = network.encode_text(ids(config), taps=["text.blocks.1.attn"])
        assert_close(features, network.encode_text(ids(config)))
        weights, given = taps["text.blocks.1.attn"], ids(config)
        if config.text.causal:
            assert weights.triu(1).abs().max() == 0
        elif config.text.padding == "masked":
            padding = (given == config.text.pad_token)[:, None, None].expand_as(weights)
            assert weights[padding].max() == 0


@torch.no_grad()
@pytest.mark.parametrize("config", SEE, indirect=True)
def test_other_sizes(config: ModelConfig, network: nn.Module) -> None:
    height, width = config.vision.image_size
    x = torch.randn(1, 3, height, width + 2 * config.vision.patch_size)
    assert network.encode_image(x).shape == (1, out_dim(config))
