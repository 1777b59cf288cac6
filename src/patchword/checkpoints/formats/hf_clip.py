"""Hugging Face's CLIP and MetaCLIP 2: CLIPModel, each of its towers alone with or without
projection, and the image classifier; and the same of MetaClip2Model, a CLIP with another tokenizer.

CLIPTextModel and CLIPTextModelWithProjection condition diffusion models (`text_encoder` of a
pipeline), CLIPVisionModel is the image encoder of many vision-language models. Defaults are those
of transformers' CLIPTextConfig, CLIPVisionConfig, CLIPImageProcessor and CLIPTokenizer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from patchword.checkpoints.config_reader import (
    ConfigReader,
    end_of,
    scale_limit,
    shape_of,
    special_word,
    vocabulary,
)
from patchword.checkpoints.huggingface import (
    ACTIVATIONS,
    LAYERS,
    class_score,
    config_file,
    labels,
    layer,
    model_type,
    position_ids,
    text_tower,
    tower,
)
from patchword.checkpoints.image_processors import CLIP, preprocess
from patchword.checkpoints.read import Stored
from patchword.checkpoints.rules import Drop, Rename, Rule, Unsqueeze
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
PATCHES, WORDS = "embeddings.patch_embedding.weight", "embeddings.token_embedding.weight"
CLASSIFIER = "classifier.weight"
VISUAL_HEAD, TEXT_HEAD = "visual_projection.weight", "text_projection.weight"
TEXT_DEFAULT = "transformers' CLIPTextConfig default"
VISION_DEFAULT = "transformers' CLIPVisionConfig default"
TOKENIZER_DEFAULT = "transformers' CLIPTokenizer default, the end token"

# A tower without projection carries its prefix in files of transformers 4, and none in those of 5.
SOURCE, BARE = "huggingface", "huggingface, names without prefix"

META_2 = "metaclip_2"  # in place of "clip" in its types

# Before transformers 4.32 every config.json had 2 here, whatever the tokenizer, and the text was
# pooled at its highest id; transformers still does so for a 2 (modeling_clip.py, CLIPTextModel). In
# a MetaCLIP 2 it is the end token.
LEGACY_END = 2


def matches(keys: Collection[str], files: Mapping[str, Any]) -> bool:
    """CLIP's two projections and text layers under Hugging Face's names, or a type of CLIP's and
    layers of one tower."""
    kind = model_type(files).replace(META_2, BOTH)
    parts = {BOTH: (VISION, TEXT, ""), TEXT_ALONE: (TEXT, ""), VISION_ALONE: (VISION, "")}
    whole = kind in (BOTH, "") and {VISUAL_HEAD, TEXT_HEAD} <= set(keys)
    expected = (TEXT,) if whole else parts.get(kind, ())
    layers = tuple(f"{part}{LAYERS}" for part in expected)
    return any(key.startswith(layers) for key in keys)


def config(tensors: Mapping[str, Stored], files: Mapping[str, Any]) -> ModelConfig:
    """config.json, preprocessor_config.json and the tokenizer's files, checked against the
    tensors, which also decide which towers of a whole CLIP there are."""
    types = (BOTH, TEXT_ALONE, VISION_ALONE)
    reader = config_file(files, *types, *(name.replace(BOTH, META_2) for name in types))
    second = reader.values["model_type"].startswith(META_2)
    kind = reader.values["model_type"].replace(META_2, BOTH)
    bare = any(key.startswith(LAYERS) for key in tensors)
    image_prefix, text_prefix = ("", "") if bare else (VISION, TEXT)
    classes = shape_of(tensors, CLASSIFIER, 2)[0] if CLASSIFIER in tensors else 0
    seeing, reading = kind != TEXT_ALONE, kind != VISION_ALONE and not classes
    if kind == BOTH and not {VISUAL_HEAD, TEXT_HEAD} <= set(tensors):
        seeing = f"{image_prefix}{PATCHES}" in tensors
        reading = reading and f"{text_prefix}{WORDS}" in tensors
    if not seeing and not reading:
        raise CheckpointError("it has neither patch nor token embeddings")
    vision, text, pixels = None, None, PreprocessConfig()
    if seeing:
        part = tower(reader, "vision_config") if kind == BOTH else reader
        vision = vision_config(part, tensors, image_prefix)
        vision = replace(vision, pool="raw_avg") if classes else vision
        pixels = preprocess(files, vision.image_size, reader.assumed, CLIP)
    if reading:
        part = tower(reader, "text_config") if kind == BOTH else reader
        text = _text(part, tensors, files, text_prefix, legacy=not second)
    both, head, joint = seeing and reading, VISUAL_HEAD if seeing else TEXT_HEAD, 0
    if both or (kind != BOTH and head in tensors):
        joint = reader.size("projection_dim", tensors, head)
    elif not classes and head in tensors:  # the config may say it for two, or for this one
        joint = shape_of(tensors, head, 2)[0]
    return ModelConfig(
        vision=vision,
        text=text,
        preprocess=pixels,
        embed_dim=joint,
        classes=classes,
        labels=labels(reader, classes),
        score=class_score(reader, classes),
        scale_limit=scale_limit(tensors),
        source=BARE if bare else SOURCE,
        assumed=reader.assumed,
    )


def rules(config: ModelConfig) -> Iterator[Rule]:
    """CLIPModel, or one of its towers -> patchword."""
    if config.vision is not None and config.text is not None:
        yield Rename("logit_scale", "logit_scale")
    if config.vision is not None:
        yield from vision_rules(config, "" if config.source == BARE else VISION)
    if config.text is not None:
        if config.embed_dim:
            yield Rename(TEXT_HEAD, "text.head.weight")
        yield from text_tower("" if config.source == BARE else TEXT, config.text.depth)


def vision_rules(config: ModelConfig, part: str) -> Iterator[Rule]:
    """The image tower; part: the prefix of its names."""
    assert isinstance(config.vision, ViTConfig)
    if config.embed_dim:
        yield Rename(VISUAL_HEAD, "image.head.weight")
    yield Unsqueeze(f"{part}embeddings.class_embedding", "image.cls_token", 2)
    yield Rename(f"{part}embeddings.patch_embedding.weight", "image.patch_embed.proj.weight")
    yield Unsqueeze(f"{part}embeddings.position_embedding.weight", "image.pos_embed")
    yield position_ids(part)
    for kind in ("weight", "bias"):
        yield Rename(f"{part}pre_layrnorm.{kind}", f"image.norm_pre.{kind}")  # spelt so there
        if config.classes:
            yield Drop(
                f"{part}post_layernorm.{kind}", why="a classifier averages the patches before"
            )
            yield Rename(f"classifier.{kind}", f"image.head.{kind}")
        else:
            yield Rename(f"{part}post_layernorm.{kind}", f"image.norm.{kind}")
        for i in range(config.vision.depth):
            yield from layer(f"{part}{LAYERS}{i}", f"image.blocks.{i}", kind)


def vision_config(reader: ConfigReader, tensors: Mapping[str, Stored], part: str) -> ViTConfig:
    """The image tower, from its object of config.json; part: as in `vision_rules`."""
    patches = f"{part}{PATCHES}"
    positions = f"{part}embeddings.position_embedding.weight"
    reader.size("num_channels", tensors, patches, 1)
    width = reader.size("hidden_size", tensors, patches)
    patch = reader.size("patch_size", tensors, patches, -1)
    why = VISION_DEFAULT
    return ViTConfig(
        image_size=reader.grid("image_size", tensors, positions, patch),
        patch_size=patch,
        width=width,
        depth=reader.depth("num_hidden_layers", tensors, f"{part}{LAYERS}"),
        heads=reader.heads(width, "num_attention_heads", 12, "vision.heads", why),
        mlp_width=reader.size("intermediate_size", tensors, f"{part}{LAYERS}0.mlp.fc1.weight"),
        activation=reader.choice("hidden_act", ACTIVATIONS, "quick_gelu", "vision.activation", why),
        eps=reader.get("layer_norm_eps", 1e-5, "vision.eps", why),
        pre_norm=True,
        patch_bias=False,
        antialias=False,
    )


def _text(
    reader: ConfigReader,
    tensors: Mapping[str, Stored],
    files: Mapping[str, Any],
    part: str,
    legacy: bool,
) -> TextConfig:
    """The text tower; part: the prefix of its names. legacy: see `LEGACY_END`."""
    tokens = f"{part}{WORDS}"
    positions = f"{part}embeddings.position_embedding.weight"
    width = reader.size("hidden_size", tensors, tokens, 1)
    vocab_size = reader.size("vocab_size", tensors, tokens)
    why = TEXT_DEFAULT
    end = reader.get("eos_token_id", 49407, "text.end_token", why)
    pool: Literal["end", "highest"] = "end"
    if legacy and end == LEGACY_END:
        end, pool = end_of(files, vocab_size)
        words = "eos_token_id 2 stands for the highest id of each text, which is pooled"
        reader.assumed["text.end_token"] = f"{end}: {words}"
    if not 0 <= end < vocab_size:
        reader.fail("eos_token_id", f"but there are only {vocab_size} ids")
    return TextConfig(
        vocab_size=vocab_size,
        context=reader.size("max_position_embeddings", tensors, positions),
        width=width,
        depth=reader.depth("num_hidden_layers", tensors, f"{part}{LAYERS}"),
        heads=reader.heads(width, "num_attention_heads", 8, "text.heads", why),
        mlp_width=reader.size("intermediate_size", tensors, f"{part}{LAYERS}0.mlp.fc1.weight"),
        activation=reader.choice("hidden_act", ACTIVATIONS, "quick_gelu", "text.activation", why),
        eps=reader.get("layer_norm_eps", 1e-5, "text.eps", why),
        pool=pool,
        end_token=end,
        pad_token=_pad_token(reader, files, end, vocab_size),
    )


def _pad_token(reader: ConfigReader, files: Mapping[str, Any], end: int, vocab_size: int) -> int:
    """The id that the checkpoint's own tokenizer pads with.

    It cannot change a text's vector, but it does change the states of the padding, which a
    diffusion model reads too: Stable Diffusion 1 pads with the end token, 2 with "!".
    """
    token, where = special_word(files, "pad_token")
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
