"""Masked autoencoders: the same answers as transformers', through the real converters."""

from pathlib import Path

import torchvision_cpu  # noqa: F401  # before everything that imports torchvision

# isort: split
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from photos import CAT, FLOWER, ROCKET
from PIL import Image
from reference_mae import MODELS, hugging_face, original
from references import PATCH, SIZE, WEIGHTS, Reference, edit_json, fails, rewrite, timm_vit
from small_models import shrunk, tiny_clip
from torch import Tensor
from torch.testing import assert_close

from patchword import checkpoints, images, models
from patchword.bundle import Bundle, make
from patchword.config import MaskedConfig, ModelConfig, ViTConfig
from patchword.errors import ConfigError, UnsupportedError
from patchword.losses import masked_pixels
from patchword.models.mae import MaskedAutoencoder, random_masking
from patchword.nn.patches import patchify, unpatchify
from patchword.tasks.reconstruct import reconstruct
from patchword.variants import VARIANTS

pytestmark = pytest.mark.slow

PHOTOS = [
    CAT,
    FLOWER,
    ROCKET,
]
COUNT = (SIZE // PATCH) ** 2  # patches
Pair = tuple[Reference, Bundle]


@pytest.fixture(params=MODELS, scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    reference = MODELS[request.param](tmp_path_factory.mktemp("mae") / "model")
    return reference, checkpoints.load(reference.path)


def some_pixels(*size: int) -> Tensor:
    size = size or (SIZE, SIZE)
    return torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(5))


def some_noise(count: int = COUNT) -> Tensor:
    return torch.rand(3, count, generator=torch.Generator().manual_seed(6))


# Parity.


@torch.no_grad()
def test_features_of_the_whole_image(pair: Pair) -> None:
    reference, model = pair
    opened = [Image.fromarray(images.open(path, exact=True)) for path in PHOTOS]
    photos = torch.stack([reference.pixels(photo) for photo in opened])
    for pixels in (some_pixels(), photos):
        assert_close(model.network.encode_image(pixels), reference.image(pixels))
    expected = F.normalize(reference.image(photos), dim=-1)
    assert_close(torch.from_numpy(model.embed_images(PHOTOS, exact=True)), expected)


@torch.no_grad()
def test_reconstruction_mask_and_loss(pair: Pair) -> None:
    reference, model = pair
    if model.config.masked is None:
        assert not hasattr(model.network, "decoder")
        return
    pixels, noise = some_pixels(), some_noise()
    theirs = reference.network(pixel_values=pixels, noise=noise)
    painted, hidden = model.network(pixels, noise)
    assert_close(painted, theirs.logits)
    assert torch.equal(hidden.float(), theirs.mask)
    patches = patchify(pixels, PATCH)
    assert_close(patches, reference.network.patchify(pixels))
    for norm in (False, True):
        reference.network.config.norm_pix_loss = norm
        loss = reference.network(pixel_values=pixels, noise=noise).loss
        assert_close(masked_pixels(painted, patches, hidden, norm), loss)
        assert (masked_pixels(painted, patches, hidden, not norm) - loss).abs() > 1e-3
    reference.network.config.norm_pix_loss = model.config.masked.norm_pixels


@torch.no_grad()
@pytest.mark.parametrize(
    "changes",
    [
        {"layer_norm_eps": 1e-2},
        {"hidden_act": "quick_gelu"},
        {"num_attention_heads": 8},
        {"decoder_num_attention_heads": 4},
    ],
)
def test_a_wrong_value_would_show(changes: dict[str, object], tmp_path: Path) -> None:
    reference = hugging_face(tmp_path / "model", layer_norm_eps=1e-6)
    edit_json(reference.path / "config.json", **changes)
    wrong = checkpoints.load(reference.path)
    pixels, noise = some_pixels(), some_noise()
    right = reference.network(pixel_values=pixels, noise=noise).logits
    assert (wrong.network(pixels, noise)[0] - right).abs().max() > 1e-3


@torch.no_grad()
def test_a_share_that_is_no_whole_number(tmp_path: Path) -> None:
    reference = hugging_face(tmp_path / "model", mask_ratio=0.6)  # 6.4 of 16 patches are seen
    model = checkpoints.load(reference.path)
    painted, hidden = model.network(some_pixels(), some_noise())
    theirs = reference.network(pixel_values=some_pixels(), noise=some_noise())
    assert_close(painted, theirs.logits)
    assert hidden.sum(dim=1).tolist() == [10, 10, 10]


# Files.


def test_the_hubs_preprocessing_is_a_squashed_square(tmp_path: Path) -> None:
    reference = hugging_face(tmp_path / "model", hub=True)
    config = checkpoints.load(reference.path).config
    assert config.preprocess.resize == "squash"
    assert config.preprocess.interpolation == "bicubic"
    assert config.preprocess.mean == (0.485, 0.456, 0.406)
    assert not config.assumed


def test_transformers_defaults_are_the_documented_ones(tmp_path: Path) -> None:
    default = transformers.ViTMAEConfig()
    sizes = {
        "hidden_size": 96, "num_attention_heads": 12, "decoder_num_attention_heads": 16,
        "hidden_act": default.hidden_act, "layer_norm_eps": default.layer_norm_eps,
    }  # fmt: skip
    reference = hugging_face(tmp_path / "model", **sizes)
    stated = ("num_attention_heads", "decoder_num_attention_heads", "mask_ratio")
    rest = ("hidden_act", "layer_norm_eps", "norm_pix_loss")
    edit_json(reference.path / "config.json", **dict.fromkeys((*stated, *rest)))
    model = checkpoints.load(reference.path)
    assert set(model.config.assumed) == {
        *("vision.heads", "vision.activation", "vision.eps"),
        *("masked.heads", "masked.mask_ratio", "masked.norm_pixels"),
    }
    theirs = reference.network(pixel_values=some_pixels(), noise=some_noise())
    with torch.no_grad():
        assert_close(model.network(some_pixels(), some_noise())[0], theirs.logits)


def test_what_transformers_states_is_checked(tmp_path: Path) -> None:
    folder = hugging_face(tmp_path / "model").path
    config = folder / "config.json"
    for key, value in (
        ("qkv_bias", False),
        ("decoder_num_hidden_layers", 3),
        ("decoder_intermediate_size", 61),
        ("hidden_act", "relu"),
        ("image_size", 64),
    ):
        before = config.read_text()
        edit_json(config, **{key: value})
        fails(folder, "a Hugging Face ViTMAE, but", key)
        config.write_text(before)
    name = "decoder.decoder_encoder.layer.1.layernorm_after.weight"
    rewrite(folder / WEIGHTS, lambda tensors: tensors.pop(name))
    fails(folder, "missing", "decoder.decoder_layers.1.layernorm_after.weight")


def test_the_original_says_what_it_assumes(tmp_path: Path) -> None:
    whole = checkpoints.load(original(tmp_path / "whole.pth").path).config
    assert whole.assumed["vision.heads"] == "12: not stated; as in the original code"
    assert {"vision.eps", "preprocess.mean", "masked.heads", "masked.norm_pixels"} <= set(
        whole.assumed
    )
    assert whole.preprocess.resize_to == 36
    encoder = checkpoints.load(original(tmp_path / "encoder.pth", decoder=False).path).config
    assert encoder.masked is None
    assert not any(name.startswith("masked.") for name in encoder.assumed)


def test_other_bare_vits_are_refused(tmp_path: Path) -> None:
    """Without config.json a ViT with learned positions, or of another width, could be anything."""
    vit = timm_vit(tmp_path / "vit", num_classes=0, embed_dim=768, depth=1, mlp_ratio=0.1)
    (vit.path / "config.json").unlink()
    fails(vit.path, "pos_embed is not the fixed sines and cosines of a masked autoencoder")
    narrow = original(tmp_path / "narrow.pth", hidden_size=96)
    fails(narrow.path, "patch_embed.proj.weight is 96 wide", "768, 1024, 1280")
    odd = original(tmp_path / "odd.pth", decoder_hidden_size=40, decoder_num_attention_heads=10)
    fails(odd.path, "mask_token is 40 wide, not a multiple of 16")


@pytest.mark.parametrize(("size", "width", "patch"), [("base", 768, 16), ("huge", 1280, 14)])
def test_variants_are_the_originals(size: str, width: int, patch: int) -> None:
    config = VARIANTS[f"mae-vit-{size}-{patch}"].config
    default = transformers.ViTMAEConfig()
    assert (config.vision.width, config.vision.patch_size) == (width, patch)
    assert config.masked is not None
    assert (config.masked.width, config.masked.depth, config.masked.heads) == (
        default.decoder_hidden_size,
        default.decoder_num_hidden_layers,
        default.decoder_num_attention_heads,
    )
    assert config.masked.mlp_width == default.decoder_intermediate_size
    assert config.masked.mask_ratio == default.mask_ratio


# The network by itself.


@pytest.fixture(scope="module")
def tiny() -> Bundle:
    torch.manual_seed(3)
    config = shrunk(VARIANTS["mae-vit-base-16"].config)
    return make(models.build(config), config, None, "tiny-mae")


def test_patches_and_back() -> None:
    pixels = some_pixels(16, 24)
    patches = patchify(pixels, 8)
    assert patches.shape == (3, 6, 8 * 8 * 3)
    assert torch.equal(patches[1, 4].view(8, 8, 3).permute(2, 0, 1), pixels[1, :, 8:, 8:16])
    assert torch.equal(unpatchify(patches, (2, 3), 8), pixels)


def test_the_lowest_noise_is_seen() -> None:
    noise = torch.tensor([[0.9, 0.1, 0.8, 0.2], [0.3, 0.4, 0.1, 0.2]])
    masking = random_masking(noise, 0.5)
    assert masking.visible.tolist() == [[1, 3], [2, 3]]
    assert masking.masked.tolist() == [[True, False, True, False], [True, True, False, False]]
    tokens = torch.cat([noise.gather(1, masking.visible), torch.zeros(2, 2)], dim=1)
    assert_close(tokens.gather(1, masking.restore), noise * ~masking.masked)


@torch.no_grad()
def test_what_is_hidden_is_not_seen(tiny: Bundle) -> None:
    pixels, noise = some_pixels(48, 48), some_noise(9)
    painted, hidden = tiny.network(pixels, noise)
    where = unpatchify(hidden[..., None].expand(-1, -1, 16 * 16 * 3), (3, 3), 16)
    other = torch.where(where, torch.randn(pixels.shape), pixels)
    assert torch.equal(tiny.network(other, noise)[0], painted)
    assert not torch.equal(tiny.network(other + 1, noise)[0], painted)
    assert not torch.equal(tiny.network(pixels, some_noise(9).flip(1))[1], hidden)


@torch.no_grad()
def test_noise_comes_from_torchs_generator(tiny: Bundle) -> None:
    pixels = some_pixels(48, 48)
    torch.manual_seed(0)
    first, again = tiny.network(pixels)[1], tiny.network(pixels)[1]
    assert not torch.equal(first, again)
    torch.manual_seed(0)
    assert torch.equal(tiny.network(pixels)[1], first)


@torch.no_grad()
def test_images_of_another_size(tiny: Bundle) -> None:
    painted, hidden = tiny.network(some_pixels(48, 80))
    assert painted.shape == (3, 15, 16 * 16 * 3)
    assert hidden.sum(dim=1).tolist() == [12, 12, 12]


@torch.no_grad()
@pytest.mark.parametrize("norm", [False, True])
def test_painting_leaves_what_was_seen(norm: bool) -> None:
    config = shrunk(ModelConfig(ViTConfig(positions="sincos"), masked=MaskedConfig()))
    assert config.masked is not None
    network = models.build(
        ModelConfig(config.vision, masked=MaskedConfig(32, 1, 2, 64, norm_pixels=norm))
    )
    pixels, noise = 3 + 2 * some_pixels(48, 48), some_noise(9)
    filled, where = network.reconstruct(pixels, noise)
    painted, hidden = network(pixels, noise)
    assert torch.equal(filled[~where.expand_as(filled)], pixels[~where.expand_as(pixels)])
    expected = patchify(filled, 16)[hidden]
    if norm:
        own = patchify(pixels, 16)[hidden]
        expected = (expected - own.mean(-1, keepdim=True)) / own.std(-1, keepdim=True)
    assert_close(painted[hidden], expected, rtol=1e-5, atol=1e-5)


def test_it_learns_to_paint() -> None:
    """Grey slopes, each of its own level and direction: what is seen tells what is hidden."""
    torch.manual_seed(0)
    vision = ViTConfig(
        image_size=(16, 16), patch_size=4, width=32, depth=2, heads=2, mlp_width=64,
        positions="sincos",
    )  # fmt: skip
    network = models.build(ModelConfig(vision, masked=MaskedConfig(32, 1, 2, 64)))
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    place = torch.linspace(-1, 1, 16)
    losses = []
    for _ in range(150):
        level, right, down = torch.randn(3, 64, 1, 1, 1)
        pixels = (level + right * place + down * place[:, None]).expand(-1, 3, -1, -1)
        painted, hidden = network(pixels)
        loss = masked_pixels(painted, patchify(pixels, 4), hidden, False)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.6  # their variance is 1.8: nothing painted
    assert np.mean(losses[-10:]) < 0.2


def test_what_it_cannot_be_built_with() -> None:
    vision = ViTConfig(positions="rope")
    with pytest.raises(ConfigError, match="positions go with its tokens"):
        MaskedAutoencoder(ModelConfig(vision, masked=MaskedConfig()))
    with pytest.raises(ConfigError, match="needs a masked config"):
        MaskedAutoencoder(ModelConfig(ViTConfig()))


# The picture.


def test_reconstruction_of_a_photo(tiny: Bundle, tmp_path: Path) -> None:
    result = reconstruct(tiny, PHOTOS[0], seed=4)
    assert result.image.shape == (48, 48, 3)
    assert result.hidden.mean() == pytest.approx(7 / 9)  # of 9 patches 2 are seen
    assert (result.shown[result.hidden] == 127).all()
    for photo in (result.shown, result.painted):
        assert (photo[~result.hidden] == result.image[~result.hidden]).all()
    assert (result.painted[result.hidden] != result.image[result.hidden]).any()
    seen = tiny.open(PHOTOS[0], exact=True)[0].transpose(1, 2, 0)
    config = tiny.config.preprocess
    own = (seen * config.std + config.mean) / config.rescale
    assert np.abs(result.image - own).max() < 0.51
    again = reconstruct(tiny, PHOTOS[0], seed=4)
    assert (again.painted == result.painted).all()
    assert (reconstruct(tiny, PHOTOS[0], seed=5).hidden != result.hidden).any()
    result.save(tmp_path / "mae.png")
    with Image.open(tmp_path / "mae.png") as picture:
        assert picture.width > picture.height


def test_only_a_masked_autoencoder_paints() -> None:
    config = tiny_clip()
    clip = make(models.build(config), config, None, "tiny-clip")
    with pytest.raises(UnsupportedError, match="tiny-clip has no decoder that paints"):
        reconstruct(clip, PHOTOS[0])
