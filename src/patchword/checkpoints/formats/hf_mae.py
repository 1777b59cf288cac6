"""Hugging Face's masked autoencoders: ViTMAEForPreTraining, and ViTMAEModel, its encoder alone.

Defaults are those of transformers' ViTMAEConfig and ViTImageProcessor.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from patchword.checkpoints.config_reader import ConfigReader
from patchword.checkpoints.huggingface import ACTIVATIONS, config_file, model_type, vit_layer
from patchword.checkpoints.image_processors import VIT, preprocess
from patchword.checkpoints.read import LazyTensor
from patchword.checkpoints.rules import Either, Rename, Rule, rename_layer
from patchword.config import MaskedConfig, ModelConfig, ViTConfig

TITLE = "a Hugging Face ViTMAE"
EXPECTS = "config.json with model_type 'vit_mae', tensors vit.encoder.layer.* and decoder.*"
NAMES = ("vit.embeddings.patch_embeddings.projection.weight", "decoder.decoder_pred.weight")

WHY = "transformers' ViTMAEConfig default"
PATCHES = "embeddings.patch_embeddings.projection"
HEAD = "decoder.decoder_pred"
# The decoder's blocks in the checkpoints of the hub, and in those that transformers 5 saves.
BLOCKS, NEW_BLOCKS = "decoder.decoder_layers", "decoder.decoder_encoder.layer"


def matches(keys: Collection[str], files: Mapping[str, Any]) -> bool:
    """The patch embedding under Hugging Face's name, and its type."""
    names = {f"{PATCHES}.weight", f"vit.{PATCHES}.weight"}
    return model_type(files) == "vit_mae" and bool(names & set(keys))


def config(tensors: Mapping[str, LazyTensor], files: Mapping[str, Any]) -> ModelConfig:
    """config.json and preprocessor_config.json, checked against the tensors."""
    reader = config_file(files, "vit_mae")
    if not reader.optional("qkv_bias", True):
        reader.fail("qkv_bias", "which patchword does not support for a masked autoencoder")
    has_decoder = f"{HEAD}.weight" in tensors
    vision = _vision(reader, tensors, "vit." if has_decoder else "")
    return ModelConfig(
        vision=vision,
        preprocess=preprocess(files, vision.image_size, reader.assumed, VIT),
        masked=_decoder(reader, tensors) if has_decoder else None,
        source="huggingface",
        assumed=reader.assumed,
    )


def rules(config: ModelConfig) -> Iterator[Rule]:
    """ViTMAEForPreTraining, or without `config.masked` ViTMAEModel -> patchword."""
    assert isinstance(config.vision, ViTConfig)
    prefix = "vit." if config.masked else ""
    yield Rename(f"{prefix}embeddings.cls_token", "image.cls_token")
    yield Rename(f"{prefix}embeddings.position_embeddings", "image.pos_embed")
    yield from rename_layer(f"{prefix}{PATCHES}", "image.patch_embed.proj")
    yield from rename_layer(f"{prefix}layernorm", "image.norm")
    for i in range(config.vision.depth):
        yield from vit_layer(f"{prefix}encoder.layer.{i}", f"image.blocks.{i}")
    if config.masked:
        yield from _decoder_rules(config.masked.depth)


def _decoder_rules(depth: int) -> Iterator[Rule]:
    yield Rename("decoder.mask_token", "decoder.mask_token")
    yield Rename("decoder.decoder_pos_embed", "decoder.pos_embed")
    yield from rename_layer("decoder.decoder_embed", "decoder.embed")
    yield from rename_layer("decoder.decoder_norm", "decoder.norm")
    yield from rename_layer(HEAD, "decoder.head")
    for i in range(depth):
        target = f"decoder.blocks.{i}"
        block = vit_layer(f"{BLOCKS}.{i}", target)
        new_block = vit_layer(f"{NEW_BLOCKS}.{i}", target)
        for rule, other in zip(block, new_block, strict=True):
            yield Either(rule, other)


def _vision(reader: ConfigReader, tensors: Mapping[str, LazyTensor], prefix: str) -> ViTConfig:
    """The encoder; prefix: of its tensor names."""
    patches = f"{prefix}{PATCHES}.weight"
    reader.size("num_channels", tensors, patches, 1)
    width = reader.size("hidden_size", tensors, patches)
    patch = reader.size("patch_size", tensors, patches, -1)
    fc1 = f"{prefix}encoder.layer.0.intermediate.dense.weight"
    positions = f"{prefix}embeddings.position_embeddings"
    return ViTConfig(
        image_size=reader.image_size("image_size", tensors, positions, patch),
        patch_size=patch,
        width=width,
        depth=reader.depth("num_hidden_layers", tensors, f"{prefix}encoder.layer."),
        heads=reader.heads(width, "num_attention_heads", 12, "vision.heads", WHY),
        mlp_width=reader.size("intermediate_size", tensors, fc1),
        activation=reader.choice("hidden_act", ACTIVATIONS, "gelu", "vision.activation", WHY),
        eps=reader.get("layer_norm_eps", 1e-12, "vision.eps", WHY),
        positions="sincos",
        antialias=False,
    )


def _decoder(reader: ConfigReader, tensors: Mapping[str, LazyTensor]) -> MaskedConfig:
    """The decoder."""
    width = reader.size("decoder_hidden_size", tensors, f"{HEAD}.weight", 1)
    blocks = BLOCKS if f"{BLOCKS}.0.layernorm_before.weight" in tensors else NEW_BLOCKS
    fc1 = f"{blocks}.0.intermediate.dense.weight"
    heads = "decoder_num_attention_heads"
    return MaskedConfig(
        width=width,
        depth=reader.depth("decoder_num_hidden_layers", tensors, f"{blocks}."),
        heads=reader.heads(width, heads, 16, "masked.heads", WHY),
        mlp_width=reader.size("decoder_intermediate_size", tensors, fc1),
        mask_ratio=reader.get("mask_ratio", 0.75, "masked.mask_ratio", WHY),
        norm_pixels=reader.get("norm_pix_loss", False, "masked.norm_pixels", WHY),
    )
