"""Hugging Face's masked autoencoders: ViTMAEForPreTraining, and ViTMAEModel, its encoder alone.

Defaults are those of transformers' ViTMAEConfig and ViTImageProcessor.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from patchword.checkpoints.config_reader import ConfigReader
from patchword.checkpoints.huggingface import ACTIVATIONS, config_file, model_type, vit_layer
from patchword.checkpoints.image_processors import VIT, preprocess
from patchword.checkpoints.read import Stored
from patchword.checkpoints.rules import Either, Rename, Rule
from patchword.config import MaskedConfig, ModelConfig, ViTConfig

TITLE = "a Hugging Face ViTMAE"
EXPECTS = "config.json with model_type 'vit_mae', tensors vit.encoder.layer.* and decoder.*"
NAMES = ("vit.embeddings.patch_embeddings.projection.weight", "decoder.decoder_pred.weight")

WHY = "transformers' ViTMAEConfig default"
PATCHES = "embeddings.patch_embeddings.projection"
HEAD = "decoder.decoder_pred"
# Of the decoder's blocks: as the checkpoints of the hub have it, and as transformers 5 saves it.
BLOCKS, BLOCKS_5 = "decoder.decoder_layers", "decoder.decoder_encoder.layer"


def matches(keys: Collection[str], files: Mapping[str, Any]) -> bool:
    """The patch embedding under Hugging Face's name, and its type."""
    names = {f"{PATCHES}.weight", f"vit.{PATCHES}.weight"}
    return model_type(files) == "vit_mae" and bool(names & set(keys))


def config(tensors: Mapping[str, Stored], files: Mapping[str, Any]) -> ModelConfig:
    """config.json and preprocessor_config.json, checked against the tensors."""
    reader = config_file(files, "vit_mae")
    if not reader.optional("qkv_bias", True):
        reader.fail("qkv_bias", "which patchword does not support for a masked autoencoder")
    whole = f"{HEAD}.weight" in tensors
    vision = _vision(reader, tensors, "vit." if whole else "")
    return ModelConfig(
        vision=vision,
        preprocess=preprocess(files, vision.image_size, reader.assumed, VIT),
        masked=_masked(reader, tensors) if whole else None,
        source="huggingface",
        assumed=reader.assumed,
    )


def rules(config: ModelConfig) -> Iterator[Rule]:
    """ViTMAEForPreTraining, or without `config.masked` ViTMAEModel -> patchword."""
    assert isinstance(config.vision, ViTConfig)
    whole = "vit." if config.masked else ""
    yield Rename(f"{whole}embeddings.cls_token", "image.cls_token")
    yield Rename(f"{whole}embeddings.position_embeddings", "image.pos_embed")
    if config.masked:
        yield Rename("decoder.mask_token", "decoder.mask_token")
        yield Rename("decoder.decoder_pos_embed", "decoder.pos_embed")
    for kind in ("weight", "bias"):
        yield Rename(f"{whole}{PATCHES}.{kind}", f"image.patch_embed.proj.{kind}")
        yield Rename(f"{whole}layernorm.{kind}", f"image.norm.{kind}")
        for i in range(config.vision.depth):
            yield from vit_layer(f"{whole}encoder.layer.{i}", f"image.blocks.{i}", kind)
        if config.masked:
            yield Rename(f"decoder.decoder_embed.{kind}", f"decoder.embed.{kind}")
            yield Rename(f"decoder.decoder_norm.{kind}", f"decoder.norm.{kind}")
            yield Rename(f"{HEAD}.{kind}", f"decoder.head.{kind}")
            for i in range(config.masked.depth):
                ours = f"decoder.blocks.{i}"
                now = vit_layer(f"{BLOCKS_5}.{i}", ours, kind)
                for rule, other in zip(vit_layer(f"{BLOCKS}.{i}", ours, kind), now, strict=True):
                    yield Either(rule, other)


def _vision(reader: ConfigReader, tensors: Mapping[str, Stored], whole: str) -> ViTConfig:
    """The encoder; whole: the prefix of its names."""
    patches = f"{whole}{PATCHES}.weight"
    reader.size("num_channels", tensors, patches, 1)
    width = reader.size("hidden_size", tensors, patches)
    patch = reader.size("patch_size", tensors, patches, -1)
    mlp = f"{whole}encoder.layer.0.intermediate.dense.weight"
    positions = f"{whole}embeddings.position_embeddings"
    return ViTConfig(
        image_size=reader.grid("image_size", tensors, positions, patch),
        patch_size=patch,
        width=width,
        depth=reader.depth("num_hidden_layers", tensors, f"{whole}encoder.layer."),
        heads=reader.heads(width, "num_attention_heads", 12, "vision.heads", WHY),
        mlp_width=reader.size("intermediate_size", tensors, mlp),
        activation=reader.choice("hidden_act", ACTIVATIONS, "gelu", "vision.activation", WHY),
        eps=reader.get("layer_norm_eps", 1e-12, "vision.eps", WHY),
        positions="sincos",
        antialias=False,
    )


def _masked(reader: ConfigReader, tensors: Mapping[str, Stored]) -> MaskedConfig:
    """The decoder."""
    width = reader.size("decoder_hidden_size", tensors, f"{HEAD}.weight", 1)
    blocks = BLOCKS if f"{BLOCKS}.0.layernorm_before.weight" in tensors else BLOCKS_5
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
