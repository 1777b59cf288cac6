"""timm's Swin Transformers, version 1: config.json and safetensors or .bin.

config.json names an architecture; its norm and activation are in timm's code
(timm/models/swin_transformer.py), and are the same for all.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from patchword.checkpoints.config_reader import ConfigReader, depth, shape_of
from patchword.checkpoints.read import LazyTensor
from patchword.checkpoints.rules import Drop, Rename, Rule, rename_layer
from patchword.checkpoints.timm_config import (
    classes_of,
    input_size,
    labels,
    preprocess,
    without_config,
)
from patchword.checkpoints.timm_names import DROP_RATES
from patchword.config import ModelConfig, SwinConfig
from patchword.errors import CheckpointError

TITLE = "a timm Swin Transformer"
EXPECTS = "config.json with an architecture swin_*, tensors layers.*.blocks.* and patch_embed.norm"
NAMES = (
    "patch_embed.norm.weight",
    "patch_embed.proj.weight",
    "layers.0.blocks.0.attn.relative_position_bias_table",
)

TABLE = "relative_position_bias_table"
CODE = "in timm's code for every Swin"
EPS = 1e-5
# Keyword arguments that are read below, or have no effect outside training; and others with the
# value that changes nothing.
KNOWN = DROP_RATES | {
    "img_size", "patch_size", "embed_dim", "depths", "num_heads", "window_size", "num_classes",
    "mlp_ratio", "weight_init", "strict_img_size", "dynamic_img_size",
}  # fmt: skip
NEUTRAL = {
    "in_chans": 3,
    "global_pool": "avg",
    "head_dim": None,
    "qkv_bias": True,
    "always_partition": False,
}


def matches(keys: Collection[str], files: Mapping[str, Any]) -> bool:
    """timm's names of a Swin."""
    return {"patch_embed.norm.weight", f"layers.0.blocks.0.attn.{TABLE}"} <= set(keys)


def config(tensors: Mapping[str, LazyTensor], files: Mapping[str, Any]) -> ModelConfig:
    """config.json, checked against the tensors."""
    if "config.json" not in files:
        raise CheckpointError(without_config("swin_tiny_patch4_window7_224"))
    reader = ConfigReader("config.json", files["config.json"])
    arguments = reader.section("model_args")
    arguments.refuse_others(KNOWN, NEUTRAL)
    data = reader.section("pretrained_cfg") if "pretrained_cfg" in reader.values else reader
    classes = classes_of(tensors, "head.fc.weight", reader, arguments)
    vision = _vision(arguments, data, tensors)
    return ModelConfig(
        vision=vision,
        preprocess=preprocess(data, vision.image_size),
        classes=classes,
        labels=labels(reader, classes),
        source="timm",
        assumed=reader.assumed,
    )


def rules(config: ModelConfig) -> Iterator[Rule]:
    """timm -> patchword. The names are the same, but for the first norm and the head."""
    assert isinstance(config.vision, SwinConfig)
    yield from rename_layer("patch_embed.proj", "image.patch_embed.proj")
    yield from rename_layer("patch_embed.norm", "image.norm_pre")
    yield from rename_layer("norm", "image.norm")
    if config.classes:
        yield from rename_layer("head.fc", "image.head")
    for i, count in enumerate(config.vision.stages):
        for j in range(count):
            yield from _block(f"layers.{i}.blocks.{j}")
        if i > 0:
            merging = f"layers.{i}.downsample"
            yield from rename_layer(f"{merging}.norm", f"image.{merging}.norm")
            yield Rename(f"{merging}.reduction.weight", f"image.{merging}.reduction.weight")


def _block(block: str) -> Iterator[Rule]:
    for name in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
        yield from rename_layer(f"{block}.{name}", f"image.{block}.{name}")
    yield Rename(f"{block}.attn.{TABLE}", f"image.{block}.attn.{TABLE}")
    yield Drop(f"{block}.attn.relative_position_index", why="computed from the window's size")
    yield Drop(f"{block}.attn_mask", why="the mask of shifted windows, which is computed")


def _vision(
    reader: ConfigReader, data: ConfigReader, tensors: Mapping[str, LazyTensor]
) -> SwinConfig:
    patches = "patch_embed.proj.weight"
    stages = [depth(tensors, f"layers.{i}.blocks.") for i in range(depth(tensors, "layers."))]
    tables = [f"layers.{i}.blocks.0.attn.{TABLE}" for i in range(len(stages))]
    heads = [shape_of(tensors, table, 2)[1] for table in tables]
    if reader.values.get("depths", stages) != stages:
        reader.fail("depths", f"but the weights have {stages}")
    stated_heads = reader.values.get("num_heads", heads)
    if isinstance(stated_heads, int):  # of each stage
        stated_heads = [stated_heads] * len(stages)
    if stated_heads != heads:
        reader.fail("num_heads", f"but the weights have {heads}")
    reader.assume("vision.activation", "gelu", CODE)
    reader.assume("vision.eps", EPS, CODE)
    image_size = _image_size(reader, data)
    patch = reader.size("patch_size", tensors, patches, -1)
    return SwinConfig(
        image_size=image_size,
        patch_size=patch,
        width=reader.size("embed_dim", tensors, patches),
        heads=heads[0],
        stage_heads=tuple(heads),
        mlp_width=shape_of(tensors, "layers.0.blocks.0.mlp.fc1.weight", 2)[0],
        eps=EPS,
        stages=tuple(stages),
        padded="after_shift",
        window=_window(reader, tensors, min(image_size) // patch),
    )


def _image_size(reader: ConfigReader, data: ConfigReader) -> tuple[int, int]:
    """(H, W) in pixels, from img_size, else from input_size."""
    if reader.values.get("img_size") is not None:
        return reader.pair("img_size")
    size = input_size(data)
    if size is None:
        raise CheckpointError("config.json states neither img_size nor input_size")
    return size


def _window(reader: ConfigReader, tensors: Mapping[str, LazyTensor], side: int) -> int:
    """The side of a window in patches, from the config, else from the first stage's bias table.

    side: of the first stage's grid, in patches. A window is no larger than its grid, so the table
    may be smaller than the config's window.
    """
    offsets = shape_of(tensors, f"layers.0.blocks.0.attn.{TABLE}", 2)[0]  # (2 * window - 1) ** 2
    actual = (math.isqrt(offsets) + 1) // 2
    window = reader.optional("window_size", actual)
    if min(window, side) != min(actual, side):
        reader.fail("window_size", f"but the weights have {actual}")
    return window
