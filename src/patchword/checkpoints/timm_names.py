"""timm's Vision Transformers, in timm's own files and in the image towers that open_clip takes from
timm (`visual.trunk.*`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from patchword.checkpoints.config_reader import ConfigReader, shape_of
from patchword.checkpoints.read import Stored
from patchword.checkpoints.rules import Fuse, OrZero, Rename, Rule
from patchword.checkpoints.timm_architectures import Architecture
from patchword.config import Activation, ViTConfig

PATCHES = "patch_embed.proj"
CODE = "in timm's code under this architecture"
ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
    "gelu_tanh": "gelu_tanh",
}
# Those that drop something in training.
DROPPED = {f"{part}_rate" for part in ("drop", "drop_path", "pos_drop", "patch_drop")}
DROPPED |= {"proj_drop_rate", "attn_drop_rate"}
POOLS = {"token": "cls", "avg": "avg", "map": "map"}

# Keyword arguments of timm's VisionTransformer that are read below, or have no effect outside
# training; and the values at which others change nothing.
KNOWN = {"img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "num_classes"}
KNOWN |= {"global_pool", "fc_norm", "class_token", "reg_tokens", "no_embed_class", "pre_norm"}
KNOWN |= {"init_values", "qkv_bias", "qk_norm", "act_layer", "pool_include_prefix"}
KNOWN |= {"dynamic_img_size", "weight_init", "fix_init"} | DROPPED
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

# Tensors that exist if an argument is set.
SHOWN_BY = {
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
    tensors: Mapping[str, Stored],
    image_size: tuple[int, int] | None = None,
    theirs: str = "",
) -> ViTConfig:
    """The tower of the architecture `known`, changed by keyword arguments, checked against tensors.

    image_size: (H, W) pixels where the arguments have no img_size; None: by the positions, as a
    square. theirs: the prefix of each tensor's name. Raises CheckpointError for arguments
    that contradict the tensors, or that patchword does not compute.
    """
    arguments.only(KNOWN, NEUTRAL)
    _contradictions(known, arguments, tensors, theirs)
    patches = f"{theirs}{PATCHES}.weight"
    width = arguments.size("embed_dim", tensors, patches)
    patch = arguments.size("patch_size", tensors, patches, -1)
    pool = _pool(known, arguments, tensors, theirs)
    class_token = arguments.optional("class_token", known.class_token)
    registers = arguments.optional("reg_tokens", known.reg_tokens)
    prefix = int(class_token) + int(pool == "distilled") + registers
    apart = prefix > 0 and arguments.optional("no_embed_class", known.no_embed_class)
    arguments.assume("vision.eps", known.eps, CODE)
    size = arguments
    if arguments.values.get("img_size") is None:
        size = ConfigReader("config.json, input_size", {"img_size": image_size})
    return ViTConfig(
        image_size=size.grid(
            "img_size", tensors, f"{theirs}pos_embed", patch, prefix * (not apart)
        ),
        patch_size=patch,
        width=width,
        depth=arguments.depth("depth", tensors, f"{theirs}blocks."),
        heads=arguments.heads(width, "num_heads", known.num_heads, "vision.heads", CODE),
        mlp_width=shape_of(tensors, f"{theirs}blocks.0.mlp.fc1.weight", 2)[0],
        activation=arguments.choice(
            "act_layer", ACTIVATIONS, known.act_layer, "vision.activation", CODE
        ),
        eps=known.eps,
        pool=pool,
        class_token=class_token,
        registers=registers,
        pre_norm=arguments.optional("pre_norm", known.pre_norm),
        patch_bias=not arguments.optional("pre_norm", known.pre_norm),
        layer_scale=bool(arguments.optional("init_values", known.init_values)),
        qk_norm=arguments.optional("qk_norm", known.qk_norm),
        positions="patches" if apart else "learned",
    )


def vit_rules(
    vision: ViTConfig,
    classes: int = 0,
    theirs: str = "",
    may_lack_biases: bool = False,
) -> Iterator[Rule]:
    """timm -> patchword, whose names are timm's but for the last norm and the query of "map".

    theirs: the prefix of each name, its dot included. classes: 0 without a head.
    may_lack_biases: of queries, keys and values, all of them; for formats whose `config` has found
    that this is so, as `vit_config` does.
    """
    last = "fc_norm" if vision.pool == "avg" else "norm"
    modules = {module: module for module in _modules(vision, classes)} | {last: "norm"}
    if vision.pool == "map":
        modules["attn_pool.proj"] = "attn_pool.attn.proj"
        for kind in ("weight", "bias"):
            apart = (f"{theirs}attn_pool.q.{kind}", f"{theirs}attn_pool.kv.{kind}")
            yield Fuse(apart, f"image.attn_pool.attn.qkv.{kind}", shares=(1, 2))
    for module, name in modules.items():
        yield Rename(f"{theirs}{module}.weight", f"image.{name}.weight")
        if module != PATCHES or vision.patch_bias:
            yield Rename(f"{theirs}{module}.bias", f"image.{name}.bias")
    for name in _parameters(vision):
        yield Rename(f"{theirs}{name}", f"image.{name}")
    for name in (f"blocks.{i}.attn.qkv" for i in range(vision.depth)):
        yield Rename(f"{theirs}{name}.weight", f"image.{name}.weight")
        bias = Rename(f"{theirs}{name}.bias", f"image.{name}.bias")
        yield OrZero(bias) if may_lack_biases else bias


def _contradictions(
    known: Architecture, arguments: ConfigReader, tensors: Mapping[str, Stored], theirs: str
) -> None:
    """Raise CheckpointError for an argument that contradicts the tensors.

    Where only the architecture's name contradicts them, the tensors that do not fit are named
    later, except biases, which may be absent.
    """
    for key, name in SHOWN_BY.items():
        value: Any = arguments.optional(key, getattr(known, key))
        given = arguments.values.get(key) is not None
        if bool(value) != (f"{theirs}{name}" in tensors) and (given or key == "qkv_bias"):
            where = arguments if given else ConfigReader("its architecture", {})
            has = "no " if value else ""
            where.fail(key, f"but the weights have {has}{theirs}{name}", value)


def _pool(
    known: Architecture, arguments: ConfigReader, tensors: Mapping[str, Stored], theirs: str
) -> Any:
    """The pooling; its name includes whether the last norm is before or after it."""
    pool = arguments.choice("global_pool", POOLS, POOLS[known.global_pool], "vision.pool", CODE)
    if known.distilled:
        if pool != "cls":
            arguments.fail("global_pool", "but its two heads read two tokens")
        return "distilled"
    after = arguments.optional("fc_norm", pool == "avg" if known.fc_norm is None else known.fc_norm)
    if after and pool != "avg":
        arguments.fail("fc_norm", "which patchword computes for an average alone", True)
    last, other = ("fc_norm", "norm") if after else ("norm", "fc_norm")
    if f"{theirs}{last}.weight" not in tensors and f"{theirs}{other}.weight" in tensors:
        arguments.fail("global_pool", f"but the weights have {other}")
    prefix = [arguments.optional(k, getattr(known, k)) for k in ("class_token", "reg_tokens")]
    whole = arguments.optional("pool_include_prefix", known.pool_include_prefix)
    if pool != "cls" and any(prefix) and whole != (pool == "map"):
        arguments.fail("pool_include_prefix", f"which patchword does not compute for {pool}", whole)
    return "norm_avg" if pool == "avg" and not after else pool


def _parameters(vision: ViTConfig) -> Iterator[str]:
    """Parameters outside of modules with a weight and a bias."""
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


def _modules(vision: ViTConfig, classes: int) -> Iterator[str]:
    """Modules with a weight and a bias that have the same name on both sides."""
    yield PATCHES
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
