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
    may_lack_qkv_bias,
    model_type,
    vit_attention,
)
from patchword.checkpoints.image_processors import BIT, preprocess
from patchword.checkpoints.read import LazyTensor
from patchword.checkpoints.rules import (
    AddClassPosition,
    Drop,
    Rename,
    Rule,
    SkipClassPosition,
    rename_layer,
)
from patchword.config import ModelConfig, ViTConfig
from patchword.errors import CheckpointError

TITLE = "a Hugging Face DINOv2"
EXPECTS = "config.json with model_type 'dinov2', tensors encoder.layer.*.layer_scale1.lambda1"

PLAIN, REGISTERS = "dinov2", "dinov2_with_registers"
PATCHES = "embeddings.patch_embeddings.projection.weight"
SCALE = "encoder.layer.0.layer_scale1.lambda1"
NAMES = (PATCHES, SCALE)
REGISTER_TOKENS = "embeddings.register_tokens"
WHY = "transformers' Dinov2Config default"


def matches(keys: Collection[str], files: Mapping[str, Any]) -> bool:
    """The patch embedding and a layer scale under Hugging Face's names, and its type."""
    kind = model_type(files)
    if kind not in (PLAIN, REGISTERS):
        return False
    prefix = f"{kind}." if f"{kind}.{PATCHES}" in keys else ""
    return f"{prefix}{PATCHES}" in keys and f"{prefix}{SCALE}" in keys


def config(tensors: Mapping[str, LazyTensor], files: Mapping[str, Any]) -> ModelConfig:
    """config.json and preprocessor_config.json, checked against the tensors.

    The size of photos is the image processor's, in the checkpoints of the hub 224 pixels. Positions
    are learned at 518, and resampled to it.
    """
    reader = config_file(files, PLAIN, REGISTERS)
    kind = reader.values["model_type"]
    if "classifier.weight" in tensors:
        raise CheckpointError(
            "its classifier reads the class token beside the mean of the patches, which patchword "
            f"does not compute: save the network without it, model.{kind}.save_pretrained(folder)"
        )
    prefix = f"{kind}." if f"{kind}.{PATCHES}" in tensors else ""
    vision = _vision(reader, tensors, prefix, kind == REGISTERS)
    return ModelConfig(
        vision=vision,
        preprocess=preprocess(files, vision.image_size, reader.assumed, BIT, any_size=True),
        source=HEADLESS if prefix else "huggingface",
        assumed=reader.assumed,
    )


def rules(config: ModelConfig) -> Iterator[Rule]:
    """A network alone, or that of a classifier without its head -> patchword."""
    vision = config.vision
    assert isinstance(vision, ViTConfig)
    has_registers = vision.positions == "patches"  # positions of the patches alone
    kind = REGISTERS if has_registers else PLAIN
    prefix = f"{kind}." if config.source == HEADLESS else ""
    embeddings = f"{prefix}embeddings"
    class_token, positions = f"{embeddings}.cls_token", f"{embeddings}.position_embeddings"
    if has_registers:
        count = 1 + vision.grid[0] * vision.grid[1]
        yield AddClassPosition(class_token, positions, count, "image.cls_token")
        yield SkipClassPosition(positions, "image.pos_embed")
        yield Rename(f"{prefix}{REGISTER_TOKENS}", "image.reg_token")
    else:
        yield Rename(class_token, "image.cls_token")
        yield Rename(positions, "image.pos_embed")
    yield Drop(f"{embeddings}.mask_token", why="stands for patches hidden in pretraining")
    yield from rename_layer(f"{embeddings}.patch_embeddings.projection", "image.patch_embed.proj")
    yield from rename_layer(f"{prefix}layernorm", "image.norm")
    for i in range(vision.depth):
        source, target = f"{prefix}encoder.layer.{i}", f"image.blocks.{i}"
        yield from may_lack_qkv_bias(vit_attention(source, target))
        for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
            yield from rename_layer(f"{source}.{name}", f"{target}.{name}")
        yield Rename(f"{source}.layer_scale1.lambda1", f"{target}.ls1.gamma")
        yield Rename(f"{source}.layer_scale2.lambda1", f"{target}.ls2.gamma")


def _vision(
    reader: ConfigReader, tensors: Mapping[str, LazyTensor], prefix: str, has_registers: bool
) -> ViTConfig:
    """The network; prefix: of its tensor names."""
    patches, first = f"{prefix}{PATCHES}", f"{prefix}encoder.layer.0"
    if reader.optional("use_swiglu_ffn", False):
        reader.fail("use_swiglu_ffn", "as DINOv2's giant has it, which patchword does not compute")
    reader.size("num_channels", tensors, patches, 1)
    width = reader.size("hidden_size", tensors, patches)
    patch = reader.size("patch_size", tensors, patches, -1)
    check_qkv_bias(reader, tensors, f"{first}.attention.attention.query.bias")
    mlp_width = reader.size("intermediate_size", tensors, f"{first}.mlp.fc1.weight")
    if not 0 <= width * reader.optional("mlp_ratio", 4.0) - mlp_width < 1:  # rounded down
        reader.fail("mlp_ratio", f"but the weights are of {mlp_width / width:g}")
    registers = 0
    if has_registers:
        registers = reader.size("num_register_tokens", tensors, f"{prefix}{REGISTER_TOKENS}", 1)
    positions = f"{prefix}embeddings.position_embeddings"
    return ViTConfig(
        image_size=reader.image_size("image_size", tensors, positions, patch),
        patch_size=patch,
        width=width,
        depth=reader.depth("num_hidden_layers", tensors, f"{prefix}encoder.layer."),
        heads=reader.heads(width, "num_attention_heads", 12, "vision.heads", WHY),
        mlp_width=mlp_width,
        activation=reader.choice("hidden_act", ACTIVATIONS, "gelu", "vision.activation", WHY),
        eps=reader.get("layer_norm_eps", 1e-6, "vision.eps", WHY),
        layer_scale=True,
        registers=registers,
        positions="patches" if has_registers else "learned",
        antialias=has_registers,
    )
