"""Hugging Face's ViT and DeiT: ViTForImageClassification, ViTModel, DeiTForImageClassification,
DeiTForImageClassificationWithTeacher and DeiTModel.

Defaults are those of transformers' ViTConfig and DeiTConfig, and of their image processors.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from patchword.checkpoints.config_reader import ConfigReader, shape_of
from patchword.checkpoints.huggingface import (
    ACTIVATIONS,
    HEADLESS,
    check_qkv_bias,
    class_score,
    config_file,
    has_prefix,
    labels,
    may_lack_qkv_bias,
    model_type,
    vit_layer,
)
from patchword.checkpoints.image_processors import DEIT, VIT, preprocess
from patchword.checkpoints.read import LazyTensor
from patchword.checkpoints.rules import Drop, Rename, Rule, drop_layer, rename_layer
from patchword.config import ModelConfig, ViTConfig

TITLE = "a Hugging Face ViT or DeiT"
EXPECTS = "config.json with model_type 'vit' or 'deit', tensors vit.encoder.layer.*"
NAMES = ("vit.embeddings.patch_embeddings.projection.weight", "vit.encoder.layer.")

TYPES = ("vit", "deit")
PATCHES = "embeddings.patch_embeddings.projection.weight"
WHY = "transformers' ViTConfig and DeiTConfig default"


def matches(keys: Collection[str], files: Mapping[str, Any]) -> bool:
    """The patch embedding under Hugging Face's name, and its type."""
    kind = model_type(files)
    return kind in TYPES and bool({PATCHES, f"{kind}.{PATCHES}"} & set(keys))


def config(tensors: Mapping[str, LazyTensor], files: Mapping[str, Any]) -> ModelConfig:
    """config.json and preprocessor_config.json, checked against the tensors."""
    reader = config_file(files, *TYPES)
    classes = 0
    for head in ("classifier.weight", "cls_classifier.weight"):
        if head in tensors:
            classes = shape_of(tensors, head, 2)[0]
    kind = reader.values["model_type"]
    prefix = f"{kind}." if f"{kind}.{PATCHES}" in tensors else ""
    vision = _vision(reader, tensors, prefix, kind == "deit")
    processor = VIT if kind == "vit" else DEIT
    return ModelConfig(
        vision=vision,
        preprocess=preprocess(files, vision.image_size, reader.assumed, processor),
        classes=classes,
        labels=labels(reader, classes),
        score=class_score(reader, classes),
        source=HEADLESS if prefix and not classes else "huggingface",
        assumed=reader.assumed,
    )


def rules(config: ModelConfig) -> Iterator[Rule]:
    """A classifier, with or without its head, or ViTModel or DeiTModel -> patchword."""
    vision = config.vision
    assert isinstance(vision, ViTConfig)
    is_deit, is_distilled = vision.prefix == 2, vision.pool == "distilled"
    kind = "deit" if is_deit else "vit"
    prefix = f"{kind}." if has_prefix(config) else ""
    embeddings = f"{prefix}embeddings"
    yield Rename(f"{embeddings}.cls_token", "image.cls_token")
    yield Rename(f"{embeddings}.position_embeddings", "image.pos_embed")
    if is_deit:
        token = "dist_token" if is_distilled else "reg_token"
        yield Rename(f"{embeddings}.distillation_token", f"image.{token}")
    yield Drop(f"{embeddings}.mask_token", why="stands for patches hidden in pretraining")
    yield from rename_layer(f"{embeddings}.patch_embeddings.projection", "image.patch_embed.proj")
    for i in range(vision.depth):
        block = vit_layer(f"{prefix}encoder.layer.{i}", f"image.blocks.{i}")
        yield from may_lack_qkv_bias(block)
    yield from rename_layer(f"{prefix}layernorm", "image.norm")
    yield from drop_layer(
        f"{prefix}pooler.dense", why="follows the class token, but no task reads it"
    )
    if config.classes and is_distilled:
        yield from rename_layer("cls_classifier", "image.head")
        yield from rename_layer("distillation_classifier", "image.head_dist")
    elif config.classes:
        yield from rename_layer("classifier", "image.head")


def _vision(
    reader: ConfigReader, tensors: Mapping[str, LazyTensor], prefix: str, is_deit: bool
) -> ViTConfig:
    """The tower; prefix: of its tensor names. A DeiT has a distillation token; without a head for
    it, it is a register."""
    patches, first = f"{prefix}{PATCHES}", f"{prefix}encoder.layer.0"
    reader.size("num_channels", tensors, patches, 1)
    width = reader.size("hidden_size", tensors, patches)
    patch = reader.size("patch_size", tensors, patches, -1)
    check_qkv_bias(reader, tensors, f"{first}.attention.attention.query.bias")
    is_distilled = is_deit and "distillation_classifier.weight" in tensors
    positions = f"{prefix}embeddings.position_embeddings"
    prefix_tokens = 2 if is_deit else 1
    fc1 = f"{first}.intermediate.dense.weight"
    return ViTConfig(
        image_size=reader.image_size("image_size", tensors, positions, patch, prefix_tokens),
        patch_size=patch,
        width=width,
        depth=reader.depth("num_hidden_layers", tensors, f"{prefix}encoder.layer."),
        heads=reader.heads(width, "num_attention_heads", 12, "vision.heads", WHY),
        mlp_width=reader.size("intermediate_size", tensors, fc1),
        activation=reader.choice("hidden_act", ACTIVATIONS, "gelu", "vision.activation", WHY),
        eps=reader.get("layer_norm_eps", 1e-12, "vision.eps", WHY),
        pool="distilled" if is_distilled else "cls",
        registers=1 if is_deit and not is_distilled else 0,
        antialias=False,
    )
