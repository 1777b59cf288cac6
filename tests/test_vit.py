"""ViT, DeiT and DeiT-III against timm and transformers, through the real converters."""

import json
from dataclasses import replace
from pathlib import Path

import torchvision_cpu  # noqa: F401  # before everything that imports torchvision

# isort: split
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import transformers
from photos import CAT, COFFEE, FLOWER, ROCKET
from PIL import Image
from reference_vit import MODELS, NAMES, PATCH, SIZE, hf_deit, hf_dinov2, hf_vit
from references import Reference, edit_json, fails, rewrite, timm_vit
from torch import Tensor, nn
from torch.testing import assert_close

from patchword import checkpoints, images, models
from patchword.bundle import Bundle
from patchword.checkpoints.apply_rules import match_rules
from patchword.checkpoints.config_reader import ConfigReader
from patchword.checkpoints.formats import timm as timm_format
from patchword.checkpoints.read import LazyTensor
from patchword.checkpoints.timm_architectures import ARCHITECTURES
from patchword.checkpoints.timm_names import vit_config
from patchword.config import ModelConfig
from patchword.errors import CheckpointWarning
from patchword.tasks.classify import classify
from patchword.variants import VARIANTS

pytestmark = pytest.mark.slow

PHOTOS = [
    CAT,
    FLOWER,
    ROCKET,
    COFFEE,
]
Pair = tuple[Reference, Bundle]


@pytest.fixture(params=MODELS, scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    reference = MODELS[request.param](tmp_path_factory.mktemp("vit") / "model")
    return reference, checkpoints.load(reference.path)


def noise(model: Bundle) -> Tensor:
    size = model.config.vision.image_size
    return torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(5))


def photos(reference: Reference) -> Tensor:
    """PHOTOS through the reference's own preprocessing."""
    opened = [Image.fromarray(images.open(path, exact=True)) for path in PHOTOS]
    return torch.stack([reference.pixels(photo) for photo in opened])


def logits(reference: Reference, pixels: Tensor) -> Tensor:
    out = reference.network(pixels)
    return getattr(out, "logits", out)


@torch.no_grad()
def test_features_and_logits(pair: Pair) -> None:
    reference, model = pair
    for pixels in (noise(model), photos(reference)):
        assert_close(model.network.encode_image(pixels), reference.image(pixels))
        if model.config.classes:
            assert_close(model.network(pixels), logits(reference, pixels))


@torch.no_grad()
def test_from_files_to_vectors_and_logits(pair: Pair) -> None:
    reference, model = pair
    theirs = photos(reference)
    ours = torch.from_numpy(np.stack([model.open(path, exact=True)[0] for path in PHOTOS]))
    assert_close(ours, theirs)
    vectors = F.normalize(reference.image(theirs), dim=-1)
    assert_close(torch.from_numpy(model.embed_images(PHOTOS, exact=True)), vectors)
    if model.config.classes:
        assert_close(model.network(ours), logits(reference, theirs))


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("timm", {"model_args__num_heads": 6}),
        ("timm", {"model_args__act_layer": "quick_gelu"}),
        ("timm deit distilled", {"model_args__num_heads": 3}),
        ("timm siglip", {"model_args__act_layer": "quick_gelu"}),
        ("timm siglip gap", {"model_args__num_heads": 8}),
        ("huggingface vit", {"hidden_act": "quick_gelu"}),
        ("huggingface vit", {"layer_norm_eps": 1e-2}),
        ("huggingface vit", {"num_attention_heads": 6}),
        ("huggingface deit", {"layer_norm_eps": 1e-2}),
        ("huggingface deit with teacher", {"num_attention_heads": 6}),
        ("huggingface dinov2", {"layer_norm_eps": 1e-2}),
        ("huggingface dinov2 registers", {"hidden_act": "quick_gelu"}),
    ],
)
def test_a_wrong_value_would_show(name: str, changes: dict[str, object], tmp_path: Path) -> None:
    reference = MODELS[name](tmp_path / "model")
    pixels = noise(checkpoints.load(reference.path))
    edit_json(reference.path / "config.json", **changes)
    wrong = checkpoints.load(reference.path)
    difference = wrong.network.encode_image(pixels) - reference.image(pixels)
    assert difference.abs().max() > 1e-3


# Hugging Face's files.


def test_labels_and_processors_are_read(tmp_path: Path) -> None:
    vit = checkpoints.load(hf_vit(tmp_path / "vit").path).config
    deit = checkpoints.load(hf_deit(tmp_path / "deit").path).config
    assert vit.labels == deit.labels == NAMES
    assert (vit.preprocess.resize, vit.preprocess.interpolation) == ("squash", "bilinear")
    assert (deit.preprocess.resize, deit.preprocess.interpolation) == ("square", "bicubic")
    assert (deit.preprocess.resize_to, deit.preprocess.size) == (SIZE + 5, (SIZE, SIZE))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["ViT", "DeiT"])
def test_old_processor_files_mean_squares(kind: str, tmp_path: Path) -> None:
    """The hub's first files give sizes as one number."""
    reference = (hf_vit if kind == "ViT" else hf_deit)(tmp_path / "model")
    stated = {"size": SIZE if kind == "ViT" else 40, "resample": 3}
    stated |= {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    if kind == "DeiT":
        stated |= {"crop_size": SIZE, "do_center_crop": True}
    path = reference.path / "preprocessor_config.json"
    path.write_text(json.dumps(stated))
    theirs = getattr(transformers, f"{kind}ImageProcessorPil").from_pretrained(reference.path)
    model = checkpoints.load(reference.path)
    for photo in PHOTOS:
        image = Image.fromarray(images.open(photo, exact=True))
        pixels = theirs(image, return_tensors="pt")["pixel_values"][0]
        assert_close(torch.from_numpy(model.open(photo, exact=True)[0]), pixels)


@pytest.mark.parametrize("key", ["image_processor_type", "feature_extractor_type"])
@pytest.mark.parametrize("kind", ["ViT", "DeiT", "CLIP", "Siglip", "Blip", "Bit"])
def test_the_image_processor_that_a_file_names(kind: str, key: str, tmp_path: Path) -> None:
    """What the file does not state is the default of that class, whatever the model."""
    reference = (hf_vit if kind == "DeiT" else hf_deit)(tmp_path / "model")
    name = kind + ("ImageProcessorFast" if key == "image_processor_type" else "FeatureExtractor")
    sizes = {"size": 40 if kind in ("CLIP", "Bit") else {"height": SIZE, "width": SIZE}}
    stated = {key: name, **sizes, "crop_size": {"height": SIZE, "width": SIZE}}
    (reference.path / "preprocessor_config.json").write_text(json.dumps(stated))
    theirs = transformers.AutoImageProcessor.from_pretrained(reference.path, backend="pil")
    model = checkpoints.load(reference.path)
    image = Image.fromarray(images.open(PHOTOS[0], exact=True))
    pixels = theirs(image, return_tensors="pt")["pixel_values"][0]
    assert_close(torch.from_numpy(model.open(PHOTOS[0], exact=True)[0]), pixels)


def test_an_image_processor_that_is_not_known_is_told(tmp_path: Path) -> None:
    """ConvNext's crops by `crop_pct`."""
    reference = hf_vit(tmp_path / "model")
    stated = {"feature_extractor_type": "ConvNextFeatureExtractor", "size": SIZE, "crop_pct": 0.8}
    (reference.path / "preprocessor_config.json").write_text(json.dumps(stated))
    with pytest.warns(CheckpointWarning, match="ConvNextFeatureExtractor, which patchword does"):
        checkpoints.load(reference.path)


@torch.no_grad()
@pytest.mark.parametrize("registers", [False, True])
def test_dinov2_looks_at_the_size_of_its_processor(registers: bool, tmp_path: Path) -> None:
    """Not at that of its positions; they are resampled as transformers does for each."""
    reference = hf_dinov2(tmp_path / "model", registers)
    config = checkpoints.load(reference.path).config
    assert config.preprocess.size == (SIZE, SIZE) != config.vision.image_size
    assert not config.assumed
    wide = checkpoints.load(reference.path, image_size=(2 * SIZE, 3 * SIZE))
    pixels = torch.rand(2, 3, 2 * SIZE, 3 * SIZE)
    theirs = reference.network(pixels).last_hidden_state
    assert_close(wide.network.image.hidden_states(pixels, -1, norm=True), theirs)


@torch.no_grad()
@pytest.mark.parametrize("registers", [False, True])
def test_a_classifier_of_dinov2_is_its_network_alone(registers: bool, tmp_path: Path) -> None:
    reference = hf_dinov2(tmp_path / "network", registers)
    name = f"Dinov2{'WithRegisters' * registers}ForImageClassification"
    for classes in (0, 5):
        reference.network.config.num_labels = classes
        whole = getattr(transformers, name)(reference.network.config)
        getattr(whole, whole.base_model_prefix).load_state_dict(reference.network.state_dict())
        whole.save_pretrained(tmp_path / str(classes))
    edit_json(tmp_path / "0" / "config.json", image_size=SIZE + 2 * PATCH)
    model = checkpoints.load(tmp_path / "0")
    pixels = noise(model)
    assert_close(model.network(pixels), reference.image(pixels))
    fails(tmp_path / "5", "reads the class token beside the mean", "save_pretrained(folder)")


@torch.no_grad()
@pytest.mark.parametrize("kind", ["ViT", "DeiT"])
def test_a_classifier_saved_without_its_head_is_its_tower(kind: str, tmp_path: Path) -> None:
    reference = (hf_vit if kind == "ViT" else hf_deit)(tmp_path / "whole")
    config = reference.network.config
    config.num_labels = 0
    bare = getattr(transformers, f"{kind}ForImageClassification")(config)
    whole = reference.network.state_dict()
    bare.load_state_dict({name: whole[name] for name in bare.state_dict()})
    bare.save_pretrained(tmp_path / "bare")
    model = checkpoints.load(tmp_path / "bare")
    assert not model.config.classes
    pixels = noise(model)
    assert_close(model.network(pixels), reference.image(pixels))


@torch.no_grad()
@pytest.mark.parametrize("stated", ["multi_label_classification", "one class"])
def test_classes_that_exclude_no_others_as_the_pipeline(stated: str, tmp_path: Path) -> None:
    classes = 1 if stated == "one class" else 5
    options = {} if classes == 1 else {"problem_type": stated}
    reference = hf_vit(tmp_path / "model", classes, **options)
    processor = transformers.ViTImageProcessorPil.from_pretrained(reference.path)
    photo = Image.fromarray(images.open(CAT, exact=True))
    pipeline = transformers.pipeline(
        "image-classification", reference.network, image_processor=processor
    )
    expected = {each["label"]: each["score"] for each in pipeline(photo)}
    (scores,) = classify(checkpoints.load(reference.path), [photo])
    assert sum(expected.values()) != pytest.approx(1)
    assert {each.label: each.probability for each in scores} == pytest.approx(expected, abs=1e-5)


def test_a_regression_has_no_classes(tmp_path: Path) -> None:
    reference = hf_vit(tmp_path / "model", problem_type="regression")
    fails(reference.path, "config.json", "problem_type is 'regression'")


def test_without_a_processor_its_defaults_are_noted(tmp_path: Path) -> None:
    reference = hf_vit(tmp_path / "model")
    (reference.path / "preprocessor_config.json").unlink()
    config = checkpoints.load(reference.path).config
    assert config.preprocess.resize == "squash"
    assert config.preprocess.mean == (0.5, 0.5, 0.5)
    assert "ViTImageProcessor" in config.assumed["preprocess.interpolation"]


@torch.no_grad()
def test_what_matters_in_training_alone_as_timm(tmp_path: Path) -> None:
    parts = ("drop", "drop_path", "pos_drop", "patch_drop", "proj_drop", "attn_drop")
    stated = {f"{part}_rate": 0.5 for part in parts}
    reference = timm_vit(tmp_path / "model", **stated)
    edit_json(reference.path / "config.json", model_args=stated)
    model = checkpoints.load(reference.path)
    pixels = noise(model)
    assert_close(model.network(pixels), reference.network(pixels))


@torch.no_grad()
@pytest.mark.parametrize("crop", [1.0, 0.875])
def test_timm_squash_as_timm(crop: float, tmp_path: Path) -> None:
    reference = timm_vit(tmp_path / "model")
    edit_json(
        reference.path / "config.json",
        pretrained_cfg__crop_mode="squash",
        pretrained_cfg__crop_pct=crop,
    )
    transform = timm.data.create_transform(
        (3, SIZE, SIZE), crop_mode="squash", crop_pct=crop, interpolation="bicubic",
        mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
    )  # fmt: skip
    model = checkpoints.load(reference.path)
    for photo in PHOTOS:
        image = Image.fromarray(images.open(photo, exact=True))
        assert_close(torch.from_numpy(model.open(photo, exact=True)[0]), transform(image))


# Bad input.


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("model_type", "beit", "is no format that patchword reads"),
        ("hidden_size", 64, "which makes it 48"),
        ("num_hidden_layers", 3, "but the weights have 2 layers"),
        ("num_attention_heads", 5, "does not divide the width 48"),
        ("intermediate_size", 96, "which makes it 80"),
        ("patch_size", 16, "which makes it 8"),
        ("image_size", 64, "at patches of 8 pixels"),
        ("num_channels", 1, "which makes it 3"),
        ("qkv_bias", False, "qkv_bias is False, but the weights have a"),
        ("hidden_act", "relu", "which patchword does not compute"),
        ("layer_norm_eps", "small", "not a number"),
    ],
)
@pytest.mark.parametrize("write", [hf_vit, hf_deit])
def test_hugging_face_contradictions(
    write: object, key: str, value: object, said: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "model").path  # type: ignore[operator]
    edit_json(path / "config.json", **{key: value})
    fails(path, said)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("mlp_ratio", 3, "but the weights are of 4"),
        ("mlp_ratio", float("nan"), "but the weights are of 4"),
        ("qkv_bias", False, "qkv_bias is False, but the weights have a"),
        ("num_register_tokens", 2, "which makes it 3"),
        ("use_swiglu_ffn", True, "as DINOv2's giant has it"),
        ("model_type", "dinov2", "extra     embeddings.register_tokens"),
    ],
)
def test_contradictions_of_dinov2(key: str, value: object, said: str, tmp_path: Path) -> None:
    path = MODELS["huggingface dinov2 registers"](tmp_path / "model").path
    edit_json(path / "config.json", **{key: value})
    fails(path, said)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("huggingface vit", "vit.encoder.layer.1.attention.attention.query.bias"),
        ("huggingface vit headless", "layernorm.weight"),
        ("huggingface deit", "deit.embeddings.distillation_token"),
        ("huggingface deit with teacher", "distillation_classifier.bias"),
        ("huggingface dinov2", "encoder.layer.1.layer_scale2.lambda1"),
        ("huggingface dinov2 registers", "embeddings.position_embeddings"),
        ("timm siglip", "attn_pool.kv.weight"),
        ("timm deit3", "blocks.1.ls2.gamma"),
        ("timm deit distilled", "dist_token"),
        ("timm dinov2 registers", "reg_token"),
        ("timm", "blocks.1.attn.qkv.bias"),
    ],
)
def test_a_renamed_tensor_is_named(name: str, theirs: str, tmp_path: Path) -> None:
    path = MODELS[name](tmp_path / "model").path
    rewrite(path / "model.safetensors", lambda t: t.update({f"{theirs}_": t.pop(theirs)}))
    fails(path, f"missing   {theirs}", f"extra     {theirs}_", "did you rename it?")


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("timm", {"architecture": "vit_giant_patch14_dinov2"}, "which is none of"),
        ("timm", {"model_args__init_values": 0.1}, "init_values is 0.1, but the weights have no"),
        ("timm", {"model_args__qk_norm": True}, "qk_norm is True, but the weights have no"),
        ("timm", {"model_args__reg_tokens": 4}, "reg_tokens is 4, but the weights have no"),
        ("timm", {"model_args__class_token": False}, "but the weights have cls_token"),
        ("timm", {"model_args__pre_norm": True}, "pre_norm is True, but the weights have no"),
        ("timm", {"model_args__qkv_bias": False}, "qkv_bias is False, but the weights have"),
        ("timm without biases", {"architecture": "vit_tiny_patch16_224"}, "have no blocks.0.attn"),
        ("timm", {"model_args__no_embed_class": True}, "but pos_embed is (1, 17"),
        ("timm", {"model_args__fc_norm": True}, "which patchword computes for an average alone"),
        ("timm", {"model_args__scale_attn_norm": True}, "scale_attn_norm is True, which patchword"),
        ("timm", {"model_args__final_norm": False}, "final_norm is False, which patchword"),
        ("timm", {"model_args__pos_embed": "none"}, "pos_embed is 'none', which patchword"),
        ("timm", {"model_args__norm_layer": "rmsnorm"}, "norm_layer is 'rmsnorm', which"),
        ("timm", {"model_args__mlp_layer": "SwiGLU"}, "mlp_layer is 'SwiGLU', which patchword"),
        ("timm average", {"model_args__pool_include_prefix": True}, "pool_include_prefix is True"),
        ("timm average", {"model_args__global_pool": "avgmax"}, "global_pool is 'avgmax', which"),
        ("timm deit distilled", {"model_args__global_pool": "avg"}, "its two heads read"),
    ],
)
def test_timm_contradictions(
    name: str, changes: dict[str, object], said: str, tmp_path: Path
) -> None:
    path = MODELS[name](tmp_path / "model").path
    edit_json(path / "config.json", **changes)
    fails(path, "is a timm Vision Transformer", said)


# What patchword states itself, against timm's code.

# Architectures of timm's two modules that are left out, and what patchword does not compute.
LEFT_OUT = {
    "aimv2_": "RMSNorm, SwiGLU",
    "beit3_": "norms inside attention and MLP",
    "test_vit4": "RMSNorm",
    "_xp_": "attention and MLP side by side, RMSNorm",
    "_18x2_": "pairs of blocks side by side",
    "_rpn_": "norms after attention and MLP with residual",
    "_radio_": "no norm at the end",
    "_intern300m_": "no norm at the end",
    "vit_giant_patch14_dinov2": "SwiGLU",
    "vit_giant_patch14_reg4_dinov2": "SwiGLU",
    "vit_giant_patch14_reg1_tipsv2": "SwiGLU",
    "_dlittle_": "differential attention",
    "_dpwee_": "differential attention",
    "_dwee_": "differential attention",
    "_pwee_": "attention and MLP side by side",
    "_reg4_map_": "a map pool that sees patches alone",
}
MODULES = ("vision_transformer", "deit")


def test_every_architecture_of_timm_is_known_or_left_out_for_a_reason() -> None:
    theirs = {name for module in MODULES for name in timm.list_models(module=module)}
    out = {name for name in theirs if any(part in name for part in LEFT_OUT)}
    assert theirs - out == set(ARCHITECTURES)
    assert all(any(part in name for name in out) for part in LEFT_OUT)


def on_meta(network: nn.Module) -> dict[str, LazyTensor]:
    """Its tensors as a file would have them."""
    state = network.state_dict()
    return {name: LazyTensor(tuple(value.shape), value.clone) for name, value in state.items()}


def act(x: Tensor, name: str) -> Tensor:
    if name == "quick_gelu":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate="tanh" if name == "gelu_tanh" else "none")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_timm_architectures(name: str) -> None:
    """Every name's network as timm builds it: all tensors fit, and what no tensor shows is so."""
    known = ARCHITECTURES[name]
    with torch.device("meta"):
        theirs = timm.create_model(name, depth=1, weight_init="skip", num_classes=9)
    tensors = on_meta(theirs)
    size = theirs.patch_embed.img_size
    vision = vit_config(known, ConfigReader("config.json", {}), tensors, size)
    config = ModelConfig(vision, classes=9)
    network = models.outline(config)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert match_rules(timm_format.rules(config), tensors, shapes, name)

    block = theirs.blocks[0]
    pool = getattr(theirs, "attn_pool", None)
    assert block.attn.num_heads == vision.heads
    assert pool is None or pool.num_heads == vision.heads
    norms = [m for m in theirs.modules() if isinstance(m, nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {vision.eps}
    x = torch.linspace(-4, 4, 9)
    for mlp in [block.mlp, *([pool.mlp] if pool else [])]:
        assert_close(mlp.act(x), act(x, vision.activation))
    assert theirs.num_prefix_tokens == vision.prefix
    assert theirs.no_embed_class == known.no_embed_class
    assert theirs.global_pool == known.global_pool
    assert theirs.pool_include_prefix == known.pool_include_prefix
    assert vision.grid == theirs.patch_embed.grid_size


def network_of(name: str) -> str:
    """timm's name of a variant."""
    family, *words, patch = name.split("-")
    return "_".join([family, *words, f"patch{patch}", "224"])


@pytest.mark.parametrize("name", [n for n in VARIANTS if n.startswith(("vit-", "deit"))])
def test_variants_are_timms(name: str) -> None:
    """All parameters of the variant, one layer deep, and its depth and heads."""
    config = VARIANTS[name].config
    with torch.device("meta"):
        theirs = timm.create_model(network_of(name), depth=1, num_classes=1000)
        depth = len(timm.create_model(network_of(name), weight_init="skip").blocks)
    assert depth == config.vision.depth
    assert theirs.blocks[0].attn.num_heads == config.vision.heads
    assert theirs.blocks[0].norm1.eps == config.vision.eps
    vision = replace(config.vision, depth=1)
    assert vision == vit_config(
        ARCHITECTURES[network_of(name)], ConfigReader("", {}), on_meta(theirs), (224, 224)
    )
    config = replace(config, vision=vision)
    network = models.outline(config)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert match_rules(timm_format.rules(config), on_meta(theirs), shapes, name)
