"""timm's plain Vision Transformers and DeiTs: config.json and safetensors or .bin.

config.json names an architecture, described in timm_architectures.py, and may change its arguments.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from patchword.checkpoints.config_reader import ConfigReader
from patchword.checkpoints.read import LazyTensor
from patchword.checkpoints.rules import Rule
from patchword.checkpoints.timm_architectures import ARCHITECTURES
from patchword.checkpoints.timm_config import (
    classes_of,
    input_size,
    labels,
    preprocess,
    without_config,
)
from patchword.checkpoints.timm_names import vit_config, vit_rules
from patchword.config import ModelConfig, ViTConfig
from patchword.errors import CheckpointError

TITLE = "a timm Vision Transformer"
EXPECTS = "config.json with an architecture, tensors patch_embed.*, blocks.* and pos_embed"
NAMES = ("patch_embed.proj.weight", "pos_embed", "blocks.", "head.weight")


def matches(keys: Collection[str], files: Mapping[str, Any]) -> bool:
    """timm's names of a Vision Transformer, with a head or config.json: without both it is an
    MAE."""
    names = {"patch_embed.proj.weight", "pos_embed", "blocks.0.attn.qkv.weight"}
    return names <= set(keys) and ("config.json" in files or "head.weight" in keys)


def config(tensors: Mapping[str, LazyTensor], files: Mapping[str, Any]) -> ModelConfig:
    """config.json, checked against the tensors."""
    if "config.json" not in files:
        raise CheckpointError(without_config())
    reader = ConfigReader("config.json", files["config.json"])
    name = reader.values.get("architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        reader.fail(
            "architecture",
            f"which is none of the {len(ARCHITECTURES)} Vision Transformers of timm that patchword "
            "knows, such as vit_base_patch16_224",
        )
    arguments = reader.section("model_args")
    if arguments.values.get("global_pool") is None:  # older files have it beside model_args
        arguments.values = {**arguments.values, "global_pool": reader.values.get("global_pool")}
    data = reader.section("pretrained_cfg") if "pretrained_cfg" in reader.values else reader
    classes = classes_of(tensors, "head.weight", reader, arguments)
    vision = vit_config(ARCHITECTURES[name], arguments, tensors, input_size(data))
    return ModelConfig(
        vision=vision,
        preprocess=preprocess(data, vision.image_size),
        classes=classes,
        labels=labels(reader, classes),
        source="timm",
        assumed=reader.assumed,
    )


def rules(config: ModelConfig) -> Iterator[Rule]:
    """timm -> patchword."""
    assert isinstance(config.vision, ViTConfig)
    return vit_rules(config.vision, config.classes, may_lack_qkv_bias=True)
