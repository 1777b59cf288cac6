"""Loading and saving: what fits loads, what does not is named."""

import copy
import dataclasses
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from references import SIZE, edit_json, hugging_face, open_clip_model, openai_archive, timm_vit
from shrunk import tiny_clip, tiny_clip_resnet
from torch import Tensor
from torch.testing import assert_close

from patchword import checkpoints, models
from patchword.bundle import Bundle, make
from patchword.checkpoints.read import Stored
from patchword.checkpoints.rules import Const, Drop, Fuse, Rename, Split, assemble, fit
from patchword.config import ModelConfig
from patchword.errors import CheckpointError, TokenizerError
from patchword.tokenizers import Tokenizer

VIT = {"image_size": SIZE, "layers": 2, "width": 48, "patch_size": 8, "head_width": 16}
RESNET = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8, "head_width": 16}
WEIGHTS = "model.safetensors"


def once(name: str, write: Callable[[Path], object]) -> Any:
    """A fixture: a fresh copy of a checkpoint that is written once a session."""

    @pytest.fixture(scope="session", name=f"{name}_original")
    def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
        path = tmp_path_factory.mktemp(name) / "model"
        write(path)
        return path

    @pytest.fixture(name=name)
    def copied(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        return Path(shutil.copytree(request.getfixturevalue(f"{name}_original"), tmp_path / name))

    return original, copied


hf_original, hf = once("hf", hugging_face)
oc_original, oc = once("oc", lambda path: open_clip_model(path, VIT))
rn_original, rn = once("rn", lambda path: open_clip_model(path, RESNET))
vit_original, vit = once("vit", timm_vit)


def tiny(config: ModelConfig, tokenizer: Tokenizer | None = None, seed: int = 0) -> Bundle:
    torch.manual_seed(seed)
    return make(models.build(config), config, tokenizer, "tiny")


def with_tokenizer(seed: int = 0) -> Bundle:
    tokenizer = Tokenizer.train(["a photo of a dog", "a photo of a cat"], 600, context=16)
    config = tiny_clip()
    assert config.text is not None
    text = dataclasses.replace(
        config.text, vocab_size=tokenizer.vocab_size, end_token=tokenizer.end_token
    )
    return tiny(dataclasses.replace(config, text=text), tokenizer, seed)


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change the tensors of a safetensors file."""
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file(tensors, path)


def fails(path: Path, *said: str) -> str:
    """Loading raises one CheckpointError that says all of these."""
    with pytest.raises(CheckpointError) as caught:
        checkpoints.load(path)
    message = str(caught.value)
    for part in said:
        assert part in message, message
    return message


# Our own format.


@pytest.mark.parametrize("config", [tiny_clip(), tiny_clip_resnet()], ids=["vit", "resnet"])
def test_saved_and_loaded_is_the_same(config: ModelConfig, tmp_path: Path) -> None:
    model = tiny(config)
    assert checkpoints.save(model, tmp_path / "a" / "b") == tmp_path / "a" / "b"
    again = checkpoints.load(tmp_path / "a" / "b")
    assert again.config == config
    assert again.fingerprint == model.fingerprint
    assert again.tokenizer is None
    assert not again.network.training
    for name, value in model.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value), name
    assert all(parameter.requires_grad for parameter in again.network.parameters())


def test_tokenizer_travels_along(tmp_path: Path) -> None:
    model = with_tokenizer()
    checkpoints.save(model, tmp_path / "m")
    again = checkpoints.load(str(tmp_path / "m"))
    assert again.fingerprint == model.fingerprint
    assert (again.embed_texts(["a dog"]) == model.embed_texts(["a dog"])).all()
    assert {path.name for path in (tmp_path / "m").iterdir()} == {
        "config.json",
        WEIGHTS,
        "tokenizer.json",
    }


def test_converted_model_saves_and_loads_as_ours(hf: Path, tmp_path: Path) -> None:
    theirs = checkpoints.load(hf)
    checkpoints.save(theirs, tmp_path / "ours")
    ours = checkpoints.load(tmp_path / "ours")
    assert ours.fingerprint == theirs.fingerprint
    assert ours.config == dataclasses.replace(theirs.config, source="patchword")


def test_saving_twice_replaces_the_model_and_nothing_else(tmp_path: Path) -> None:
    checkpoints.save(with_tokenizer(), tmp_path / "m")
    (tmp_path / "m" / "README.md").write_text("a model card")
    second = tiny(tiny_clip(), seed=1)
    checkpoints.save(second, tmp_path / "m")
    assert checkpoints.load(tmp_path / "m").fingerprint == second.fingerprint
    assert (tmp_path / "m" / "README.md").read_text() == "a model card"
    assert not (tmp_path / "m" / "tokenizer.json").exists()


@pytest.mark.parametrize("step", [0, 1, 2])
def test_interrupted_save_is_never_loaded_as_whole(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = with_tokenizer(0), with_tokenizer(1)
    checkpoints.save(old, tmp_path / "m")
    moves = []
    move = Path.replace

    def dies(self: Path, target: Path) -> Path:
        if len(moves) == step:
            raise KeyboardInterrupt
        moves.append(target)
        return move(self, target)

    monkeypatch.setattr(Path, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(new, tmp_path / "m")
    monkeypatch.undo()
    if step == 0:
        assert checkpoints.load(tmp_path / "m").fingerprint == old.fingerprint
    else:
        fails(tmp_path / "m", "two different saves")
    assert not list((tmp_path / "m").glob(".*"))
    checkpoints.save(new, tmp_path / "m")
    assert checkpoints.load(tmp_path / "m").fingerprint == new.fingerprint


def test_save_refuses_a_folder_of_something_else(hf: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"miaow")
    (tmp_path / "file").write_text("")
    before = (hf / "config.json").read_bytes()
    for folder in (tmp_path / "photos", tmp_path / "file", hf):
        with pytest.raises(CheckpointError, match="something other than a patchword model"):
            checkpoints.save(tiny(tiny_clip()), folder)
    assert (hf / "config.json").read_bytes() == before


def test_own_config_of_another_version_or_with_unknown_fields(tmp_path: Path) -> None:
    checkpoints.save(tiny(tiny_clip()), tmp_path / "m")
    edit_json(tmp_path / "m" / "config.json", model__vision__flux=1)
    fails(tmp_path / "m", "VisionConfig has no field flux")
    edit_json(tmp_path / "m" / "config.json", model__vision__flux=None, model__vision__heads=5)
    fails(tmp_path / "m", "width 32 does not divide into 5 heads")
    edit_json(tmp_path / "m" / "config.json", model__vision__heads=0)
    fails(tmp_path / "m", "is a patchword model, but")
    edit_json(tmp_path / "m" / "config.json", patchword=9)
    fails(tmp_path / "m", "version 9", "upgrade patchword")


def test_types_and_devices(hf: Path, tmp_path: Path) -> None:
    model = checkpoints.load(hf, dtype=torch.bfloat16, device=torch.device("cpu"))
    assert {p.dtype for p in model.network.parameters()} == {torch.bfloat16}
    rewrite(hf / WEIGHTS, lambda t: t.update({n: v.half() for n, v in t.items()}))
    model = checkpoints.load(hf)
    assert {p.dtype for p in model.network.parameters()} == {torch.float32}


def test_loaded_weights_do_not_depend_on_the_file(tmp_path: Path) -> None:
    model = tiny(tiny_clip())
    checkpoints.save(model, tmp_path / "m")
    loaded = checkpoints.load(tmp_path / "m")
    (tmp_path / "m" / WEIGHTS).write_bytes(b"")
    for name, value in model.network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], value), name


# Every tensor that does not fit is named.


def test_missing_and_renamed_tensors_are_named(hf: Path) -> None:
    theirs = "text_model.embeddings.position_embedding.weight"

    def rename(tensors: dict[str, Tensor]) -> None:
        tensors["text_model.embeddings.position_embeddings.weight"] = tensors.pop(theirs)

    rewrite(hf / WEIGHTS, rename)
    message = fails(hf, "is a Hugging Face CLIPModel, but 2 of its 78 tensors do not fit")
    assert message.splitlines()[1:] == [
        f"  missing   {theirs}  (77, 32)",
        "  extra     text_model.embeddings.position_embeddings.weight  (77, 32)  "
        "did you rename it?",
    ]


def test_extra_and_misshapen_tensors_are_named(hf: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["vision_model.encoder.layers.0.ls1.gamma"] = torch.ones(48)
        tensors["vision_model.encoder.layers.1.layer_norm1.bias"] = torch.ones(47)
        q = tensors["text_model.encoder.layers.1.self_attn.q_proj.weight"]
        tensors["text_model.encoder.layers.1.self_attn.q_proj.weight"] = q[:16].clone()

    rewrite(hf / WEIGHTS, change)
    fails(
        hf,
        "3 of its 79 tensors",
        "misshapen vision_model.encoder.layers.1.layer_norm1.bias  (47,), expected (48,)",
        "misshapen text_model.encoder.layers.1.self_attn.q_proj.weight  (16, 32), "
        "expected (32, 32)",
        "extra     vision_model.encoder.layers.0.ls1.gamma  (48,)",
    )


def test_a_long_list_is_cut_and_counted(hf: Path) -> None:
    rewrite(
        hf / WEIGHTS, lambda t: t.update({f"unknown.{i}": torch.ones(i + 1) for i in range(50)})
    )
    message = fails(hf, "50 of its 128 tensors", "... and 30 more")
    assert len(message.splitlines()) == 22


def test_quantised_weights_are_refused(hf: Path) -> None:
    name = "visual_projection.weight"
    rewrite(hf / WEIGHTS, lambda t: t.update({name: t[name].to(torch.int8)}))
    fails(hf, name, "int8", "floating point")


def test_rules_fuse_split_fill_and_drop() -> None:
    def stored(tensor: Tensor) -> Stored:
        return Stored(tuple(tensor.shape), lambda: tensor)

    a, b, c = torch.randn(2, 3), torch.randn(2, 3), torch.randn(4, 3)
    tensors = {"a": stored(a), "b": stored(b), "c": stored(c), "old": stored(a)}
    rules = [
        Fuse(("a", "b"), "ab"), Split("c", "c0", 0, 2), Split("c", "c1", 1, 2), Rename("b", "b"),
        Const("seven", 7), Drop("old", "unused"), Drop("absent", "unused"),
    ]  # fmt: skip
    shapes = {"ab": (4, 3), "c0": (2, 3), "c1": (2, 3), "b": (2, 3), "seven": (2,)}
    like = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    made = dict(assemble(fit(rules, tensors, shapes, "it"), tensors, like, dtype=torch.float64))
    assert all(value.dtype == torch.float64 for value in made.values())
    expected = {"ab": torch.cat([a, b]), "c0": c[:2], "c1": c[2:], "b": b, "seven": torch.tensor(7)}
    for name, value in expected.items():
        assert torch.equal(made[name], value.double().expand(shapes[name])), name
    with pytest.raises(ValueError, match="no rule makes"):
        fit([Rename("a", "a")], tensors, {"a": (2, 3), "z": (1,)}, "it")


# What the configuration says must be what the tensors say.


@pytest.mark.parametrize(
    ("key", "value", "said"),
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
        ("vision_config__layer_norm_eps", "small", "not of type float"),
        ("vision_config__num_hidden_layers", 2.0, "not of type int"),
        ("vision_config", [1], "not an object"),
        ("model_type", "siglip", 'only "clip"'),
    ],
)
def test_hugging_face_contradictions(hf: Path, key: str, value: object, said: str) -> None:
    edit_json(hf / "config.json", **{key: value})
    fails(hf, "is a Hugging Face CLIPModel, but config.json", key.split("__")[-1], said)


def test_what_hugging_face_leaves_out_is_assumed_and_listed(hf: Path) -> None:
    keys = ("num_attention_heads", "hidden_act", "layer_norm_eps", "image_size", "hidden_size")
    stated = json.loads((hf / "config.json").read_text())
    for tower in ("vision_config", "text_config"):
        for key in keys:
            stated[tower].pop(key, None)
    stated.pop("projection_dim")
    (hf / "config.json").write_text(json.dumps(stated))
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
    stated = json.loads((hf / "config.json").read_text())
    stated["text_config_dict"] = {**stated["text_config"], "eos_token_id": 2}
    stated["text_config"]["hidden_size"] = 999
    stated["vision_config_dict"] = None
    (hf / "config.json").write_text(json.dumps(stated))
    ids = torch.arange(77)[None]
    rewrite(hf / WEIGHTS, lambda t: t.update({"text_model.embeddings.position_ids": ids}))
    model = checkpoints.load(hf)
    assert model.config.text is not None
    assert model.config.text.end_token == 49407
    assert "highest id" in model.config.assumed["text.end_token"]


def test_a_temperature_beyond_100_is_kept(hf: Path) -> None:
    rewrite(hf / WEIGHTS, lambda t: t.update(logit_scale=torch.tensor(5.0)))
    assert_close(checkpoints.load(hf).scale, float(torch.tensor(5.0).exp()))


# Preprocessing.


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"size": SIZE, "crop_size": SIZE}, {}),
        ({"size": 40}, {"resize_to": 40}),
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
    ("changes", "said"),
    [
        ({"do_resize": False}, "do_resize"),
        ({"do_center_crop": False}, "do_center_crop"),
        ({"resample": 5}, "resample is 5"),
        ({"size": {"longest_edge": 32}}, "size is"),
        ({"size": "big"}, "size is 'big'"),
        ({"crop_size": 224}, "but the network takes (32, 32)"),
        ({"size": {"height": 40, "width": 40}}, "squashed"),
        ({"image_std": [0.5]}, "not three numbers"),
    ],
)
def test_hugging_face_preprocessing_that_cannot_be(
    hf: Path, changes: dict[str, Any], said: str
) -> None:
    edit_json(hf / "preprocessor_config.json", **changes)
    fails(hf, "preprocessor_config.json", said)


def test_processor_config_of_transformers_5(hf: Path) -> None:
    before = checkpoints.load(hf).config
    stated = json.loads((hf / "preprocessor_config.json").read_text())
    (hf / "preprocessor_config.json").unlink()
    (hf / "processor_config.json").write_text(json.dumps({"image_processor": stated}))
    assert checkpoints.load(hf).config == before


# open_clip.


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("custom_text", True),
        ("init_logit_bias", -10),
        ("multimodal_cfg", {}),
        ("vision_cfg__timm_model_name", "vit_base_patch16_siglip_224"),
        ("vision_cfg__attentional_pool", True),
        ("vision_cfg__no_ln_pre", True),
        ("vision_cfg__pos_embed_type", "sin_cos_2d"),
        ("vision_cfg__ls_init_value", 1e-5),
        ("vision_cfg__pool_type", "avg"),
        ("vision_cfg__qk_norm", True),
        ("vision_cfg__brand_new", 3),
        ("vision_cfg__norm_kwargs", {"eps": 1e-6, "bias": False}),
        ("text_cfg__no_causal_mask", True),
        ("text_cfg__hf_tokenizer_name", "timm/ViT-B-16-SigLIP"),
        ("text_cfg__pool_type", "last"),
        ("text_cfg__proj_bias", True),
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
    ("key", "value", "said"),
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
        ("preprocess_cfg__resize_mode", "longest", "resize_mode is 'longest'"),
        ("preprocess_cfg__interpolation", "random", "interpolation is 'random'"),
        ("preprocess_cfg__mean", 0.5, "not three numbers"),
    ],
)
def test_open_clip_contradictions(oc: Path, key: str, value: object, said: str) -> None:
    edit_json(oc / "open_clip_config.json", **{key: value})
    fails(oc, "is an open_clip model, but open_clip_config.json", said)


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
    ("key", "value", "said"),
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
        ("model_args__reg_tokens", 4, "which patchword does not support"),
        ("pretrained_cfg__crop_mode", "border", "crop_mode is 'border'"),
        ("pretrained_cfg__crop_mode", "squash", "crop_pct of 0.9"),
        ("pretrained_cfg__crop_pct", 1.5, "at most 1"),
        ("pretrained_cfg__interpolation", "hamming", "interpolation is 'hamming'"),
    ],
)
def test_timm_contradictions(vit: Path, key: str, value: object, said: str) -> None:
    edit_json(vit / "config.json", **{key: value})
    fails(vit, "is a timm Vision Transformer, but config.json", said)


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
    stated = json.loads((vit / "config.json").read_text())
    flat = {**stated.pop("pretrained_cfg"), **stated}
    (vit / "config.json").write_text(json.dumps(flat))
    assert checkpoints.load(vit).config == before


# Whatever a configuration says, the answer is a ModelConfig or a CheckpointError.

ODD = (None, 0, -1, 10**9, float("nan"), True, "x", [], {"x": 1})


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a parsed JSON file."""
    if path:
        yield path
    if isinstance(value, (dict, list)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in pairs:
            yield from places(part, (*path, key))


def altered(value: Any, path: tuple[Any, ...], to: object) -> Any:
    """A copy of parsed JSON with another value at one place."""
    out = copy.deepcopy(value)
    place = out
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
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
    refusals = []
    for name in files:
        for path, odd in itertools.product(places(opened.files[name]), ODD):
            stated = {other: opened.files[other] for other in files}
            stated[name] = altered(stated[name], path, odd)
            try:
                form.config(opened.tensors, stated)
            except CheckpointError as error:
                refusals.append(str(error))
    assert len(refusals) > 50
    unnamed = [said for said in refusals if not any(name in said for name in (*files, "has no"))]
    assert not unnamed


# Files of every kind.


def same(a: Bundle, b: Bundle) -> bool:
    return a.fingerprint == b.fingerprint and a.config == b.config


def test_kinds_of_files_give_the_same_model(hf: Path, tmp_path: Path) -> None:
    expected = checkpoints.load(hf)
    tensors = safetensors.torch.load_file(hf / WEIGHTS)
    assert same(checkpoints.load(hf / WEIGHTS), expected)
    (hf / WEIGHTS).unlink()
    wrapped = {"epoch": 3, "state_dict": {f"module.{name}": t for name, t in tensors.items()}}
    for kind, content, arguments in (
        ("zip", tensors, {}),
        ("before PyTorch 1.6", tensors, {"_use_new_zipfile_serialization": False}),
        ("from training", wrapped, {}),
    ):
        torch.save(content, hf / "pytorch_model.bin", **arguments)
        assert same(checkpoints.load(hf), expected), kind
    (hf / "pytorch_model.bin").rename(hf / "epoch_3.pt")
    assert same(checkpoints.load(hf), expected)


def test_sharded(tmp_path: Path) -> None:
    hugging_face(tmp_path / "one")
    hugging_face(tmp_path / "many", max_shard_size="1MB")
    shards = sorted((tmp_path / "many").glob("model-*.safetensors"))
    assert len(shards) > 1
    assert same(checkpoints.load(tmp_path / "many"), checkpoints.load(tmp_path / "one"))
    shards[0].unlink()
    fails(tmp_path / "many", shards[0].name, "not there")
    edit_json(tmp_path / "many" / "model.safetensors.index.json", weight_map={"a": "../x.bin"})
    fails(tmp_path / "many", "not an index of weight files beside it")


def test_plain_state_dict_of_openai(tmp_path: Path) -> None:
    reference = openai_archive(tmp_path / "archive.pt")
    assert reference.network is not None
    (tmp_path / "plain").mkdir()
    torch.save(reference.network.state_dict(), tmp_path / "plain" / "ViT.pt")
    archive, plain = checkpoints.load(tmp_path / "archive.pt"), checkpoints.load(tmp_path / "plain")
    assert same(archive, plain)
    assert archive.config.source == "openai"
    for name in ("vision.activation", "vision.heads", "text.eps", "preprocess"):
        assert name in archive.config.assumed
    with pytest.raises(TokenizerError, match=r"bpe_simple_vocab_16e6\.txt\.gz beside it"):
        archive.embed_texts(["a dog"])


def test_a_tokenizer_that_is_not_the_models(hf: Path, tmp_path: Path) -> None:
    other = Tokenizer.train(["a photo of a dog"], 600, context=77)
    (tmp_path / "other.json").write_text(other.to_json())
    with pytest.raises(TokenizerError, match="but the model looks for 49407"):
        checkpoints.load(hf, tokenizer=tmp_path / "other.json")
    with pytest.raises(TokenizerError, match="no tokenizer"):
        checkpoints.load(hf, tokenizer=tmp_path / "nothing")
    (hf / "tokenizer.json").unlink()
    assert checkpoints.load(hf).tokenizer is None


def test_files_that_hold_no_weights(tmp_path: Path, hf: Path) -> None:
    whole = (hf / WEIGHTS).read_bytes()
    (hf / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    fails(hf, WEIGHTS, "not a whole safetensors file", "download")
    (hf / WEIGHTS).write_bytes(b"")
    fails(hf, WEIGHTS, "is empty")
    (hf / WEIGHTS).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    fails(hf, WEIGHTS, "git lfs pull")
    safetensors.torch.save_file({}, hf / WEIGHTS)
    fails(hf, "holds no tensors")
    (hf / WEIGHTS).unlink()
    fails(hf, "has no weights", "looked for model.safetensors")
    torch.save([torch.ones(1)], hf / "pytorch_model.bin")
    fails(hf, "pytorch_model.bin is not a dict of tensors")
    (hf / "pytorch_model.bin").write_bytes(b"PK\x03\x04 and then nothing")
    fails(hf, "pytorch_model.bin")
    (hf / "pytorch_model.bin").rename(hf / "a.pt")
    (hf / "b.pt").write_bytes(b"x")
    fails(hf, "give the path of one: a.pt, b.pt")
    fails(hf / "config.json", "no file of weights")
    fails(tmp_path / "nowhere", "no such file or folder", '"demo"')


def test_unknown_families_are_told_what_is_known(hf: Path, tmp_path: Path) -> None:
    safetensors.torch.save_file({"encoder.weight": torch.ones(2)}, hf / WEIGHTS)
    edit_json(hf / "config.json", model_type="bert")
    fails(
        hf,
        "is no format that patchword reads",
        "Found tensors encoder.weight ... (1 in all)",
        "model_type 'bert'",
        "a Hugging Face CLIPModel",
        "an original OpenAI CLIP",
        "a timm Vision Transformer",
    )


def test_two_families_at_once_are_refused(hf: Path, tmp_path: Path) -> None:
    checkpoints.save(tiny(tiny_clip()), tmp_path / "ours")
    shutil.copy(tmp_path / "ours" / "config.json", hf / "config.json")
    fails(hf, "is a patchword model and a Hugging Face CLIPModel")


def test_broken_and_missing_configurations(hf: Path, vit: Path) -> None:
    (hf / "config.json").write_text("{")
    fails(hf, "config.json is not readable JSON")
    (hf / "config.json").unlink()
    fails(hf, "config.json, which states its heads and activation, is missing")
    (vit / "config.json").unlink()
    fails(vit, "config.json, which names its architecture, is missing")
