"""Hugging Face's CLIPModel: config.json, safetensors or .bin, preprocessor_config.json.

Defaults are those of transformers' CLIPTextConfig, CLIPVisionConfig and CLIPImageProcessor.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal

from patchword.checkpoints.read import Stored
from patchword.checkpoints.rules import Drop, Fuse, Rename, Rule, Unsqueeze
from patchword.checkpoints.stated import Stated, highest_id, scale_limit
from patchword.config import ModelConfig, PreprocessConfig, TextConfig, VisionConfig
from patchword.errors import CheckpointError

TITLE = "a Hugging Face CLIPModel"
EXPECTS = "config.json with model_type 'clip', tensors text_model.* and vision_model.*"

VISION, TEXT = "vision_model", "text_model"
TEXT_DEFAULT = "transformers' CLIPTextConfig default"
VISION_DEFAULT = "transformers' CLIPVisionConfig default"
IMAGE_DEFAULT = "transformers' CLIPImageProcessor default"
MEAN, STD = PreprocessConfig().mean, PreprocessConfig().std

ACTIVATIONS = {  # transformers.activations.ACT2FN
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # PIL.Image.Resampling
# Before transformers 4.32 every configuration said 2, whatever the tokenizer, and the text was
# pooled at its highest id; transformers still reads 2 so (modeling_clip.py, CLIPTextModel).
LEGACY_END = 2


def matches(keys: Collection[str], files: Mapping[str, Any]) -> bool:
    """CLIP's two projections under Hugging Face's names."""
    return {"visual_projection.weight", "text_projection.weight"} <= set(keys)


def config(tensors: Mapping[str, Stored], files: Mapping[str, Any]) -> ModelConfig:
    """config.json and preprocessor_config.json, checked against the tensors."""
    if "config.json" not in files:
        raise CheckpointError("config.json, which states its heads and activation, is missing")
    stated = Stated("config.json", files["config.json"])
    if stated.values.get("model_type") != "clip":
        stated.fail("model_type", 'and only "clip" has these tensors')
    vision = _vision(_tower(stated, "vision_config"), tensors)
    return ModelConfig(
        vision=vision,
        text=_text(_tower(stated, "text_config"), tensors, files),
        preprocess=_preprocess(files, vision.image_size, stated.assumed),
        embed_dim=stated.size("projection_dim", tensors, "visual_projection.weight"),
        scale_limit=scale_limit(tensors),
        source="huggingface",
        assumed=stated.assumed,
    )


def rules(config: ModelConfig) -> Iterator[Rule]:
    """CLIPModel -> patchword."""
    assert config.text is not None
    yield Rename("logit_scale", "logit_scale")
    yield Rename("visual_projection.weight", "image.head.weight")
    yield Rename("text_projection.weight", "text.head.weight")
    yield Unsqueeze(f"{VISION}.embeddings.class_embedding", "image.cls_token", 2)
    yield Rename(f"{VISION}.embeddings.patch_embedding.weight", "image.patch_embed.proj.weight")
    yield Unsqueeze(f"{VISION}.embeddings.position_embedding.weight", "image.pos_embed")
    yield Rename(f"{TEXT}.embeddings.token_embedding.weight", "text.token_embed.weight")
    yield Unsqueeze(f"{TEXT}.embeddings.position_embedding.weight", "text.pos_embed")
    for tower in (VISION, TEXT):
        yield Drop(f"{tower}.embeddings.position_ids", why="0, 1, 2, ...: counted anew")
    for kind in ("weight", "bias"):
        yield Rename(f"{VISION}.pre_layrnorm.{kind}", f"image.norm_pre.{kind}")  # their spelling
        yield Rename(f"{VISION}.post_layernorm.{kind}", f"image.norm.{kind}")
        yield Rename(f"{TEXT}.final_layer_norm.{kind}", f"text.norm.{kind}")
        for i in range(config.vision.depth):
            yield from _layer(f"{VISION}.encoder.layers.{i}", f"image.blocks.{i}", kind)
        for i in range(config.text.depth):
            yield from _layer(f"{TEXT}.encoder.layers.{i}", f"text.blocks.{i}", kind)


def _layer(theirs: str, ours: str, kind: str) -> Iterator[Rule]:
    """One Transformer block; kind: "weight" or "bias"."""
    qkv = tuple(f"{theirs}.self_attn.{part}_proj.{kind}" for part in "qkv")
    yield Fuse(qkv, f"{ours}.attn.qkv.{kind}")
    yield Rename(f"{theirs}.self_attn.out_proj.{kind}", f"{ours}.attn.proj.{kind}")
    yield Rename(f"{theirs}.layer_norm1.{kind}", f"{ours}.norm1.{kind}")
    yield Rename(f"{theirs}.layer_norm2.{kind}", f"{ours}.norm2.{kind}")
    yield Rename(f"{theirs}.mlp.fc1.{kind}", f"{ours}.mlp.fc1.{kind}")
    yield Rename(f"{theirs}.mlp.fc2.{kind}", f"{ours}.mlp.fc2.{kind}")


def _tower(stated: Stated, key: str) -> Stated:
    """The object of one tower. Old files repeat it as `key`_dict, which then counts alone."""
    return stated.part(f"{key}_dict" if stated.values.get(f"{key}_dict") is not None else key)


def _vision(stated: Stated, tensors: Mapping[str, Stored]) -> VisionConfig:
    embeddings, first = f"{VISION}.embeddings", f"{VISION}.encoder.layers.0"
    patches = f"{embeddings}.patch_embedding.weight"
    positions = f"{embeddings}.position_embedding.weight"
    stated.size("num_channels", tensors, patches, 1)
    width = stated.size("hidden_size", tensors, patches)
    patch = stated.size("patch_size", tensors, patches, -1)
    why = VISION_DEFAULT
    return VisionConfig(
        image_size=stated.grid("image_size", tensors, positions, patch),
        patch_size=patch,
        width=width,
        depth=stated.depth("num_hidden_layers", tensors, f"{VISION}.encoder.layers."),
        heads=stated.heads(width, "num_attention_heads", 12, "vision.heads", why),
        mlp_width=stated.size("intermediate_size", tensors, f"{first}.mlp.fc1.weight"),
        activation=stated.choice("hidden_act", ACTIVATIONS, "quick_gelu", "vision.activation", why),
        eps=stated.get("layer_norm_eps", 1e-5, "vision.eps", why),
        pre_norm=True,
        patch_bias=False,
    )


def _text(stated: Stated, tensors: Mapping[str, Stored], files: Mapping[str, Any]) -> TextConfig:
    embeddings, first = f"{TEXT}.embeddings", f"{TEXT}.encoder.layers.0"
    tokens, positions = f"{embeddings}.token_embedding.weight", "position_embedding.weight"
    width = stated.size("hidden_size", tensors, tokens, 1)
    vocab_size = stated.size("vocab_size", tensors, tokens)
    why = TEXT_DEFAULT
    end = stated.get("eos_token_id", 49407, "text.end_token", why)
    if end == LEGACY_END:
        end = highest_id(files, vocab_size)
        stated.assumed["text.end_token"] = f"{end}: eos_token_id 2 stands for the highest id"
    if not 0 <= end < vocab_size:
        stated.fail("eos_token_id", f"but there are only {vocab_size} ids")
    return TextConfig(
        vocab_size=vocab_size,
        context=stated.size("max_position_embeddings", tensors, f"{embeddings}.{positions}"),
        width=width,
        depth=stated.depth("num_hidden_layers", tensors, f"{TEXT}.encoder.layers."),
        heads=stated.heads(width, "num_attention_heads", 8, "text.heads", why),
        mlp_width=stated.size("intermediate_size", tensors, f"{first}.mlp.fc1.weight"),
        activation=stated.choice("hidden_act", ACTIVATIONS, "quick_gelu", "text.activation", why),
        eps=stated.get("layer_norm_eps", 1e-5, "text.eps", why),
        end_token=end,
        pad_token=end,  # CLIP's tokenizers pad so; what follows the end token changes nothing
    )


def _preprocess(
    files: Mapping[str, Any], image_size: tuple[int, int], assumed: dict[str, str]
) -> PreprocessConfig:
    """preprocessor_config.json, or processor_config.json as transformers 5 writes it."""
    if "preprocessor_config.json" in files:
        stated = Stated("preprocessor_config.json", files["preprocessor_config.json"], assumed)
    else:
        whole = Stated("processor_config.json", files.get("processor_config.json", {}), assumed)
        stated = whole.part("image_processor")
    size = _sides(stated, "size", image_size)
    if not stated.optional("do_resize", True):
        stated.fail("do_resize", "but without resizing photos of different sizes make no batch")
    squash = isinstance(size, tuple)
    crop: int | tuple[int, int] = size
    if stated.optional("do_center_crop", True):
        crop = _sides(stated, "crop_size", image_size)
    elif not squash:
        stated.fail("do_center_crop", "so that the network would get photos of different shapes")
    final = crop if isinstance(crop, tuple) else (crop, crop)
    if squash and size != final:
        stated.fail("crop_size", f"a crop from photos squashed to {size}: not supported")
    if final != image_size:
        stated.fail("crop_size", f"but the network takes {image_size}", final)
    return PreprocessConfig(
        size=final,
        resize="squash" if squash else "shortest",
        resize_to=min(size) if isinstance(size, tuple) else size,
        interpolation=_interpolation(stated),
        crop_rounding="floor",
        **_levels(stated),
    )


def _sides(stated: Stated, key: str, default: tuple[int, int]) -> int | tuple[int, int]:
    """A size: the shortest side, or (H, W). Written {"shortest_edge": 224}, {"height": 224,
    "width": 224}, or, in old files, 224, which for "crop_size" is a square."""
    value = stated.values.get(key)
    if value is None:
        stated.assume(f"preprocess.{key}", default, "the size that the network takes")
        return min(default) if key == "size" and default[0] == default[1] else default
    if isinstance(value, dict):
        part = stated.part(key)
        if set(value) == {"shortest_edge"}:
            return part.pair("shortest_edge")[0]
        if set(value) == {"height", "width"}:
            return part.pair("height")[0], part.pair("width")[0]
    if type(value) is not int:
        stated.fail(key, "not a number, a shortest_edge, or a height and a width")
    return value


def _interpolation(stated: Stated) -> Literal["nearest", "bilinear", "bicubic", "lanczos"]:
    return stated.choice(  # type: ignore[no-any-return]
        "resample", RESAMPLE, "bicubic", "preprocess.interpolation", IMAGE_DEFAULT
    )


def _levels(stated: Stated) -> dict[str, Any]:
    """Rescaling and normalising."""
    out: dict[str, Any] = {"rescale": 1.0, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    if stated.optional("do_rescale", True):
        out["rescale"] = stated.optional("rescale_factor", 1 / 255)
    if stated.optional("do_normalize", True):
        out["mean"] = stated.triple("image_mean", MEAN, "preprocess.mean", IMAGE_DEFAULT)
        out["std"] = stated.triple("image_std", STD, "preprocess.std", IMAGE_DEFAULT)
    return out
