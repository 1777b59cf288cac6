"""timm's plain Vision Transformers and DeiTs: config.json and safetensors or .bin.

config.json names an architecture, described in timm_architectures.py, and may change its arguments.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from patchword.checkpoints.config_reader import ConfigReader
from patchword.checkpoints.read import Stored
from patchword.checkpoints.rules import Rule
from patchword.checkpoints.timm_architectures import ARCHITECTURES
from patchword.checkpoints.timm_config import classes_of, input_size, labels, preprocess, unnamed
from patchword.checkpoints.timm_names import vit_config, vit_rules
from patchword.config import ModelConfig, ViTConfig
from patchword.errors import CheckpointError

TITLE = "a timm Vision Transformer"
EXPECTS = "config.json with an architecture, tensors patch_embed.*, blocks.* and pos_embed"
NAMES = ("patch_embed.proj.weight", "pos_embed", "blocks.", "head.weight")


def matches(keys: Collection[str], files: Mapping[str, Any]) -> bool:
    """timm's names of a Vision Transformer; without a head and config.json they are an MAE's."""
    names = {"patch_embed.proj.weight", "pos_embed", "blocks.0.attn.qkv.weight"}
    return names <= set(keys) and ("config.json" in files or "head.weight" in keys)


def config(tensors: Mapping[str, Stored], files: Mapping[str, Any]) -> ModelConfig:
    """config.json, checked against the tensors."""
    if "config.json" not in files:
        raise CheckpointError(unnamed())
    reader = ConfigReader("config.json", files["config.json"])
    name = reader.values.get("architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        reader.fail(
            "architecture",
            f"which is none of the {len(ARCHITECTURES)} Vision Transformers of timm that patchword "
            "knows, such as vit_base_patch16_224",
        )
    arguments = reader.part("model_args")
    pool = reader.values.get("global_pool")
    if arguments.values.get("global_pool") is None and pool is not None:
        arguments.values = {**arguments.values, "global_pool": pool}
    data = reader.part("pretrained_cfg") if "pretrained_cfg" in reader.values else reader
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
    return vit_rules(config.vision, config.classes, may_lack_biases=True)
