"""What every image tower says of itself, and that it is true: the contract of a `Tower`."""

import pytest
import torch
from small_models import pixels, shrunk, tiny_clip, tiny_clip_resnet, tiny_hybrid, tiny_vit
from torch.testing import assert_close

from patchword import models, variants
from patchword.config import ModelConfig
from patchword.errors import UnsupportedError
from patchword.models.edits import DenseEdit
from patchword.models.protocols import ImageNetwork, Tokens
from patchword.nn.taps import Taps

NAMED = ("deit-small-distilled-16", "siglip-base-16-224", "swin-tiny-7-224", "blip-base-224")
CONFIGS = {
    "clip": tiny_clip(),
    "resnet": tiny_clip_resnet(),
    "hybrid": tiny_hybrid(),
    "rope": tiny_vit("rope"),
    "pyramid": tiny_vit("pyramid"),
    **{
        name: shrunk(variant.config) for name, variant in variants.VARIANTS.items() if name in NAMED
    },
}


@pytest.fixture(params=CONFIGS, scope="module")
def config(request: pytest.FixtureRequest) -> ModelConfig:
    return CONFIGS[request.param]


@pytest.fixture(scope="module")
def network(config: ModelConfig) -> ImageNetwork:
    torch.manual_seed(3)
    network = models.build(config).eval()
    assert isinstance(network, ImageNetwork)
    return network


@torch.inference_mode()
def test_tokens_patches_and_widths(config: ModelConfig, network: ImageNetwork) -> None:
    tower, x = network.image, pixels(config)
    tokens = tower.encode(x)
    size = (x.shape[-2], x.shape[-1])
    rows, columns = tower.grid(size)
    patches = tower.patches(size)
    assert (patches.start, patches.stop - patches.start) == (tower.prefix, rows * columns)
    assert patches.stop <= tokens.values.shape[1]
    assert tower(x).shape == (len(x), tower.out_width)
    assert tower.project(tokens.values).shape == (*tokens.values.shape[:2], tower.out_width)


@torch.inference_mode()
def test_features_are_the_pooled_tokens(config: ModelConfig, network: ImageNetwork) -> None:
    tower, x = network.image, pixels(config)
    assert_close(tower.features(x), tower.pool(tower.encode(x)))


@torch.inference_mode()
def test_the_network_unchanged_is_an_edit_too(config: ModelConfig, network: ImageNetwork) -> None:
    """Which is the tokens of the last layer, projected; a ResNet's are what its pooling's attention
    gives each place."""
    tower, x = network.image, pixels(config)
    dense = tower.dense(x, DenseEdit())
    rows, columns = tower.grid((x.shape[-2], x.shape[-1]))
    assert dense.shape == (len(x), rows * columns, tower.out_width)
    if tower.attention_layers != ("attnpool",):
        patches = tower.patches((x.shape[-2], x.shape[-1]))
        assert_close(dense, tower.project(tower.encode(x).values[:, patches]))
    assert_close(tower.dense(x[:1], DenseEdit()), dense[:1])


@torch.inference_mode()
@pytest.mark.parametrize("rule", ["identity", "vv", "qq", "kk"])
def test_edits_change_the_last_layer_alone(
    config: ModelConfig, network: ImageNetwork, rule: str
) -> None:
    tower, x = network.image, pixels(config)
    edit = DenseEdit((rule,), residual=False, mlp=False)  # type: ignore[arg-type]
    if not tower.attention_layers:
        with pytest.raises(UnsupportedError, match="attends inside windows"):
            tower.dense(x, edit)
        return
    dense = tower.dense(x, edit)
    assert_close(tower.dense(x[1:2], edit), dense[1:2])
    assert (dense - tower.dense(x, DenseEdit())).abs().max() > 1e-6
    residual = DenseEdit((rule,), residual=True, mlp=False)  # type: ignore[arg-type]
    same = torch.equal(tower.dense(x, residual), dense)
    assert same == (tower.attention_layers == ("attnpool",))  # a pooling has none


@torch.inference_mode()
def test_every_layer_is_a_tap_and_attention_sums_to_one(
    config: ModelConfig, network: ImageNetwork
) -> None:
    tower, x = network.image, pixels(config)
    names = [*tower.layer_names, *(f"{name}.attn" for name in tower.attention_layers)]
    taps = Taps(names)
    tower.encode(x, taps) if tower.attention_layers != ("attnpool",) else tower(x, taps)
    kept = taps.result()
    size = (x.shape[-2], x.shape[-1])
    rows, columns = tower.grid(size)
    for name in tower.attention_layers:
        weights = kept[f"{name}.attn"]
        assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))
        assert tower.pooled_attention(weights[0], size).shape == (weights.shape[1], rows * columns)


@torch.inference_mode()
def test_hidden_states_are_counted_as_transformers_counts(
    config: ModelConfig, network: ImageNetwork
) -> None:
    tower, x = network.image, pixels(config)
    if len(tower.attention_layers) < 2:
        with pytest.raises(UnsupportedError, match="hidden states"):
            tower.hidden_states(x, -1, False)
        return
    depth = len(tower.layer_names)
    last = tower.hidden_states(x, -1, False)
    assert_close(last, tower.encode(x).values)
    assert_close(tower.hidden_states(x, depth, False), last)
    assert_close(tower.hidden_states(x, 0, False), tower.hidden_states(x, -depth - 1, False))
    for layer in (depth + 1, -depth - 2):
        with pytest.raises(UnsupportedError, match=f"no layer {layer}: there are layers 0"):
            tower.hidden_states(x, layer, False)


@torch.inference_mode()
def test_windows_are_runs_of_their_patches_alone(
    config: ModelConfig, network: ImageNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: those tokens that enter the first block, one window of one image at a time."""
    monkeypatch.setattr("patchword.models.vit.WINDOWS_AT_ONCE", 1)
    tower, x = network.image, pixels(config)
    windows = torch.tensor([[0, 1, 2], [5, 3, 1]])
    if not tower.attention_layers or tower.attention_layers != tower.layer_names:
        with pytest.raises(UnsupportedError, match="can be left out"):
            tower.windows(x, windows)
        return
    taps = Taps(["tokens"])
    tower.encode(x, taps)
    found = tower.windows(x, windows)
    for image in range(len(x)):
        for number, patches in enumerate(windows.tolist()):
            kept = [*range(tower.prefix), *(tower.prefix + patch for patch in patches)]
            rows = taps.result()["tokens"][image : image + 1, kept]
            turned = tower.rotary(x)
            for block in tower.blocks:
                rows = block(rows, rotary=None if turned is None else turned[:, kept])
            if config.image_tower.pool == "distilled":
                first, second = tower.norm(rows)[0, :2]
                expected = (tower.head(first) + tower.head_dist(second)) / 2
            else:
                expected = tower.head(tower.pool(Tokens(rows)))[0]
            assert_close(found[image, number], expected)
    size = (x.shape[-2], x.shape[-1])
    if tower.encode(x).values.shape[1] == tower.patches(size).stop:  # no smaller versions follow
        rows, columns = tower.grid(size)
        assert_close(tower.windows(x, torch.arange(rows * columns)[None])[:, 0], tower(x))
