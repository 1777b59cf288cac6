"""Hugging Face's DINOv2: Dinov2Model, Dinov2WithRegistersModel and their backbones.

Defaults are those of transformers' Dinov2Config and Dinov2WithRegistersConfig, and of the image
processor that their checkpoints name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from patchword.checkpoints.config_reader import ConfigReader
from patchword.checkpoints.huggingface import (
    ACTIVATIONS,
    HEADLESS,
    check_qkv_bias,
    config_file,
    model_type,
    vit_attention,
)
from patchword.checkpoints.image_processors import BIT, preprocess
from patchword.checkpoints.read import Stored
from patchword.checkpoints.rules import AddFirst, Drop, Fuse, OrZero, Rename, Rule, SkipFirst
from patchword.config import ModelConfig, ViTConfig
from patchword.errors import CheckpointError

TITLE = "a Hugging Face DINOv2"
EXPECTS = "config.json with model_type 'dinov2', tensors encoder.layer.*.layer_scale1.lambda1"

PLAIN, REGISTERS = TYPES = ("dinov2", "dinov2_with_registers")
NAMES = PATCHES, SCALE = (
    "embeddings.patch_embeddings.projection.weight",
    "encoder.layer.0.layer_scale1.lambda1",
)
TOKENS = "embeddings.register_tokens"
WHY = "transformers' Dinov2Config default"


def matches(keys: Collection[str], files: Mapping[str, Any]) -> bool:
    """The patch embedding and a layer scale under Hugging Face's names, and its type."""
    kind = model_type(files)
    return kind in TYPES and any(
        {f"{whole}{PATCHES}", f"{whole}{SCALE}"} <= set(keys) for whole in ("", f"{kind}.")
    )


def config(tensors: Mapping[str, Stored], files: Mapping[str, Any]) -> ModelConfig:
    """config.json and preprocessor_config.json, checked against the tensors. Photos are of the size
    that the image processor makes, 224 pixels in the checkpoints of the hub, and positions are
    resampled to it from the network's own, 518."""
    reader = config_file(files, *TYPES)
    kind = reader.values["model_type"]
    if "classifier.weight" in tensors:
        raise CheckpointError(
            "its classifier reads the class token beside the mean of the patches, which patchword "
            f"does not compute: save the network without it, model.{kind}.save_pretrained(folder)"
        )
    whole = f"{kind}." if f"{kind}.{PATCHES}" in tensors else ""
    vision = _vision(reader, tensors, whole, kind == REGISTERS)
    return ModelConfig(
        vision=vision,
        preprocess=preprocess(files, vision.image_size, reader.assumed, BIT, any_size=True),
        source=HEADLESS if whole else "huggingface",
        assumed=reader.assumed,
    )


def rules(config: ModelConfig) -> Iterator[Rule]:
    """A network alone, or that of a classifier without its head -> patchword."""
    vision = config.vision
    assert isinstance(vision, ViTConfig)
    apart = vision.positions == "patches"
    whole = f"{REGISTERS if apart else PLAIN}." if config.source == HEADLESS else ""
    token, positions = (f"{whole}embeddings.{n}" for n in ("cls_token", "position_embeddings"))
    if apart:
        count = vision.grid[0] * vision.grid[1]
        yield AddFirst(token, positions, count + 1, "image.cls_token")
        yield SkipFirst(positions, "image.pos_embed")
        yield Rename(f"{whole}{TOKENS}", "image.reg_token")
    else:
        yield Rename(token, "image.cls_token")
        yield Rename(positions, "image.pos_embed")
    yield Drop(f"{whole}embeddings.mask_token", why="stands for patches hidden in pretraining")
    for kind in ("weight", "bias"):
        patches = PATCHES.removesuffix("weight")
        yield Rename(f"{whole}{patches}{kind}", f"image.patch_embed.proj.{kind}")
        yield Rename(f"{whole}layernorm.{kind}", f"image.norm.{kind}")
        for i in range(vision.depth):
            theirs, ours = f"{whole}encoder.layer.{i}", f"image.blocks.{i}"
            for rule in vit_attention(theirs, ours, kind):
                may_lack = isinstance(rule, Fuse) and kind == "bias"  # with qkv_bias false
                yield OrZero(rule) if may_lack else rule
            for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                yield Rename(f"{theirs}.{part}.{kind}", f"{ours}.{part}.{kind}")
    for i in range(vision.depth):
        for n in (1, 2):
            theirs = f"{whole}encoder.layer.{i}.layer_scale{n}.lambda1"
            yield Rename(theirs, f"image.blocks.{i}.ls{n}.gamma")


def _vision(
    reader: ConfigReader, tensors: Mapping[str, Stored], whole: str, registers: bool
) -> ViTConfig:
    """whole: the prefix of the network's names."""
    patches, first = f"{whole}{PATCHES}", f"{whole}encoder.layer.0"
    if reader.optional("use_swiglu_ffn", False):
        reader.fail("use_swiglu_ffn", "as DINOv2's giant has it, which patchword does not compute")
    reader.size("num_channels", tensors, patches, 1)
    width = reader.size("hidden_size", tensors, patches)
    patch = reader.size("patch_size", tensors, patches, -1)
    check_qkv_bias(reader, tensors, f"{first}.attention.attention.query.bias")
    mlp = reader.size("intermediate_size", tensors, f"{first}.mlp.fc1.weight")
    if not 0 <= width * reader.optional("mlp_ratio", 4.0) - mlp < 1:  # rounded down
        reader.fail("mlp_ratio", f"but the weights are of {mlp / width:g}")
    act, positions = "hidden_act", f"{whole}embeddings.position_embeddings"
    tokens = f"{whole}{TOKENS}"
    return ViTConfig(
        image_size=reader.grid("image_size", tensors, positions, patch),
        patch_size=patch,
        width=width,
        depth=reader.depth("num_hidden_layers", tensors, f"{whole}encoder.layer."),
        heads=reader.heads(width, "num_attention_heads", 12, "vision.heads", WHY),
        mlp_width=mlp,
        activation=reader.choice(act, ACTIVATIONS, "gelu", "vision.activation", WHY),
        eps=reader.get("layer_norm_eps", 1e-6, "vision.eps", WHY),
        layer_scale=True,
        registers=reader.size("num_register_tokens", tensors, tokens, 1) if registers else 0,
        positions="patches" if registers else "learned",
        antialias=registers,
    )
