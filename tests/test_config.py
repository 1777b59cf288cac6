"""Configs: what they refuse, and how they are written and read."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from references import edit_json
from small_models import pixels, shrunk, tiny_clip, tiny_hybrid
from torch.testing import assert_close

from patchword import checkpoints, models
from patchword.bundle import make
from patchword.checkpoints.formats import own
from patchword.config import (
    BlipConfig,
    MaskedConfig,
    ModelConfig,
    PreprocessConfig,
    ResNetConfig,
    SwinConfig,
    TextConfig,
    ViTConfig,
    from_dict,
    to_dict,
)
from patchword.errors import CheckpointError, ConfigError, UnsupportedError
from patchword.variants import VARIANTS

NAN, HUGE = float("nan"), 2**63
BERT = TextConfig(
    vocab_size=50,
    context=8,
    width=32,
    depth=2,
    heads=2,
    mlp_width=64,
    causal=False,
    post_norm=True,
    pool="first",
    head_bias=True,
    cross_width=32,
)
DECODER = replace(BERT, causal=True, pool="end", head_bias=False, start_token=1)
SMALL = ViTConfig(image_size=(32, 32), patch_size=8, width=32, depth=2, heads=2, mlp_width=64)
CLIP_TEXT = TextConfig(vocab_size=50, context=8, width=32, depth=2, heads=2, mlp_width=64)
WRITER = BlipConfig(decoder=DECODER, writes_captions=True)

# A kind of config, its fields, and what the error says.
REFUSED: list[tuple[type, dict[str, Any], str]] = [
    (ViTConfig, {"class_token": False}, 'pool "cls" reads the class token'),
    (ViTConfig, {"class_token": False, "pool": "distilled"}, "reads the class token"),
    (ViTConfig, {"heads": 5}, "5 heads do not divide the width 768"),
    (ViTConfig, {"image_size": (8, 224)}, "images of 8x224 pixels hold no patch of 16"),
    (ViTConfig, {"positions": "rope", "width": 36, "heads": 6}, "a multiple of 4"),
    (ViTConfig, {"positions": "sincos", "width": 30, "heads": 2}, "a multiple of 4"),
    (ViTConfig, {"stem_stages": (2, 2), "patch_size": 8}, "a stem has both"),
    (ViTConfig, {"stem_width": 8}, "a stem has both"),
    (ViTConfig, {"stem_stages": (2,), "stem_width": 8, "patch_size": 8}, "makes it 4"),
    (
        ViTConfig,
        {"stem_stages": (2,), "stem_width": 8, "patch_size": 4, "image_size": (30, 32)},
        "stride by 4 do not divide images of 30x32",
    ),
    (ViTConfig, {"stem_stages": (1,) * 9, "stem_width": 8}, "a stem of 9 stages"),
    (SwinConfig, {"stages": ()}, "1 to 8 stages, not 0"),
    (SwinConfig, {"heads": 5}, "do not divide the width 96"),
    (SwinConfig, {"window": 0}, "window is 0"),
    (ResNetConfig, {"stages": ()}, "1 to 8 stages, not 0"),
    (ResNetConfig, {"heads": 7}, "7 heads do not divide the width 2048"),
    (ResNetConfig, {"width": 63, "heads": 1}, "even"),
    (ResNetConfig, {"image_size": (225, 224)}, "do not divide images of 225x224"),
    (TextConfig, {"pool": "first"}, "every text would be the same"),
    (TextConfig, {"padding": "attended"}, "without causal mask"),
    (TextConfig, {"pool": "last", "causal": False}, "reads the padding of a short text"),
    (TextConfig, {"end_token": -1}, "needs an end_token"),
    (TextConfig, {"vocab_size": 50, "end_token": 50}, "end_token is 50, and there are 50 ids"),
    (TextConfig, {"pad_token": -1}, "pad_token is -1"),
    (TextConfig, {"start_token": 49408}, "start_token is 49408"),
    (MaskedConfig, {"heads": 5}, "5 heads do not divide"),
    (MaskedConfig, {"width": 30, "heads": 2}, "a multiple of 4"),
    (PreprocessConfig, {"std": (0.5, 0.0, 0.5)}, "std is 0.0"),
    (PreprocessConfig, {"resize": "patches"}, "leaves nothing to see"),
    (PreprocessConfig, {"resize_to": 100_000}, "shows next to nothing"),
    (BlipConfig, {"decoder": DECODER}, "needs writes_captions or answers_questions"),
    (BlipConfig, {"writes_captions": True}, "need a decoder"),
    (BlipConfig, {"shared_decoder": True}, "need a decoder"),
    (BlipConfig, {"decoder": BERT, "writes_captions": True}, "must be causal"),
    (ModelConfig, {}, "neither an image tower"),
    (ModelConfig, {"vision": SMALL, "text": CLIP_TEXT}, "two towers need embed_dim"),
    (ModelConfig, {"text": CLIP_TEXT, "blip": BlipConfig()}, "a BLIP needs an image tower"),
    (ModelConfig, {"text": BERT, "embed_dim": 8}, "text.cross_width is of a BLIP"),
    (
        ModelConfig,
        {"vision": replace(SMALL, pool="map"), "text": CLIP_TEXT, "embed_dim": 16},
        "gives 32 numbers as they are, and embed_dim is 16",
    ),
    (ModelConfig, {"vision": ResNetConfig(), "classes": 3}, "needs embed_dim"),
    (ModelConfig, {"vision": SMALL, "classes": 3, "embed_dim": 3}, "of an image tower alone"),
    (ModelConfig, {"vision": SMALL, "classes": 3, "labels": ("a",)}, "1 labels and 3 classes"),
    (ModelConfig, {"vision": SMALL, "score": "sigmoid"}, "two towers"),
    (ModelConfig, {"vision": SMALL, "preprocess": PreprocessConfig((4, 32))}, "are of 8"),
    (
        ModelConfig,
        {
            "vision": SMALL,
            "preprocess": PreprocessConfig(resize="patches", max_patches=4, patch_size=16),
        },
        "preprocess.patch_size is 16, and vision.patch_size is 8",
    ),
    (ModelConfig, {"vision": SwinConfig(), "masked": MaskedConfig()}, "needs a ViT"),
    (
        ModelConfig,
        {"vision": replace(SMALL, positions="rope"), "masked": MaskedConfig()},
        "positions go with its tokens",
    ),
    (ModelConfig, {"vision": SMALL, "masked": MaskedConfig(), "embed_dim": 8}, "no embed_dim"),
    (ModelConfig, {"vision": SMALL, "masked": MaskedConfig(mask_ratio=1)}, "leaves none"),
    (
        ModelConfig,
        {"vision": replace(SMALL, image_size=(36, 32)), "masked": MaskedConfig()},
        "8 does not divide",
    ),
    (ModelConfig, {"vision": SMALL, "blip": BlipConfig()}, "a text or a decoder"),
    (ModelConfig, {"vision": replace(SMALL, pool="avg"), "blip": WRITER}, "a ViT with a class"),
    (ModelConfig, {"vision": SwinConfig(), "blip": WRITER}, "a ViT with a class token"),
    (ModelConfig, {"vision": SMALL, "blip": WRITER, "embed_dim": 8}, "shared with a text"),
    (
        ModelConfig,
        {"vision": SMALL, "text": CLIP_TEXT, "blip": BlipConfig(matching=True)},
        "need text.cross_width",
    ),
    (
        ModelConfig,
        {"vision": SMALL, "text": replace(BERT, cross_width=16), "blip": BlipConfig()},
        "text.cross_width is 16; what it reads is 32 wide",
    ),
    (
        ModelConfig,
        {"vision": SMALL, "text": replace(BERT, post_norm=False), "blip": BlipConfig()},
        "post_norm and not causal",
    ),
    (
        ModelConfig,
        {
            "vision": SMALL,
            "text": BERT,
            "blip": replace(WRITER, shared_decoder=True, decoder=replace(DECODER, depth=3)),
        },
        "a shared decoder and its text tower have the same depth",
    ),
]


@pytest.mark.parametrize(("kind", "fields", "said"), REFUSED, ids=[row[2] for row in REFUSED])
def test_contradictions_are_refused(kind: type, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        kind(**fields)
    message = str(caught.value)
    assert said in message
    assert kind.__name__ in message
    assert "\n" not in message


@pytest.mark.parametrize("odd", [-1, 0, HUGE, -HUGE, NAN, True, "12", None, 1e9, [], {}])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((ViTConfig, name) for name in ("patch_size", "width", "depth", "heads", "mlp_width")),
        *((SwinConfig, name) for name in ("patch_size", "width", "heads", "window", "stages")),
        *((ResNetConfig, name) for name in ("width", "heads", "image_size")),
        *((TextConfig, name) for name in ("vocab_size", "context", "width", "depth", "pool")),
        *((PreprocessConfig, name) for name in ("size", "resize_to", "resize", "mean", "std")),
        *((ModelConfig, name) for name in ("embed_dim", "score", "labels", "preprocess")),
    ],
)
def test_odd_values_are_refused_by_name(kind: type, name: str, odd: object) -> None:
    if (name, odd) in (("labels", []), ("preprocess", {}), ("embed_dim", 0)):
        return  # these are right
    with pytest.raises(ConfigError, match=rf"{name} is |stages, not 0"):
        from_dict(kind, {"vision": {}, name: odd} if kind is ModelConfig else {name: odd})


def test_values_become_of_the_annotated_type() -> None:
    made = PreprocessConfig(size=[32, 32], mean=[0, 0, 0], std=(1, 1, 1))  # type: ignore[arg-type]
    assert made == PreprocessConfig(size=(32, 32), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    assert hash(made) == hash(PreprocessConfig((32, 32), mean=(0.0,) * 3, std=(1.0,) * 3))
    for odd in (1, 0, None, "yes"):
        with pytest.raises(ConfigError, match=r"class_token is .*, which is not true or false"):
            ViTConfig(class_token=odd)  # type: ignore[arg-type]


def test_the_end_token_is_the_last_of_the_vocabulary_unless_stated() -> None:
    assert TextConfig().end_token == 49407
    assert TextConfig(vocab_size=700).end_token == 699
    assert TextConfig(vocab_size=700, end_token=3).end_token == 3


def test_what_a_tower_says_of_itself() -> None:
    swin, resnet = SwinConfig(), ResNetConfig()
    assert (swin.grid, swin.out_width) == ((56, 56), 768)
    assert (resnet.patch_size, resnet.grid, resnet.out_width) == (32, (7, 7), 2048)
    assert ViTConfig(image_size=(384, 380), patch_size=14).grid == (27, 27)
    assert ViTConfig(pool="distilled", registers=4).prefix == 6
    with pytest.raises(UnsupportedError, match="sees no images"):
        _ = ModelConfig(text=CLIP_TEXT).image_tower


@pytest.mark.parametrize("name", VARIANTS)
def test_every_config_goes_through_json(name: str) -> None:
    config = VARIANTS[name].config
    written = json.loads(json.dumps(to_dict(config)))
    assert from_dict(ModelConfig, written) == config
    assert config.vision is None or written["vision"]["kind"] == config.vision.kind


def test_kinds_of_towers_are_told_apart() -> None:
    made = from_dict(ModelConfig, {"vision": {"kind": "swin", "window": 8}})
    assert made.vision == SwinConfig(window=8)
    assert from_dict(ModelConfig, {"vision": {}}).vision == ViTConfig()  # where none is stated
    for kind in ("conv", [], None, {}, 3):
        with pytest.raises(ConfigError, match=r"vision.kind is .*one of 'vit', 'swin', 'resnet'"):
            from_dict(ModelConfig, {"vision": {"kind": kind}})
    with pytest.raises(ConfigError, match=r"SwinConfig has no field widow \(do you mean window\?"):
        from_dict(ModelConfig, {"vision": {"kind": "swin", "widow": 8}})
    with pytest.raises(ConfigError, match="vision is 3, which is not a table"):
        from_dict(ModelConfig, {"vision": 3})
    with pytest.raises(ConfigError, match=r"vision.width is 'x', which is not a whole number"):
        from_dict(ModelConfig, {"vision": {"width": "x"}})


# Written by version 1 of the format, before there was a config for each kind of tower.

WRITTEN = json.loads((Path(__file__).parent / "version_1.json").read_text())
SWIN, ASKS = (
    shrunk(VARIANTS["swin-tiny-7-224"].config),
    shrunk(VARIANTS["blip-base-vqa-480"].config),
)
OTHERS = {
    "hybrid": tiny_hybrid(),
    "swin of timm": replace(SWIN, vision=replace(SWIN.vision, padded="after_shift")),
    "blip that answers and captions": replace(
        ASKS, blip=replace(ASKS.blip, writes_captions=True, image_tokens="patches")
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_configs_of_version_1_are_read(name: str) -> None:
    expected = OTHERS[name] if name in OTHERS else shrunk(VARIANTS[name].config)
    stated = {"patchword": 1, "model": WRITTEN[name]}
    found = own.config({}, {"config.json": stated})
    if expected.vision is None:  # then the preprocessing says nothing
        found = replace(found, preprocess=expected.preprocess)
    assert found == expected


def test_a_model_of_version_1_loads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = OTHERS["hybrid"]
    model = make(models.build(config), config, None, "hybrid")
    checkpoints.save(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["patchword"] == 2
    edit_json(tmp_path / "config.json", patchword=1, model=WRITTEN["hybrid"])
    again = checkpoints.load(tmp_path)
    assert again.config == config
    assert again.fingerprint == model.fingerprint


@pytest.mark.parametrize("version", [0, 3, "1", None, True, [], 1e9])
def test_other_versions_are_refused(version: object, tmp_path: Path) -> None:
    checkpoints.save(make(models.build(tiny_clip()), tiny_clip(), None, "tiny"), tmp_path)
    edit_json(tmp_path / "config.json", patchword=version)
    if version is None:  # edit_json takes the mark away
        return
    with pytest.raises(CheckpointError, match="reads versions 1 to 2: upgrade patchword"):
        checkpoints.load(tmp_path)


# Positions in a BLIP


def test_texts_of_a_blip_read_rotary_positions() -> None:
    vision = replace(SMALL, positions="rope")
    config = ModelConfig(
        vision, PreprocessConfig((32, 32)), BERT, BlipConfig(matching=True), embed_dim=16
    )
    torch.manual_seed(0)
    network = models.build(config).eval()
    models.initialise(network)
    images = pixels(config)
    with torch.no_grad():
        tokens = network.image_tokens(images)
        assert_close(tokens, network.image.norm(network.image.encode(images)[0]), rtol=0, atol=0)
        features = network.image(images)
        assert_close(network.image.head(tokens[:, 0]), features)
        # Without positions the class token would be the same whatever the patches' order.
        mixed = images.unfold(2, 8, 8).unfold(3, 8, 8).flatten(2, 3)[:, :, torch.randperm(16)]
        mixed = mixed.unflatten(2, (4, 4)).permute(0, 1, 2, 4, 3, 5).reshape(images.shape)
        moved = (network.image_tokens(mixed)[:, 0] - tokens[:, 0]).abs().max()
    assert moved > 1e-3
