"""Hugging Face's CLIP and MetaCLIP 2: both towers, one of them with or without its projection, or
the image classifier. MetaCLIP 2 is a CLIP with another tokenizer.

CLIPTextModel and CLIPTextModelWithProjection condition diffusion models (`text_encoder` of a
pipeline), CLIPVisionModel is the image encoder of many vision-language models. Defaults are those
of transformers' CLIPTextConfig, CLIPVisionConfig, CLIPImageProcessor and CLIPTokenizer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from patchword.checkpoints.config_reader import ConfigReader, scale_limit, shape_of
from patchword.checkpoints.huggingface import (
    ACTIVATIONS,
    LAYERS,
    class_score,
    config_file,
    drop_position_ids,
    labels,
    layer,
    model_type,
    text_tower,
    tower,
)
from patchword.checkpoints.image_processors import CLIP, preprocess
from patchword.checkpoints.read import LazyTensor
from patchword.checkpoints.rules import Rename, Rule, Unsqueeze, drop_layer, rename_layer
from patchword.checkpoints.special_tokens import end_token, special_token, vocabulary
from patchword.config import ModelConfig, PreprocessConfig, TextConfig, ViTConfig
from patchword.errors import CheckpointError

TITLE = "a Hugging Face CLIPModel"
EXPECTS = (
    "config.json with model_type 'clip', tensors text_model.* and vision_model.*, or "
    "vision_model.* and classifier.*; "
    "or that, 'clip_text_model' or 'clip_vision_model', and the tensors of one tower; "
    "the same with 'metaclip_2'"
)
NAMES = (
    "visual_projection.weight",
    "text_projection.weight",
    "text_model.encoder.layers.",
    "vision_model.encoder.layers.",
)

BOTH, TEXT_ALONE, VISION_ALONE = "clip", "clip_text_model", "clip_vision_model"
VISION, TEXT = "vision_model.", "text_model."
PATCHES, TOKENS = "embeddings.patch_embedding.weight", "embeddings.token_embedding.weight"
CLASSIFIER = "classifier.weight"
VISUAL_HEAD, TEXT_HEAD = "visual_projection.weight", "text_projection.weight"
TEXT_DEFAULT = "transformers' CLIPTextConfig default"
VISION_DEFAULT = "transformers' CLIPVisionConfig default"
TOKENIZER_DEFAULT = "transformers' CLIPTokenizer default, the end token"

# Names of a tower without projection have a prefix in files of transformers 4, and none in those
# of 5.
SOURCE, WITHOUT_PREFIX = "huggingface", "huggingface, names without prefix"

METACLIP_2 = "metaclip_2"  # instead of "clip" in a model_type

# Before transformers 4.32 every config.json had the eos_token_id 2, whatever the tokenizer, and a
# text was pooled at its highest id; transformers still does so for a 2 (modeling_clip.py,
# CLIPTextModel). In a MetaCLIP 2 it is the end token.
LEGACY_END = 2


def matches(keys: Collection[str], files: Mapping[str, Any]) -> bool:
    """CLIP's two projections and text layers under Hugging Face's names, or a type of CLIP's and
    layers of one tower."""
    kind = model_type(files).replace(METACLIP_2, BOTH)
    if kind in (BOTH, "") and {VISUAL_HEAD, TEXT_HEAD} <= set(keys):
        prefixes: tuple[str, ...] = (TEXT,)
    else:
        towers = {BOTH: (VISION, TEXT, ""), TEXT_ALONE: (TEXT, ""), VISION_ALONE: (VISION, "")}
        prefixes = towers.get(kind, ())
    layers = tuple(f"{prefix}{LAYERS}" for prefix in prefixes)
    return any(key.startswith(layers) for key in keys)


def config(tensors: Mapping[str, LazyTensor], files: Mapping[str, Any]) -> ModelConfig:
    """config.json, preprocessor_config.json and the tokenizer's files, checked against the
    tensors. The tensors also decide which towers there are, if model_type is that of both."""
    types = (BOTH, TEXT_ALONE, VISION_ALONE)
    new_types = [name.replace(BOTH, METACLIP_2) for name in types]
    reader = config_file(files, *types, *new_types)
    is_metaclip_2 = reader.values["model_type"].startswith(METACLIP_2)
    kind = reader.values["model_type"].replace(METACLIP_2, BOTH)
    without_prefix = any(key.startswith(LAYERS) for key in tensors)
    image_prefix, text_prefix = ("", "") if without_prefix else (VISION, TEXT)
    classes = shape_of(tensors, CLASSIFIER, 2)[0] if CLASSIFIER in tensors else 0
    has_vision, has_text = kind != TEXT_ALONE, kind != VISION_ALONE and not classes
    if kind == BOTH and not {VISUAL_HEAD, TEXT_HEAD} <= set(tensors):
        has_vision = f"{image_prefix}{PATCHES}" in tensors
        has_text = has_text and f"{text_prefix}{TOKENS}" in tensors
    if not has_vision and not has_text:
        raise CheckpointError("it has neither patch nor token embeddings")
    vision, text, preprocessing = None, None, PreprocessConfig()
    if has_vision:
        vision_reader = tower(reader, "vision_config") if kind == BOTH else reader
        vision = vision_config(vision_reader, tensors, image_prefix)
        if classes:
            vision = replace(vision, pool="raw_avg")
        preprocessing = preprocess(files, vision.image_size, reader.assumed, CLIP)
    if has_text:
        text_reader = tower(reader, "text_config") if kind == BOTH else reader
        text = _text(text_reader, tensors, files, text_prefix, legacy=not is_metaclip_2)
    head = VISUAL_HEAD if has_vision else TEXT_HEAD
    embed_dim = 0
    if (has_vision and has_text) or (kind != BOTH and head in tensors):
        embed_dim = reader.size("projection_dim", tensors, head)
    elif not classes and head in tensors:  # the config of both towers may have another number
        embed_dim = shape_of(tensors, head, 2)[0]
    return ModelConfig(
        vision=vision,
        text=text,
        preprocess=preprocessing,
        embed_dim=embed_dim,
        classes=classes,
        labels=labels(reader, classes),
        score=class_score(reader, classes),
        scale_limit=scale_limit(tensors),
        source=WITHOUT_PREFIX if without_prefix else SOURCE,
        assumed=reader.assumed,
    )


def rules(config: ModelConfig) -> Iterator[Rule]:
    """CLIPModel, or one of its towers -> patchword."""
    without_prefix = config.source == WITHOUT_PREFIX
    if config.vision is not None and config.text is not None:
        yield Rename("logit_scale", "logit_scale")
    if config.vision is not None:
        yield from vision_rules(config, "" if without_prefix else VISION)
    if config.text is not None:
        if config.embed_dim:
            yield Rename(TEXT_HEAD, "text.head.weight")
        yield from text_tower("" if without_prefix else TEXT, config.text.depth)


def vision_rules(config: ModelConfig, prefix: str) -> Iterator[Rule]:
    """The image tower; prefix: of its tensor names."""
    assert isinstance(config.vision, ViTConfig)
    if config.embed_dim:
        yield Rename(VISUAL_HEAD, "image.head.weight")
    yield Unsqueeze(f"{prefix}embeddings.class_embedding", "image.cls_token", 2)
    yield Rename(f"{prefix}{PATCHES}", "image.patch_embed.proj.weight")
    yield Unsqueeze(f"{prefix}embeddings.position_embedding.weight", "image.pos_embed")
    yield drop_position_ids(prefix)
    yield from rename_layer(f"{prefix}pre_layrnorm", "image.norm_pre")  # transformers' spelling
    for i in range(config.vision.depth):
        yield from layer(f"{prefix}{LAYERS}{i}", f"image.blocks.{i}")
    if not config.classes:
        yield from rename_layer(f"{prefix}post_layernorm", "image.norm")
        return
    yield from rename_layer("classifier", "image.head")
    why = "a classifier averages the patches before this norm"
    yield from drop_layer(f"{prefix}post_layernorm", why)


def vision_config(
    reader: ConfigReader, tensors: Mapping[str, LazyTensor], prefix: str
) -> ViTConfig:
    """The image tower, from its object of config.json; prefix: of its tensor names."""
    patches = f"{prefix}{PATCHES}"
    positions = f"{prefix}embeddings.position_embedding.weight"
    reader.size("num_channels", tensors, patches, 1)
    width = reader.size("hidden_size", tensors, patches)
    patch = reader.size("patch_size", tensors, patches, -1)
    why = VISION_DEFAULT
    return ViTConfig(
        image_size=reader.image_size("image_size", tensors, positions, patch),
        patch_size=patch,
        width=width,
        depth=reader.depth("num_hidden_layers", tensors, f"{prefix}{LAYERS}"),
        heads=reader.heads(width, "num_attention_heads", 12, "vision.heads", why),
        mlp_width=reader.size("intermediate_size", tensors, f"{prefix}{LAYERS}0.mlp.fc1.weight"),
        activation=reader.choice("hidden_act", ACTIVATIONS, "quick_gelu", "vision.activation", why),
        eps=reader.get("layer_norm_eps", 1e-5, "vision.eps", why),
        pre_norm=True,
        patch_bias=False,
        antialias=False,
    )


def _text(
    reader: ConfigReader,
    tensors: Mapping[str, LazyTensor],
    files: Mapping[str, Any],
    prefix: str,
    legacy: bool,
) -> TextConfig:
    """The text tower; prefix: of its tensor names. legacy: see `LEGACY_END`."""
    tokens = f"{prefix}{TOKENS}"
    positions = f"{prefix}embeddings.position_embedding.weight"
    width = reader.size("hidden_size", tensors, tokens, 1)
    vocab_size = reader.size("vocab_size", tensors, tokens)
    why = TEXT_DEFAULT
    end = reader.get("eos_token_id", 49407, "text.end_token", why)
    pool: Literal["end", "highest"] = "end"
    if legacy and end == LEGACY_END:
        end, pool = end_token(files, vocab_size)
        why_highest = "eos_token_id 2 stands for the highest id of each text, which is pooled"
        reader.assumed["text.end_token"] = f"{end}: {why_highest}"
    if not 0 <= end < vocab_size:
        reader.fail("eos_token_id", f"but there are only {vocab_size} ids")
    return TextConfig(
        vocab_size=vocab_size,
        context=reader.size("max_position_embeddings", tensors, positions),
        width=width,
        depth=reader.depth("num_hidden_layers", tensors, f"{prefix}{LAYERS}"),
        heads=reader.heads(width, "num_attention_heads", 8, "text.heads", why),
        mlp_width=reader.size("intermediate_size", tensors, f"{prefix}{LAYERS}0.mlp.fc1.weight"),
        activation=reader.choice("hidden_act", ACTIVATIONS, "quick_gelu", "text.activation", why),
        eps=reader.get("layer_norm_eps", 1e-5, "text.eps", why),
        pool=pool,
        end_token=end,
        pad_token=_pad_token(reader, files, end, vocab_size),
    )


def _pad_token(reader: ConfigReader, files: Mapping[str, Any], end: int, vocab_size: int) -> int:
    """The id that the checkpoint's own tokenizer pads with.

    It does not change a text's vector, but the states of the padding, which diffusion models read
    too: Stable Diffusion 1 pads with the end token, 2 with "!".
    """
    token, where = special_token(files, "pad_token")
    if token is None:
        reader.assume("text.pad_token", end, TOKENIZER_DEFAULT)
        return end
    ids = vocabulary(files)
    if not ids:
        reader.assume("text.pad_token", end, f"{where} says {token!r}, but there is no vocabulary")
        return end
    pad = ids.get(token, -1)
    if not 0 <= pad < vocab_size:
        ConfigReader(where, {"pad_token": token}).fail(
            "pad_token", "which is none of the model's ids"
        )
    return pad
