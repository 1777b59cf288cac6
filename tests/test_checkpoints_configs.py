"""The values in a checkpoint's config files are checked against its tensors; missing ones are noted
as assumed."""

import copy
import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision_cpu  # noqa: F401  # before transformers, which imports torchvision

# isort: split
import transformers
from references import SIZE, WEIGHTS, edit_json, fails, rewrite
from torch.testing import assert_close

from patchword import checkpoints
from patchword.errors import CheckpointError, ConfigError

pytestmark = pytest.mark.slow

pytest_plugins = ["original_checkpoints"]

# What the configuration says must be what the tensors say.


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("vision_config__num_hidden_layers", 3, "but the weights have 2 layers"),
        ("text_config__num_hidden_layers", 1, "but the weights have 2 layers"),
        ("vision_config__hidden_size", 64, "which makes it 48"),
        ("vision_config__intermediate_size", 64, "which makes it 100"),
        ("vision_config__num_attention_heads", 5, "does not divide the width 48"),
        ("text_config__num_attention_heads", 0, "does not divide the width 32"),
        ("text_config__vocab_size", 49409, "which makes it 49408"),
        ("text_config__max_position_embeddings", 64, "which makes it 77"),
        ("vision_config__patch_size", 16, "which makes it 8"),
        ("vision_config__image_size", 224, "at patches of 8 pixels"),
        ("vision_config__num_channels", 1, "which makes it 3"),
        ("projection_dim", 512, "which makes it 24"),
        ("text_config__eos_token_id", 60000, "only 49408 ids"),
        ("text_config__hidden_act", "silu", "which patchword does not compute"),
        ("vision_config__layer_norm_eps", "small", "not a number"),
        ("vision_config__num_hidden_layers", 2.0, "not a whole number"),
        ("vision_config", [1], "not an object"),
        ("model_type", None, 'only "clip"'),
    ],
)
def test_hugging_face_contradictions(hf: Path, key: str, value: object, message: str) -> None:
    edit_json(hf / "config.json", **{key: value})
    fails(hf, "is a Hugging Face CLIPModel, but config.json", key.split("__")[-1], message)


def test_what_hugging_face_leaves_out_is_assumed_and_listed(hf: Path) -> None:
    keys = ("num_attention_heads", "hidden_act", "layer_norm_eps", "image_size", "hidden_size")
    content = json.loads((hf / "config.json").read_text())
    for tower in ("vision_config", "text_config"):
        for key in keys:
            content[tower].pop(key, None)
    content.pop("projection_dim")
    (hf / "config.json").write_text(json.dumps(content))
    (hf / "preprocessor_config.json").unlink()
    model = checkpoints.load(hf)
    assert model.config.vision.heads == 12
    assert model.config.vision.image_size == (SIZE, SIZE)
    assumed = model.config.assumed
    assert assumed["vision.eps"] == "1e-05: not stated; transformers' CLIPVisionConfig default"
    assert set(assumed) == {
        "vision.heads", "vision.activation", "vision.eps", "text.heads", "text.activation",
        "text.eps", "preprocess.size", "preprocess.crop_size", "preprocess.interpolation",
        "preprocess.mean", "preprocess.std",
    }  # fmt: skip


def test_nothing_is_assumed_where_everything_is_stated(hf: Path) -> None:
    assert checkpoints.load(hf).config.assumed == {}


def test_old_hugging_face_files(hf: Path) -> None:
    """Before transformers 4.32: a second copy of each tower that counts, ids as tensors, and an
    end token of 2, which stood for the highest id."""
    content = json.loads((hf / "config.json").read_text())
    content["text_config_dict"] = {**content["text_config"], "eos_token_id": 2}
    content["text_config"]["hidden_size"] = 999
    content["vision_config_dict"] = None
    (hf / "config.json").write_text(json.dumps(content))
    ids = torch.arange(77)[None]
    rewrite(hf / WEIGHTS, lambda t: t.update({"text_model.embeddings.position_ids": ids}))
    model = checkpoints.load(hf)
    assert model.config.text is not None
    assert model.config.text.end_token == 49407
    assert "highest id" in model.config.assumed["text.end_token"]


@torch.no_grad()
@pytest.mark.parametrize("end", [2, 49407])
def test_words_of_a_textual_inversion(hf: Path, end: int) -> None:
    """Beside a vocab.json, as in folders of diffusion pipelines."""
    content = json.loads((hf / "tokenizer.json").read_text())["model"]
    (hf / "tokenizer.json").unlink()
    (hf / "vocab.json").write_text(json.dumps(content["vocab"]))
    (hf / "merges.txt").write_text("\n".join(" ".join(pair) for pair in content["merges"]))
    (hf / "added_tokens.json").write_text(json.dumps({"<cat-toy>": 49408}))
    name = "text_model.embeddings.token_embedding.weight"
    rewrite(hf / WEIGHTS, lambda t: t.update({name: torch.cat([t[name], t[name][:1] + 0.5])}))
    changes = {"text_config__vocab_size": 49409, "text_config__eos_token_id": end}
    edit_json(hf / "config.json", **changes)
    network = transformers.CLIPModel.from_pretrained(hf)
    texts = ["a photo of <cat-toy> on a mat", "a photo of a toy"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(hf)
    ids = tokenizer(texts, padding=True, return_tensors="pt").input_ids
    assert 49408 in ids[0]
    expected = network.get_text_features(ids).pooler_output
    actual = torch.from_numpy(checkpoints.load(hf).embed_texts(texts))
    assert_close(actual, torch.nn.functional.normalize(expected, dim=-1))


def test_a_temperature_beyond_100_is_kept(hf: Path) -> None:
    rewrite(hf / WEIGHTS, lambda t: t.update(logit_scale=torch.tensor(5.0)))
    assert_close(checkpoints.load(hf).scale, float(torch.tensor(5.0).exp()))


# Preprocessing.


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"size": SIZE, "crop_size": SIZE}, {}),
        ({"size": 40}, {"resize_to": 40}),
        ({"crop_size": [SIZE, SIZE]}, {}),
        ({"size": [SIZE, SIZE]}, {"resize": "squash"}),
        ({"size": {"height": SIZE, "width": SIZE}}, {"resize": "squash"}),
        (
            {"size": {"height": SIZE, "width": SIZE}, "do_center_crop": False},
            {"resize": "squash"},
        ),
        ({"resample": 2}, {"interpolation": "bilinear"}),
        ({"resample": 1}, {"interpolation": "lanczos"}),
        ({"do_normalize": False}, {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}),
        ({"do_rescale": False}, {"rescale": 1.0}),
        ({"rescale_factor": 0.5}, {"rescale": 0.5}),
        ({"image_mean": [0, 0.5, 1]}, {"mean": (0.0, 0.5, 1.0)}),
    ],
)
def test_hugging_face_preprocessing(
    hf: Path, changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    before = checkpoints.load(hf).config.preprocess
    edit_json(hf / "preprocessor_config.json", **changes)
    assert checkpoints.load(hf).config.preprocess == dataclasses.replace(before, **expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"do_resize": False}, "do_resize"),
        ({"do_center_crop": False}, "do_center_crop"),
        ({"resample": 5}, "resample is 5"),
        ({"size": {"longest_edge": 32}}, "size is"),
        ({"size": "big"}, "size is 'big'"),
        ({"size": [SIZE]}, "size is"),
        ({"crop_size": [24, 32]}, "but the network takes (32, 32)"),
        ({"crop_size": 224}, "but the network takes (32, 32)"),
        ({"size": {"height": 40, "width": 44}}, "squashed"),
        ({"image_std": [0.5]}, "not three numbers"),
    ],
)
def test_hugging_face_preprocessing_that_cannot_be(
    hf: Path, changes: dict[str, Any], message: str
) -> None:
    edit_json(hf / "preprocessor_config.json", **changes)
    fails(hf, "preprocessor_config.json", message)


def test_processor_config_of_transformers_5(hf: Path) -> None:
    before = checkpoints.load(hf).config
    content = json.loads((hf / "preprocessor_config.json").read_text())
    (hf / "preprocessor_config.json").unlink()
    (hf / "processor_config.json").write_text(json.dumps({"image_processor": content}))
    assert checkpoints.load(hf).config == before


@pytest.mark.parametrize("nested", [True, False])
def test_the_processor_that_transformers_reads_of_two(hf: Path, nested: bool) -> None:
    """A folder of transformers 4 that 5 saved a processor into; some have only its class there."""
    path = hf / "preprocessor_config.json"
    newer = json.loads(path.read_text()) | {"image_mean": [0.1, 0.2, 0.3]}
    content = {"image_processor": newer} if nested else {"processor_class": "CLIPProcessor"}
    (hf / "processor_config.json").write_text(json.dumps(content))
    mean = tuple(transformers.CLIPImageProcessorPil.from_pretrained(hf).image_mean)
    assert (mean == (0.1, 0.2, 0.3)) is nested
    assert checkpoints.load(hf).config.preprocess.mean == pytest.approx(mean)


# open_clip.


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("multimodal_cfg", {}),
        ("vision_cfg__timm_model_name", "vit_base_patch16_siglip_224"),
        ("vision_cfg__attentional_pool", True),
        ("vision_cfg__qk_norm", True),
        ("vision_cfg__brand_new", 3),
        ("vision_cfg__norm_kwargs", {"eps": 1e-6, "bias": False}),
        ("text_cfg__pool_type", "last"),
        ("text_cfg__embed_cls", True),
    ],
)
def test_open_clip_fields_that_patchword_does_not_compute(
    oc: Path, key: str, value: object
) -> None:
    edit_json(oc / "open_clip_config.json", **{f"model_cfg__{key}": value})
    named = "bias" if key.endswith("norm_kwargs") else key.split("__")[-1]
    fails(oc, "is an open_clip model, but open_clip_config.json", f"says {named} is")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model_cfg__embed_dim", 512, "which makes it 24"),
        ("model_cfg__vision_cfg__layers", 12, "but the weights have 2 layers"),
        ("model_cfg__vision_cfg__width", 768, "which makes it 48"),
        ("model_cfg__vision_cfg__patch_size", 16, "which makes it 8"),
        ("model_cfg__vision_cfg__image_size", [64, 32], "at patches of 8 pixels"),
        ("model_cfg__vision_cfg__head_width", 64, "does not divide the width 48"),
        ("model_cfg__vision_cfg__mlp_ratio", 3.0, "mlp_ratio is 3.0"),
        ("model_cfg__text_cfg__heads", 3, "does not divide the width 32"),
        ("model_cfg__text_cfg__context_length", 64, "which makes it 77"),
        ("preprocess_cfg__resize_mode", "widest", "resize_mode is 'widest'"),
        ("preprocess_cfg__fill_color", [1, 2, 3], "fill_color is [1, 2, 3], which is not a whole"),
        ("preprocess_cfg__interpolation", "random", "interpolation is 'random'"),
        ("preprocess_cfg__mean", 0.5, "not three numbers"),
    ],
)
def test_open_clip_contradictions(oc: Path, key: str, value: object, message: str) -> None:
    edit_json(oc / "open_clip_config.json", **{key: value})
    fails(oc, "is an open_clip model, but open_clip_config.json", message)


def test_open_clip_resnet_contradictions(rn: Path) -> None:
    edit_json(rn / "open_clip_config.json", model_cfg__vision_cfg__layers=[3, 4, 6, 3])
    fails(rn, "but the weights have [1, 2, 1, 1]")
    edit_json(rn / "open_clip_config.json", model_cfg__vision_cfg__width=64)
    fails(rn, "which makes it 8")


def test_open_clip_preprocessing(oc: Path) -> None:
    edit_json(
        oc / "open_clip_config.json",
        preprocess_cfg={"resize_mode": "squash", "interpolation": "bilinear", "mean": [0, 0, 0]},
    )
    config = checkpoints.load(oc).config
    assert (config.preprocess.resize, config.preprocess.interpolation) == ("squash", "bilinear")
    assert config.preprocess.mean == (0.0, 0.0, 0.0)
    assert "preprocess.std" in config.assumed
    assert "quick_gelu" in config.assumed


# timm.


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("architecture", "swin_tiny_patch4_window7_224", "which is none of"),
        ("architecture", None, "which is none of"),
        ("num_classes", 1000, "but the weights have 10"),
        ("model_args__depth", 12, "but the weights have 2 layers"),
        ("model_args__num_heads", 5, "does not divide the width 48"),
        ("model_args__img_size", 224, "at patches of 8 pixels"),
        ("model_args__global_pool", "avg", "but the weights have norm"),
        ("model_args__global_pool", "map", "which patchword does not compute"),
        ("model_args__act_layer", "relu", "which patchword does not compute"),
        ("model_args__reg_tokens", 4, "but the weights have no reg_token"),
        ("pretrained_cfg__crop_mode", "border", "crop_mode is 'border'"),
        ("pretrained_cfg__crop_pct", 1.5, "at most 1"),
        ("pretrained_cfg__interpolation", "hamming", "interpolation is 'hamming'"),
    ],
)
def test_timm_contradictions(vit: Path, key: str, value: object, message: str) -> None:
    edit_json(vit / "config.json", **{key: value})
    fails(vit, "is a timm Vision Transformer, but config.json", message)


def test_timm_preprocessing_and_labels(vit: Path) -> None:
    names = [f"n{i}" for i in range(10)]
    edit_json(
        vit / "config.json",
        label_names=names,
        label_descriptions={"n3": "a cat"},
        pretrained_cfg__crop_mode="squash",
        pretrained_cfg__crop_pct=1.0,
        pretrained_cfg__mean=None,
    )
    config = checkpoints.load(vit).config
    assert config.labels == ("n0", "n1", "n2", "a cat", *names[4:])
    assert config.preprocess.resize == "squash"
    assert config.preprocess.mean == (0.485, 0.456, 0.406)
    assert "preprocess.mean" in config.assumed


def test_old_timm_files_have_everything_at_the_top(vit: Path) -> None:
    before = checkpoints.load(vit).config
    content = json.loads((vit / "config.json").read_text())
    flat = {**content.pop("pretrained_cfg"), **content}
    (vit / "config.json").write_text(json.dumps(flat))
    assert checkpoints.load(vit).config == before


# Whatever a configuration says, the answer is a ModelConfig, or an error that names the place.

ODD = (None, 0, -1, 10**9, float("nan"), True, "x", [], {"x": 1})


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of keys to every value in a parsed JSON file."""
    if path:
        yield path
    if isinstance(value, (dict, list)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in pairs:
            yield from paths_in(part, (*path, key))


def altered(value: Any, path: tuple[Any, ...], new: object) -> Any:
    """A copy of parsed JSON with another value at one path."""
    out = copy.deepcopy(value)
    parent = out
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = new
    return out


@pytest.mark.parametrize(
    ("kind", "files"),
    [
        ("hf", ["config.json", "preprocessor_config.json"]),
        ("oc", ["open_clip_config.json"]),
        ("rn", ["open_clip_config.json"]),
        ("vit", ["config.json"]),
    ],
)
def test_odd_values_anywhere(kind: str, files: list[str], request: pytest.FixtureRequest) -> None:
    opened = checkpoints.locate(str(request.getfixturevalue(kind)))
    form = checkpoints.recognise(opened)
    errors = []
    for name in files:
        for path, odd in itertools.product(paths_in(opened.files[name]), ODD):
            content = {other: opened.files[other] for other in files}
            content[name] = altered(content[name], path, odd)
            try:
                form.config(opened.tensors, content)
            except (CheckpointError, ConfigError) as error:
                errors.append(str(error))
    assert len(errors) > 50
    places = (*files, "has no", "ViTConfig", "ResNetConfig", "TextConfig", "PreprocessConfig")
    places += ("ModelConfig",)
    assert not [error for error in errors if not any(place in error for place in places)]
