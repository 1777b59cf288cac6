"""Swin against transformers and timm, through the real converters, at odd sizes too."""

from pathlib import Path

import torchvision_cpu  # noqa: F401  # before everything that imports torchvision

# isort: split
import numpy as np
import pytest
import timm
import torch
import transformers
from photos import CAT
from PIL import Image
from reference_swin import MODELS, SIZE, hf_swin, timm_swin
from references import Reference, edit_json, fails, rewrite
from torch import Tensor
from torch.testing import assert_close

from patchword import checkpoints, images
from patchword.bundle import Bundle
from patchword.config import ModelConfig, PreprocessConfig, SwinConfig
from patchword.errors import ConfigError, UnsupportedError
from patchword.fingerprint import fingerprint
from patchword.show.config_summary import vision_summary
from patchword.tasks.attention import attention
from patchword.variants import VARIANTS

pytestmark = pytest.mark.slow

PHOTO = CAT
Pair = tuple[Reference, Bundle]
BEFORE = (
    "2-c117b0598185b728"  # a fingerprint that was made before configs could state heads by stage
)


@pytest.fixture(params=MODELS, scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    reference = MODELS[request.param](tmp_path_factory.mktemp("swin") / "model")
    return reference, checkpoints.load(reference.path)


def noise(height: int, width: int) -> Tensor:
    return torch.randn(3, 3, height, width, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def test_features_and_logits(pair: Pair) -> None:
    reference, model = pair
    pixels = noise(*model.config.vision.image_size)
    assert_close(model.network.encode_image(pixels), reference.image(pixels))
    if model.config.classes:
        logits = reference.network(pixels)
        assert_close(model.network(pixels), getattr(logits, "logits", logits))


@torch.no_grad()
def test_from_a_photo_to_features(pair: Pair) -> None:
    reference, model = pair
    photo = images.open(PHOTO, exact=True)
    theirs = reference.image(reference.pixels(Image.fromarray(photo))[None])[0]
    ours = model.embed_images([photo], exact=True)[0]
    assert_close(torch.from_numpy(ours), theirs / theirs.norm())


@torch.no_grad()
@pytest.mark.parametrize("size", [(54, 70), (61, 37)])
def test_a_size_that_nothing_divides_as_transformers(size: tuple[int, int], tmp_path: Path) -> None:
    reference = hf_swin(tmp_path / "model")
    model = checkpoints.load(reference.path)
    pixels = noise(*size)
    assert_close(model.network.encode_image(pixels), reference.image(pixels))


@torch.no_grad()
@pytest.mark.parametrize("size", [(54, 70), (62, 38)])
def test_a_size_that_nothing_divides_as_timm(size: tuple[int, int], tmp_path: Path) -> None:
    model = checkpoints.load(timm_swin(tmp_path / "model").path)
    same = timm_swin(tmp_path / "again", strict_img_size=False).network
    assert same is not None
    pixels = noise(*size)
    assert_close(model.network(pixels), same(pixels))


@torch.no_grad()
def test_a_classifier_saved_without_its_head_is_its_tower(tmp_path: Path) -> None:
    """Nor need its image processor be there: images are then as large as its own."""
    reference = hf_swin(tmp_path / "whole")
    config = reference.network.config
    config.num_labels = 0
    bare = transformers.SwinForImageClassification(config)
    whole = reference.network.state_dict()
    bare.load_state_dict({name: whole[name] for name in bare.state_dict()})
    bare.save_pretrained(tmp_path / "bare")
    model = checkpoints.load(tmp_path / "bare")
    assert model.config.preprocess.size == (SIZE, SIZE)
    pixels = torch.randn(2, 3, SIZE, SIZE)
    assert_close(model.network(pixels), reference.image(pixels))


@torch.no_grad()
@pytest.mark.parametrize("heads", [(1, 2, 2), (2, 2, 16), (8, 4, 2)])
def test_heads_that_do_not_double(heads: tuple[int, int, int], tmp_path: Path) -> None:
    pixels = noise(SIZE, SIZE)
    theirs = hf_swin(tmp_path / "hf", heads=heads)
    first = checkpoints.load(theirs.path)
    assert first.config.vision.stage_heads == heads
    assert_close(first.network.encode_image(pixels), theirs.image(pixels))
    ours = timm_swin(tmp_path / "timm", num_heads=heads)
    second = checkpoints.load(ours.path)
    assert second.config.vision.heads_by_stage == heads
    assert_close(second.network.encode_image(pixels), ours.image(pixels))
    assert f"{heads[0]}, {heads[1]}, {heads[2]} heads by stage" in vision_summary(
        first.config.vision, (SIZE, SIZE)
    )
    checkpoints.save(first, tmp_path / "saved")
    again = checkpoints.load(tmp_path / "saved")
    assert again.fingerprint == first.fingerprint
    assert_close(again.network.encode_image(pixels), theirs.image(pixels))


@torch.no_grad()
def test_one_number_of_heads_for_every_stage_of_timm(tmp_path: Path) -> None:
    reference = timm_swin(tmp_path / "model", num_heads=(2, 2, 2))
    edit_json(reference.path / "config.json", model_args__num_heads=2)
    pixels = noise(SIZE, SIZE)
    model = checkpoints.load(reference.path)
    assert_close(model.network.encode_image(pixels), reference.image(pixels))


@torch.no_grad()
def test_what_matters_in_training_alone_and_the_width_of_the_mlps(tmp_path: Path) -> None:
    stated = {"mlp_ratio": 2.0, "drop_rate": 0.1, "proj_drop_rate": 0.1, "attn_drop_rate": 0.1}
    reference = timm_swin(tmp_path / "model", **stated)
    edit_json(reference.path / "config.json", model_args=stated)
    model = checkpoints.load(reference.path)
    pixels = torch.randn(2, 3, SIZE, SIZE)
    assert_close(model.network(pixels), reference.network(pixels))


def test_heads_that_double_are_not_stated() -> None:
    """So the fingerprints of before this field stay."""
    assert SwinConfig(stage_heads=(3, 6, 12, 24)) == SwinConfig()
    config = ModelConfig(
        vision=SwinConfig(image_size=(32, 32), stages=(1, 1), window=4),
        preprocess=PreprocessConfig(size=(32, 32)),
        classes=2,
    )
    network = checkpoints.models.build(config)
    for value in network.state_dict().values():
        value.fill_(0.5)
    assert fingerprint(network, config, None) == BEFORE
    for wrong in ((4, 8, 16, 32), (3, 6, 12), (3, 5, 12, 24)):
        with pytest.raises(ConfigError):
            SwinConfig(stage_heads=wrong)


@torch.no_grad()
def test_shifting_before_padding_would_show(tmp_path: Path) -> None:
    """The two libraries differ where windows do not fit; each is followed."""
    theirs, ours = hf_swin(tmp_path / "hf"), timm_swin(tmp_path / "timm")
    first, second = checkpoints.load(theirs.path), checkpoints.load(ours.path)
    second.network.load_state_dict(first.network.state_dict())
    pixels = noise(SIZE, SIZE)
    difference = first.network(pixels) - second.network(pixels)
    assert difference.abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("change", [{"hidden_act": "gelu_new"}, {"layer_norm_eps": 1e-2}])
def test_a_wrong_value_would_show(change: dict[str, object], tmp_path: Path) -> None:
    reference = hf_swin(tmp_path / "model")
    edit_json(reference.path / "config.json", **change)
    wrong = checkpoints.load(reference.path)
    pixels = noise(SIZE, SIZE)
    assert (wrong.network.encode_image(pixels) - reference.image(pixels)).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"depths": [2, 2, 6]}, ("depths is [2, 2, 6]", "[2, 2, 2]")),
        ({"num_heads": [4, 8, 16]}, ("num_heads", "[2, 4, 8]")),
        ({"window_size": 7}, ("window_size is 7", "4")),
        ({"use_absolute_embeddings": True}, ("use_absolute_embeddings is True",)),
    ],
)
def test_a_config_that_contradicts_the_weights(
    change: dict[str, object], said: tuple[str, ...], tmp_path: Path
) -> None:
    reference = hf_swin(tmp_path / "model")
    edit_json(reference.path / "config.json", **change)
    fails(reference.path, *said)


def test_a_renamed_tensor_is_named(tmp_path: Path) -> None:
    reference = timm_swin(tmp_path / "model")
    name = "layers.1.downsample.reduction.weight"
    rewrite(reference.path / "model.safetensors", lambda t: t.update({f"{name}2": t.pop(name)}))
    fails(reference.path, f"missing   {name}", "did you rename it?")


@torch.no_grad()
def test_maps_of_every_window(tmp_path: Path) -> None:
    model = checkpoints.load(hf_swin(tmp_path / "model").path)
    name = "image.layers.0.blocks.1.attn"
    features, taps = model.network.encode_image(noise(SIZE, SIZE), taps=[name])
    assert_close(features, model.network.encode_image(noise(SIZE, SIZE)))
    assert taps[name].shape == (3 * 49, 2, 16, 16)
    assert_close(taps[name].sum(-1), torch.ones(3 * 49, 2, 16))
    with pytest.raises(UnsupportedError, match="windows"):
        attention(model, np.zeros((9, 9, 3), np.uint8))


@pytest.mark.parametrize("name", [name for name in VARIANTS if name.startswith("swin-")])
def test_variants_are_transformers(name: str) -> None:
    config = VARIANTS[name].config
    vision = config.vision
    stated = transformers.SwinConfig(
        image_size=vision.image_size[0],
        embed_dim=vision.width,
        depths=vision.stages,
        num_heads=[vision.heads << i for i in range(4)],
        window_size=vision.window,
    )
    with torch.device("meta"):
        theirs = transformers.SwinModel(stated)
        _, size, window, pixels = name.split("-")
        known = timm.create_model(f"swin_{size}_patch4_window{window}_{pixels}", num_classes=0)
        ours = checkpoints.models.build(config)
    count = sum(p.numel() for p in ours.image.parameters()) - 1000 * (vision.width * 8 + 1)
    for network in (theirs, known):
        assert sum(p.numel() for p in network.parameters()) == count
    assert [stage.blocks[0].attn.num_heads for stage in known.layers] == stated.num_heads
