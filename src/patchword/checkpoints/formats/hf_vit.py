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
    labels,
    model_type,
    prefixed,
    vit_layer,
)
from patchword.checkpoints.image_processors import DEIT, VIT, preprocess
from patchword.checkpoints.read import Stored
from patchword.checkpoints.rules import Drop, Fuse, OrZero, Rename, Rule
from patchword.config import ModelConfig, ViTConfig

TITLE = "a Hugging Face ViT or DeiT"
EXPECTS = "config.json with model_type 'vit' or 'deit', tensors vit.encoder.layer.*"
NAMES = ("vit.embeddings.patch_embeddings.projection.weight", "vit.encoder.layer.")

TYPES = ("vit", "deit")
PATCHES = "embeddings.patch_embeddings.projection.weight"
WHY = "transformers' ViTConfig and DeiTConfig default"
HEADS = ("classifier", "cls_classifier")
OURS = "image.patch_embed.proj"


def matches(keys: Collection[str], files: Mapping[str, Any]) -> bool:
    """The patch embedding under Hugging Face's name, and its type."""
    kind = model_type(files)
    return kind in TYPES and bool({PATCHES, f"{kind}.{PATCHES}"} & set(keys))


def config(tensors: Mapping[str, Stored], files: Mapping[str, Any]) -> ModelConfig:
    """config.json and preprocessor_config.json, checked against the tensors."""
    reader = config_file(files, *TYPES)
    head = next((f"{name}.weight" for name in HEADS if f"{name}.weight" in tensors), "")
    classes = shape_of(tensors, head, 2)[0] if head else 0
    kind = reader.values["model_type"]
    whole = f"{kind}." if f"{kind}.{PATCHES}" in tensors else ""
    vision = _vision(reader, tensors, whole, kind == "deit")
    return ModelConfig(
        vision=vision,
        preprocess=preprocess(
            files, vision.image_size, reader.assumed, VIT if kind == "vit" else DEIT
        ),
        classes=classes,
        labels=labels(reader, classes),
        score=class_score(reader, classes),
        source=HEADLESS if whole and not classes else "huggingface",
        assumed=reader.assumed,
    )


def rules(config: ModelConfig) -> Iterator[Rule]:
    """A classifier, with or without its head, or ViTModel or DeiTModel -> patchword."""
    vision = config.vision
    assert isinstance(vision, ViTConfig)
    deit = vision.prefix == 2
    whole = ("deit." if deit else "vit.") if prefixed(config) else ""
    embeddings = f"{whole}embeddings"
    yield Rename(f"{embeddings}.cls_token", "image.cls_token")
    yield Rename(f"{embeddings}.position_embeddings", "image.pos_embed")
    if deit:
        token = "dist_token" if vision.pool == "distilled" else "reg_token"
        yield Rename(f"{embeddings}.distillation_token", f"image.{token}")
    yield Drop(f"{embeddings}.mask_token", why="stands for patches hidden in pretraining")
    heads = {"classifier": "head"}
    if vision.pool == "distilled":
        heads = {"cls_classifier": "head", "distillation_classifier": "head_dist"}
    for kind in ("weight", "bias"):
        yield Rename(f"{embeddings}.patch_embeddings.projection.{kind}", f"{OURS}.{kind}")
        yield Rename(f"{whole}layernorm.{kind}", f"image.norm.{kind}")
        yield Drop(
            f"{whole}pooler.dense.{kind}", why="follows the class token, but no task reads it"
        )
        for theirs, ours in heads.items() if config.classes else ():
            yield Rename(f"{theirs}.{kind}", f"image.{ours}.{kind}")
        for i in range(vision.depth):
            for rule in vit_layer(f"{whole}encoder.layer.{i}", f"image.blocks.{i}", kind):
                may_lack = isinstance(rule, Fuse) and kind == "bias"  # with qkv_bias false
                yield OrZero(rule) if may_lack else rule


def _vision(
    reader: ConfigReader, tensors: Mapping[str, Stored], whole: str, deit: bool
) -> ViTConfig:
    """whole: the prefix of the tower's names. deit: it has a distillation token, which
    without a head of its own is a register."""
    patches, first = f"{whole}{PATCHES}", f"{whole}encoder.layer.0"
    reader.size("num_channels", tensors, patches, 1)
    width = reader.size("hidden_size", tensors, patches)
    patch = reader.size("patch_size", tensors, patches, -1)
    check_qkv_bias(reader, tensors, f"{first}.attention.attention.query.bias")
    taught = deit and "distillation_classifier.weight" in tensors
    positions = f"{whole}embeddings.position_embeddings"
    act, mlp = "hidden_act", f"{first}.intermediate.dense.weight"
    return ViTConfig(
        image_size=reader.grid("image_size", tensors, positions, patch, 1 + deit),
        patch_size=patch,
        width=width,
        depth=reader.depth("num_hidden_layers", tensors, f"{whole}encoder.layer."),
        heads=reader.heads(width, "num_attention_heads", 12, "vision.heads", WHY),
        mlp_width=reader.size("intermediate_size", tensors, mlp),
        activation=reader.choice(act, ACTIVATIONS, "gelu", "vision.activation", WHY),
        eps=reader.get("layer_norm_eps", 1e-12, "vision.eps", WHY),
        pool="distilled" if taught else "cls",
        registers=int(deit and not taught),
        antialias=False,
    )
