"""The original masked autoencoder of He et al. 2022: a .pth alone, with or without the decoder.

No file states heads, eps, preprocessing or training options. They are taken from the original code:
models_mae.py and main_pretrain.py, and util/datasets.py for the preprocessing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch

from patchword.checkpoints.config_reader import ConfigReader, depth, shape_of
from patchword.checkpoints.read import LazyTensor
from patchword.checkpoints.rules import Rename, Rule, rename_layer
from patchword.checkpoints.timm_names import vit_rules
from patchword.config import MaskedConfig, ModelConfig, PreprocessConfig, ViTConfig
from patchword.errors import CheckpointError
from patchword.variants.base import IMAGENET_MEAN, IMAGENET_STD

TITLE = "an original masked autoencoder"
EXPECTS = "no config.json, tensors patch_embed.*, blocks.*, pos_embed and maybe decoder_*"
NAMES = ("patch_embed.proj.weight", "pos_embed", "cls_token", "blocks.", "decoder_embed.weight")

CODE = "as in the original code"
HEADS = {768: 12, 1024: 16, 1280: 16}  # by width: ViT-B, L and H
DECODER_HEADS = 16
EPS = 1e-6
PATCHES, POSITIONS = "patch_embed.proj.weight", "pos_embed"


def matches(keys: Collection[str], files: Mapping[str, Any]) -> bool:
    """timm's names of a Vision Transformer without a head or layer scale, and no config.json."""
    names = {PATCHES, POSITIONS, "cls_token", "blocks.0.attn.qkv.weight", "blocks.0.attn.qkv.bias"}
    other_models = {"head.weight", "blocks.0.ls1.gamma"}
    if "config.json" in files or other_models & set(keys):
        return False
    return names <= set(keys)


def config(tensors: Mapping[str, LazyTensor], files: Mapping[str, Any]) -> ModelConfig:
    """The config, from the shapes of the tensors and the constants of the original code."""
    _check_positions(tensors)
    reader = ConfigReader("its file", {})
    vision = _vision(reader, tensors)
    size = vision.image_size
    # Above 224 pixels the original code does not crop (util/datasets.py).
    resize_to = size[0] * 256 // 224 if size[0] <= 224 else size[0]
    for name, value in (
        ("preprocess.resize_to", resize_to),
        ("preprocess.interpolation", "bicubic"),
        ("preprocess.mean", IMAGENET_MEAN),
        ("preprocess.std", IMAGENET_STD),
    ):
        reader.assume(name, value, CODE)
    return ModelConfig(
        vision=vision,
        preprocess=PreprocessConfig(
            size=size,
            resize_to=resize_to,
            crop_rounding="round",
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        ),
        masked=_decoder(reader, tensors) if "mask_token" in tensors else None,
        source="mae",
        assumed=reader.assumed,
    )


def rules(config: ModelConfig) -> Iterator[Rule]:
    """The original -> patchword."""
    assert isinstance(config.vision, ViTConfig)
    yield from vit_rules(config.vision)
    if config.masked is None:
        return
    yield Rename("mask_token", "decoder.mask_token")
    yield Rename("decoder_pos_embed", "decoder.pos_embed")
    yield from rename_layer("decoder_embed", "decoder.embed")
    yield from rename_layer("decoder_norm", "decoder.norm")
    yield from rename_layer("decoder_pred", "decoder.head")
    for i in range(config.masked.depth):
        for name in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
            yield from rename_layer(f"decoder_blocks.{i}.{name}", f"decoder.blocks.{i}.{name}")


def _vision(reader: ConfigReader, tensors: Mapping[str, LazyTensor]) -> ViTConfig:
    """The encoder."""
    width, _, _, patch = shape_of(tensors, PATCHES, 4)
    if width not in HEADS:
        known = ", ".join(map(str, HEADS))
        raise CheckpointError(f"{PATCHES} is {width} wide, and the original code has {known}")
    reader.assume("vision.heads", HEADS[width], CODE)
    reader.assume("vision.eps", EPS, CODE)
    reader.assume("vision.activation", "gelu", CODE)
    reader.assume("vision.pool", "cls", f"{CODE} for linear probing (main_linprobe.py)")
    return ViTConfig(
        image_size=reader.image_size("img_size", tensors, POSITIONS, patch),
        patch_size=patch,
        width=width,
        depth=depth(tensors, "blocks."),
        heads=HEADS[width],
        mlp_width=shape_of(tensors, "blocks.0.mlp.fc1.weight", 2)[0],
        eps=EPS,
        positions="sincos",
        antialias=False,
    )


def _decoder(reader: ConfigReader, tensors: Mapping[str, LazyTensor]) -> MaskedConfig:
    """The decoder. No file states whether its targets were normalised; by default they are not."""
    width = shape_of(tensors, "mask_token", 3)[-1]
    if width % DECODER_HEADS:
        raise CheckpointError(f"mask_token is {width} wide, not a multiple of {DECODER_HEADS}")
    masked = MaskedConfig(
        width=width,
        depth=depth(tensors, "decoder_blocks."),
        heads=DECODER_HEADS,
        mlp_width=shape_of(tensors, "decoder_blocks.0.mlp.fc1.weight", 2)[0],
    )
    reader.assume("masked.heads", masked.heads, CODE)
    reader.assume("masked.mask_ratio", masked.mask_ratio, CODE)
    reader.assume("masked.norm_pixels", masked.norm_pixels, f"{CODE} unless --norm_pix_loss")
    return masked


def _check_positions(tensors: Mapping[str, LazyTensor]) -> None:
    """Raise CheckpointError for learned positions, which are those of another ViT: its heads are
    unknown.

    Positions of an MAE are fixed. For the class token they are 0. For the first patch they are the
    sine and cosine of 0: zeros and ones, in quarters of the width.
    """
    width = shape_of(tensors, POSITIONS, 3)[-1]
    expected = torch.zeros(2, width)
    for start in (width // 4, width // 4 * 3):
        expected[1, start : start + width // 4] = 1
    stored = tensors[POSITIONS].read()[0, :2].float()
    if not torch.allclose(stored, expected, atol=1e-3):
        raise CheckpointError(
            "pos_embed is not the fixed sines and cosines of a masked autoencoder, and no "
            "config.json says what this ViT is"
        )
