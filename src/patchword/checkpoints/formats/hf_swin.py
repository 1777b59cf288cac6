"""Hugging Face's Swin: SwinForImageClassification and SwinModel.

Defaults are those of transformers' SwinConfig and ViTImageProcessor.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from patchword.checkpoints.config_reader import ConfigReader, depth, shape_of
from patchword.checkpoints.huggingface import (
    ACTIVATIONS,
    HEADLESS,
    class_score,
    config_file,
    has_prefix,
    labels,
    model_type,
    vit_layer,
)
from patchword.checkpoints.image_processors import VIT, preprocess
from patchword.checkpoints.read import LazyTensor
from patchword.checkpoints.rules import Drop, Rename, Rule, rename_layer
from patchword.config import ModelConfig, SwinConfig

TITLE = "a Hugging Face Swin"
EXPECTS = "config.json with model_type 'swin', tensors swin.encoder.layers.*.blocks.*"
NAMES = ("swin.embeddings.patch_embeddings.projection.weight", "swin.encoder.layers.")

PROJECTION = "embeddings.patch_embeddings.projection"
PATCHES = f"{PROJECTION}.weight"
WHY = "transformers' SwinConfig default"


def matches(keys: Collection[str], files: Mapping[str, Any]) -> bool:
    """Swin's patch embedding under Hugging Face's name, and its type."""
    return model_type(files) == "swin" and bool({PATCHES, f"swin.{PATCHES}"} & set(keys))


def config(tensors: Mapping[str, LazyTensor], files: Mapping[str, Any]) -> ModelConfig:
    """config.json and preprocessor_config.json, checked against the tensors."""
    reader = config_file(files, "swin")
    classes = shape_of(tensors, "classifier.weight", 2)[0] if "classifier.weight" in tensors else 0
    prefix = "swin." if f"swin.{PATCHES}" in tensors else ""
    vision = _vision(reader, tensors, prefix)
    return ModelConfig(
        vision=vision,
        preprocess=preprocess(files, vision.image_size, reader.assumed, VIT),
        classes=classes,
        labels=labels(reader, classes),
        score=class_score(reader, classes),
        source=HEADLESS if prefix and not classes else "huggingface",
        assumed=reader.assumed,
    )


def rules(config: ModelConfig) -> Iterator[Rule]:
    """SwinForImageClassification, with or without its head, or SwinModel -> patchword."""
    vision = config.vision
    assert isinstance(vision, SwinConfig)
    prefix = "swin." if has_prefix(config) else ""
    yield from rename_layer(f"{prefix}{PROJECTION}", "image.patch_embed.proj")
    yield from rename_layer(f"{prefix}embeddings.norm", "image.norm_pre")
    yield from rename_layer(f"{prefix}layernorm", "image.norm")
    if config.classes:
        yield from rename_layer("classifier", "image.head")
    for i, count in enumerate(vision.stages):
        stage = f"{prefix}encoder.layers.{i}"
        for j in range(count):
            yield from _block(f"{stage}.blocks.{j}", f"image.layers.{i}.blocks.{j}")
        if i + 1 < len(vision.stages):  # merging ends a stage there, and begins the next one here
            source, target = f"{stage}.downsample", f"image.layers.{i + 1}.downsample"
            yield from rename_layer(f"{source}.norm", f"{target}.norm")
            yield Rename(f"{source}.reduction.weight", f"{target}.reduction.weight")


def _block(source: str, target: str) -> Iterator[Rule]:
    attention, table = f"{source}.attention.self", "relative_position_bias_table"
    yield Rename(f"{attention}.{table}", f"{target}.attn.{table}")
    yield Drop(f"{attention}.relative_position_index", why="computed from the window's size")
    yield from vit_layer(source, target, inner="self")


def _vision(reader: ConfigReader, tensors: Mapping[str, LazyTensor], prefix: str) -> SwinConfig:
    """The network; prefix: of its tensor names."""
    patches, layers = f"{prefix}{PATCHES}", f"{prefix}encoder.layers."
    for key, neutral in (("use_absolute_embeddings", False), ("qkv_bias", True)):
        if reader.optional(key, neutral) is not neutral:
            reader.fail(key, "which patchword does not support")
    reader.size("num_channels", tensors, patches, 1)
    width = reader.size("embed_dim", tensors, patches)
    stages = [depth(tensors, f"{layers}{i}.blocks.") for i in range(depth(tensors, layers))]
    table = "blocks.0.attention.self.relative_position_bias_table"  # (offsets, heads)
    tables = [shape_of(tensors, f"{layers}{i}.{table}", 2) for i in range(len(stages))]
    heads = [heads for _, heads in tables]
    offsets = shape_of(tensors, f"{layers}0.{table}", 2)[0]  # (2 * window - 1) ** 2
    window = (math.isqrt(offsets) + 1) // 2
    for key, actual in (("depths", stages), ("num_heads", heads), ("window_size", window)):
        if reader.values.get(key, actual) != actual:
            reader.fail(key, f"but the weights have {actual}")
    image_size = (224, 224)
    if "image_size" in reader.values:
        image_size = reader.pair("image_size")
    else:
        reader.assume("vision.image_size", 224, WHY)
    fc1 = f"{layers}0.blocks.0.intermediate.dense.weight"
    return SwinConfig(
        image_size=image_size,
        patch_size=reader.size("patch_size", tensors, patches, -1),
        width=width,
        heads=heads[0],
        stage_heads=tuple(heads),
        mlp_width=shape_of(tensors, fc1, 2)[0],
        activation=reader.choice("hidden_act", ACTIVATIONS, "gelu", "vision.activation", WHY),
        eps=reader.get("layer_norm_eps", 1e-5, "vision.eps", WHY),
        stages=tuple(stages),
        window=window,
    )
