"""timm's Vision Transformers, in timm's own files and as image towers of open_clip
(`visual.trunk.*`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from patchword.checkpoints.config_reader import ConfigReader, shape_of
from patchword.checkpoints.read import LazyTensor
from patchword.checkpoints.rules import Fuse, Rename, Rule, ZerosIfMissing, rename_layer
from patchword.checkpoints.timm_architectures import Architecture
from patchword.config import Activation, ViTConfig

PATCHES = "patch_embed.proj"
CODE = "in timm's code under this architecture"  # why a default is taken
ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
    "gelu_tanh": "gelu_tanh",
}
DROP_RATES = {  # arguments for training alone
    "drop_rate", "drop_path_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate",
    "attn_drop_rate",
}  # fmt: skip
POOLS = {"token": "cls", "avg": "avg", "map": "map"}

# Keyword arguments of timm's VisionTransformer that are read below, or have no effect outside
# training; and others with the value that changes nothing.
KNOWN = DROP_RATES | {
    "img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "num_classes",
    "global_pool", "fc_norm", "class_token", "reg_tokens", "no_embed_class", "pre_norm",
    "init_values", "qkv_bias", "qk_norm", "act_layer", "pool_include_prefix",
    "dynamic_img_size", "weight_init", "fix_init",
}  # fmt: skip
NEUTRAL = {
    "in_chans": 3,
    "proj_bias": True,
    "scale_attn_norm": False,
    "scale_mlp_norm": False,
    "pos_embed": "learn",
    "final_norm": True,
    "dynamic_img_pad": False,
    "norm_layer": None,
}

# The tensor that exists if an argument is set.
TENSOR_OF = {
    "class_token": "cls_token",
    "reg_tokens": "reg_token",
    "pre_norm": "norm_pre.weight",
    "init_values": "blocks.0.ls1.gamma",
    "qk_norm": "blocks.0.attn.q_norm.weight",
    "qkv_bias": "blocks.0.attn.qkv.bias",
}


def vit_config(
    known: Architecture,
    arguments: ConfigReader,
    tensors: Mapping[str, LazyTensor],
    image_size: tuple[int, int] | None = None,
    prefix: str = "",
) -> ViTConfig:
    """A tower of the architecture `known`, changed by keyword arguments, checked against tensors.

    image_size: (H, W) in pixels if the arguments have no img_size; None: the square of the
    positions. prefix: of the tensor names. Raises CheckpointError for arguments that contradict the
    tensors, or that patchword does not compute.
    """
    arguments.refuse_others(KNOWN, NEUTRAL)
    _check_tensors(known, arguments, tensors, prefix)
    patches = f"{prefix}{PATCHES}.weight"
    width = arguments.size("embed_dim", tensors, patches)
    patch = arguments.size("patch_size", tensors, patches, -1)
    pool = _pool(known, arguments, tensors, prefix)
    class_token = arguments.optional("class_token", known.class_token)
    registers = arguments.optional("reg_tokens", known.reg_tokens)
    prefix_tokens = int(class_token) + int(pool == "distilled") + registers
    patches_only = prefix_tokens > 0 and arguments.optional("no_embed_class", known.no_embed_class)
    pre_norm = arguments.optional("pre_norm", known.pre_norm)
    arguments.assume("vision.eps", known.eps, CODE)
    size = arguments
    if arguments.values.get("img_size") is None:
        size = ConfigReader("config.json, input_size", {"img_size": image_size})
    other_positions = 0 if patches_only else prefix_tokens
    return ViTConfig(
        image_size=size.image_size(
            "img_size", tensors, f"{prefix}pos_embed", patch, other_positions
        ),
        patch_size=patch,
        width=width,
        depth=arguments.depth("depth", tensors, f"{prefix}blocks."),
        heads=arguments.heads(width, "num_heads", known.num_heads, "vision.heads", CODE),
        mlp_width=shape_of(tensors, f"{prefix}blocks.0.mlp.fc1.weight", 2)[0],
        activation=arguments.choice(
            "act_layer", ACTIVATIONS, known.act_layer, "vision.activation", CODE
        ),
        eps=known.eps,
        pool=pool,
        class_token=class_token,
        registers=registers,
        pre_norm=pre_norm,
        patch_bias=not pre_norm,
        layer_scale=bool(arguments.optional("init_values", known.init_values)),
        qk_norm=arguments.optional("qk_norm", known.qk_norm),
        positions="patches" if patches_only else "learned",
    )


def vit_rules(
    vision: ViTConfig,
    classes: int = 0,
    prefix: str = "",
    may_lack_qkv_bias: bool = False,
) -> Iterator[Rule]:
    """timm -> patchword. The names are the same, but for the last norm and attention pooling.

    classes: 0 without a head. prefix: of the tensor names, with its dot. may_lack_qkv_bias: of
    queries, keys and values; the format has checked that with `vit_config`.
    """
    yield Rename(f"{prefix}{PATCHES}.weight", f"image.{PATCHES}.weight")
    if vision.patch_bias:
        yield Rename(f"{prefix}{PATCHES}.bias", f"image.{PATCHES}.bias")
    for name in _parameters(vision):
        yield Rename(f"{prefix}{name}", f"image.{name}")
    for name in _layers(vision, classes):
        yield from rename_layer(f"{prefix}{name}", f"image.{name}")
    last_norm = "fc_norm" if vision.pool == "avg" else "norm"
    yield from rename_layer(f"{prefix}{last_norm}", "image.norm")
    for i in range(vision.depth):
        weight, bias = rename_layer(f"{prefix}blocks.{i}.attn.qkv", f"image.blocks.{i}.attn.qkv")
        yield weight
        yield ZerosIfMissing(bias) if may_lack_qkv_bias else bias
    if vision.pool == "map":
        pool = f"{prefix}attn_pool"
        yield from rename_layer(f"{pool}.proj", "image.attn_pool.attn.proj")
        for name in ("weight", "bias"):  # kv is twice as large as q
            sources = (f"{pool}.q.{name}", f"{pool}.kv.{name}")
            yield Fuse(sources, f"image.attn_pool.attn.qkv.{name}", shares=(1, 2))


def _check_tensors(
    known: Architecture, arguments: ConfigReader, tensors: Mapping[str, LazyTensor], prefix: str
) -> None:
    """Raise CheckpointError for an argument that contradicts the tensors.

    If only the architecture contradicts them, `match_rules` names the tensors that do not fit. It
    would not name the biases of queries, keys and values, which may be missing.
    """
    for key, name in TENSOR_OF.items():
        value: Any = arguments.optional(key, getattr(known, key))
        is_argument = arguments.values.get(key) is not None
        contradicts = bool(value) != (f"{prefix}{name}" in tensors)
        if contradicts and (is_argument or key == "qkv_bias"):
            reader = arguments if is_argument else ConfigReader("its architecture", {})
            has = "no " if value else ""
            reader.fail(key, f"but the weights have {has}{prefix}{name}", value)


def _pool(
    known: Architecture, arguments: ConfigReader, tensors: Mapping[str, LazyTensor], prefix: str
) -> Any:
    """`ViTConfig.pool`, which also states whether the last norm comes before or after pooling."""
    pool = arguments.choice("global_pool", POOLS, POOLS[known.global_pool], "vision.pool", CODE)
    if known.distilled:
        if pool != "cls":
            arguments.fail("global_pool", "but its two heads read two tokens")
        return "distilled"
    fc_norm = known.fc_norm if known.fc_norm is not None else pool == "avg"
    norm_after = arguments.optional("fc_norm", fc_norm)
    if norm_after and pool != "avg":
        arguments.fail("fc_norm", "which patchword computes for an average alone", True)
    last, other = ("fc_norm", "norm") if norm_after else ("norm", "fc_norm")
    if f"{prefix}{last}.weight" not in tensors and f"{prefix}{other}.weight" in tensors:
        arguments.fail("global_pool", f"but the weights have {other}")
    class_token = arguments.optional("class_token", known.class_token)
    registers = arguments.optional("reg_tokens", known.reg_tokens)
    of_all = arguments.optional("pool_include_prefix", known.pool_include_prefix)
    if pool != "cls" and (class_token or registers) and of_all != (pool == "map"):
        reason = f"which patchword does not compute for {pool}"
        arguments.fail("pool_include_prefix", reason, of_all)
    return "norm_avg" if pool == "avg" and not norm_after else pool


def _parameters(vision: ViTConfig) -> Iterator[str]:
    """Parameters that are not of a layer."""
    yield "pos_embed"
    if vision.class_token:
        yield "cls_token"
    if vision.pool == "distilled":
        yield "dist_token"
    if vision.registers:
        yield "reg_token"
    if vision.pool == "map":
        yield "attn_pool.latent"
    if vision.layer_scale:
        for i in range(vision.depth):
            yield from (f"blocks.{i}.ls1.gamma", f"blocks.{i}.ls2.gamma")


def _layers(vision: ViTConfig, classes: int) -> Iterator[str]:
    """Layers with the same name here and in timm, except the patch embedding and qkv, whose biases
    may be missing."""
    if vision.pre_norm:
        yield "norm_pre"
    parts = ["norm1", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"]
    if vision.qk_norm:
        parts += ["attn.q_norm", "attn.k_norm"]
    for i in range(vision.depth):
        yield from (f"blocks.{i}.{part}" for part in parts)
    if vision.pool == "map":
        yield from ("attn_pool.norm", "attn_pool.mlp.fc1", "attn_pool.mlp.fc2")
    if classes:
        yield "head"
        if vision.pool == "distilled":
            yield "head_dist"
