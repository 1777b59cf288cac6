"""The image towers that open_clip takes from timm (open_clip/timm_model.py): SigLIP's, and plain
Vision Transformers with a linear projection. Their tensors are `visual.trunk.*`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from patchword.checkpoints.config_reader import ConfigReader
from patchword.checkpoints.read import LazyTensor
from patchword.checkpoints.rules import Rename, Rule
from patchword.checkpoints.timm_architectures import ARCHITECTURES
from patchword.checkpoints.timm_names import vit_config, vit_rules
from patchword.config import ViTConfig

TRUNK = "visual.trunk."


def is_timm(vision: ViTConfig) -> bool:
    """Whether a ViT is timm's: open_clip's own has a class token and no bias at the patches."""
    return vision.patch_bias or not vision.class_token


def config(reader: ConfigReader, tensors: Mapping[str, LazyTensor], embed_dim: int) -> ViTConfig:
    """From vision_cfg. Its timm_model_name determines heads, activation and eps; quick_gelu has no
    effect. Raises CheckpointError for another kind of tower, pooling or projection."""
    name = reader.optional("timm_model_name", "")
    known = ARCHITECTURES.get(name)
    if known is None:
        reader.fail("timm_model_name", "which is no Vision Transformer that patchword reads")
    if not any(key.startswith(TRUNK) for key in tensors):
        reader.fail("timm_model_name", f"but the weights have no {TRUNK}*")
    if reader.optional("timm_pool", "avg") not in ("", known.global_pool):
        reader.fail("timm_pool", f"and patchword computes {known.global_pool} alone after {name}")
    _projection(reader, known.global_pool)
    arguments = {"img_size": reader.values.get("image_size", 224), "global_pool": known.global_pool}
    timm_reader = ConfigReader(reader.where, arguments, reader.assumed)
    vision = vit_config(known, timm_reader, tensors, prefix=TRUNK)
    if not is_timm(vision):
        reader.fail("timm_model_name", "which patchword reads under open_clip's own names alone")
    if vision.pool == "map" and vision.width != embed_dim:
        reader.fail("timm_proj", f"but {vision.width} channels are not {embed_dim} (embed_dim)")
    return vision


def rules(vision: ViTConfig) -> Iterator[Rule]:
    """The trunk and, unless it pools by attention, the projection."""
    yield from vit_rules(vision, prefix=TRUNK, may_lack_qkv_bias=True)
    if vision.pool != "map":
        yield Rename("visual.head.proj.weight", "image.head.weight")


def _projection(reader: ConfigReader, pool: str) -> None:
    """Raise CheckpointError unless the projection is linear without bias, or none after attention
    pooling."""
    wanted = "none" if pool == "map" else "linear"
    if reader.values.get("timm_proj", "linear") != wanted:
        reader.fail("timm_proj", f'and patchword computes "{wanted}" alone after pooling by {pool}')
    if reader.optional("timm_proj_bias", False):
        reader.fail("timm_proj_bias", "which patchword does not support")
