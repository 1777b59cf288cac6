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
    labels,
    model_type,
    prefixed,
    vit_layer,
)
from patchword.checkpoints.image_processors import VIT, preprocess
from patchword.checkpoints.read import Stored
from patchword.checkpoints.rules import Drop, Rename, Rule
from patchword.config import ModelConfig, SwinConfig

TITLE = "a Hugging Face Swin"
EXPECTS = "config.json with model_type 'swin', tensors swin.encoder.layers.*.blocks.*"
NAMES = ("swin.embeddings.patch_embeddings.projection.weight", "swin.encoder.layers.")

PATCHES = "embeddings.patch_embeddings.projection.weight"
WHY = "transformers' SwinConfig default"


def matches(keys: Collection[str], files: Mapping[str, Any]) -> bool:
    """Swin's patch embedding under Hugging Face's name, and its type."""
    return model_type(files) == "swin" and bool({PATCHES, f"swin.{PATCHES}"} & set(keys))


def config(tensors: Mapping[str, Stored], files: Mapping[str, Any]) -> ModelConfig:
    """config.json and preprocessor_config.json, checked against the tensors."""
    reader = config_file(files, "swin")
    classes = shape_of(tensors, "classifier.weight", 2)[0] if "classifier.weight" in tensors else 0
    whole = "swin." if f"swin.{PATCHES}" in tensors else ""
    vision = _vision(reader, tensors, whole)
    return ModelConfig(
        vision=vision,
        preprocess=preprocess(files, vision.image_size, reader.assumed, VIT),
        classes=classes,
        labels=labels(reader, classes),
        score=class_score(reader, classes),
        source=HEADLESS if whole and not classes else "huggingface",
        assumed=reader.assumed,
    )


def rules(config: ModelConfig) -> Iterator[Rule]:
    """SwinForImageClassification, with or without its head, or SwinModel -> patchword."""
    vision, whole = config.vision, "swin." if prefixed(config) else ""
    assert isinstance(vision, SwinConfig)
    last = len(vision.stages) - 1
    for kind in ("weight", "bias"):
        yield Rename(f"{whole}{PATCHES[: -len('weight')]}{kind}", f"image.patch_embed.proj.{kind}")
        yield Rename(f"{whole}embeddings.norm.{kind}", f"image.norm_pre.{kind}")
        yield Rename(f"{whole}layernorm.{kind}", f"image.norm.{kind}")
        if config.classes:
            yield Rename(f"classifier.{kind}", f"image.head.{kind}")
    for i, count in enumerate(vision.stages):
        theirs = f"{whole}encoder.layers.{i}"
        for j in range(count):
            yield from _block(f"{theirs}.blocks.{j}", f"image.layers.{i}.blocks.{j}")
        if i < last:  # theirs ends a stage, ours begins the next
            merging = f"image.layers.{i + 1}.downsample"
            yield Rename(f"{theirs}.downsample.reduction.weight", f"{merging}.reduction.weight")
            for kind in ("weight", "bias"):
                yield Rename(f"{theirs}.downsample.norm.{kind}", f"{merging}.norm.{kind}")


def _block(theirs: str, ours: str) -> Iterator[Rule]:
    own, table = f"{theirs}.attention.self", "relative_position_bias_table"
    yield Rename(f"{own}.{table}", f"{ours}.attn.{table}")
    yield Drop(f"{own}.relative_position_index", why="made anew from the window's size")
    for kind in ("weight", "bias"):
        yield from vit_layer(theirs, ours, kind, inner="self")


def _vision(reader: ConfigReader, tensors: Mapping[str, Stored], whole: str) -> SwinConfig:
    patches, first = f"{whole}{PATCHES}", f"{whole}encoder.layers.0.blocks.0"
    for key, neutral in (("use_absolute_embeddings", False), ("qkv_bias", True)):
        if reader.optional(key, neutral) is not neutral:
            reader.fail(key, "which patchword does not support")
    reader.size("num_channels", tensors, patches, 1)
    width = reader.size("embed_dim", tensors, patches)
    names, where = list(tensors), f"{whole}encoder.layers."
    stages = tuple(depth(names, f"{where}{i}.blocks.") for i in range(depth(names, where)))
    table = f"{first}.attention.self.relative_position_bias_table"
    places = shape_of(tensors, table, 2)[0]
    tables = [table.replace(f"{where}0.", f"{where}{i}.") for i in range(len(stages))]
    heads = [shape_of(tensors, each, 2)[1] for each in tables]
    found: dict[str, Any] = {
        "depths": list(stages),
        "num_heads": heads,
        "window_size": (math.isqrt(places) + 1) // 2,
    }
    for key, value in found.items():
        if reader.values.get(key, value) != value:
            reader.fail(key, f"but the weights have {value}")
    if "image_size" not in reader.values:
        reader.assume("vision.image_size", 224, WHY)
    return SwinConfig(
        image_size=reader.pair("image_size") if "image_size" in reader.values else (224, 224),
        patch_size=reader.size("patch_size", tensors, patches, -1),
        width=width,
        heads=heads[0],
        stage_heads=tuple(heads),
        mlp_width=shape_of(tensors, f"{first}.intermediate.dense.weight", 2)[0],
        activation=reader.choice("hidden_act", ACTIVATIONS, "gelu", "vision.activation", WHY),
        eps=reader.get("layer_norm_eps", 1e-5, "vision.eps", WHY),
        stages=stages,
        window=found["window_size"],
    )
