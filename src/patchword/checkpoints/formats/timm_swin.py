"""timm's Swin Transformers, version 1: config.json and safetensors or .bin.

config.json names an architecture; its norm and activation are in timm's code
(timm/models/swin_transformer.py), and are the same for all.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from patchword.checkpoints.config_reader import ConfigReader, depth, shape_of
from patchword.checkpoints.read import Stored
from patchword.checkpoints.rules import Drop, Rename, Rule
from patchword.checkpoints.timm_config import classes_of, input_size, labels, preprocess, unnamed
from patchword.checkpoints.timm_names import DROPPED
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
# Arguments that are read below, or have no effect outside training; and the value at which others
# change nothing.
KNOWN = {"img_size", "patch_size", "embed_dim", "depths", "num_heads", "window_size", "num_classes"}
KNOWN |= {"mlp_ratio", "weight_init", "strict_img_size", "dynamic_img_size"} | DROPPED
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


def config(tensors: Mapping[str, Stored], files: Mapping[str, Any]) -> ModelConfig:
    """config.json, checked against the tensors."""
    if "config.json" not in files:
        raise CheckpointError(unnamed("swin_tiny_patch4_window7_224"))
    reader = ConfigReader("config.json", files["config.json"])
    arguments = reader.part("model_args")
    arguments.only(KNOWN, NEUTRAL)
    data = reader.part("pretrained_cfg") if "pretrained_cfg" in reader.values else reader
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
    """timm -> patchword, whose names are timm's but for the first norm and the head."""
    assert isinstance(config.vision, SwinConfig)
    modules = {"patch_embed.proj": "patch_embed.proj", "patch_embed.norm": "norm_pre"}
    modules |= {"norm": "norm"} | ({"head.fc": "head"} if config.classes else {})
    for i, count in enumerate(config.vision.stages):
        for block in (f"layers.{i}.blocks.{j}" for j in range(count)):
            for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
                modules[f"{block}.{part}"] = f"{block}.{part}"
            yield Rename(f"{block}.attn.{TABLE}", f"image.{block}.attn.{TABLE}")
            yield Drop(f"{block}.attn.relative_position_index", why="made anew")
            yield Drop(f"{block}.attn_mask", why="made anew")
        if i:
            merging = f"layers.{i}.downsample"
            modules[f"{merging}.norm"] = f"{merging}.norm"
            yield Rename(f"{merging}.reduction.weight", f"image.{merging}.reduction.weight")
    for theirs, ours in modules.items():
        for kind in ("weight", "bias"):
            yield Rename(f"{theirs}.{kind}", f"image.{ours}.{kind}")


def _vision(reader: ConfigReader, data: ConfigReader, tensors: Mapping[str, Stored]) -> SwinConfig:
    patches, first = "patch_embed.proj.weight", "layers.0.blocks.0"
    names = list(tensors)
    stages = tuple(depth(names, f"layers.{i}.blocks.") for i in range(depth(names, "layers.")))
    tables = [f"layers.{i}.blocks.0.attn.{TABLE}" for i in range(len(stages))]
    heads = [shape_of(tensors, table, 2)[1] for table in tables]
    for key, found in (("depths", list(stages)), ("num_heads", heads)):
        value = reader.values.get(key, found)
        each = [value] * len(stages) if key == "num_heads" and isinstance(value, int) else value
        if each != found:
            reader.fail(key, f"but the weights have {found}")
    where, key = reader, "img_size"
    if reader.values.get(key) is None:
        size = input_size(data)
        where, key = ConfigReader("config.json, pretrained_cfg", {"input_size": size}), "input_size"
    if where.values[key] is None:
        raise CheckpointError("config.json states neither img_size nor input_size")
    for name, value in (("activation", "gelu"), ("eps", EPS)):
        reader.assume(f"vision.{name}", value, CODE)
    image_size, patch = where.pair(key), reader.size("patch_size", tensors, patches, -1)
    return SwinConfig(
        image_size=image_size,
        patch_size=patch,
        width=reader.size("embed_dim", tensors, patches),
        heads=heads[0],
        stage_heads=tuple(heads),
        mlp_width=shape_of(tensors, f"{first}.mlp.fc1.weight", 2)[0],
        eps=EPS,
        stages=stages,
        padded="after_shift",
        window=_window(reader, tensors, min(image_size) // patch),
    )


def _window(reader: ConfigReader, tensors: Mapping[str, Stored], side: int) -> int:
    """The window's side: from the config, else from the first stage's table of biases.

    side: of the first stage's grid, patches. A window is cut to its grid, so a table may be smaller
    than the config has it.
    """
    places = shape_of(tensors, f"layers.0.blocks.0.attn.{TABLE}", 2)[0]
    found = (math.isqrt(places) + 1) // 2
    window = reader.optional("window_size", found)
    if min(window, side) != min(found, side):
        reader.fail("window_size", f"but the weights have {found}")
    return window
