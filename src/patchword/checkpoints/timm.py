"""timm's plain Vision Transformers: config.json and safetensors or .bin.

config.json names an architecture; its heads, norm and activation stand in timm's code
(timm/models/vision_transformer.py and deit.py), so the table below repeats them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from patchword.checkpoints.read import Stored
from patchword.checkpoints.rules import Rename, Rule
from patchword.checkpoints.stated import Stated, shape_of
from patchword.config import Activation, ModelConfig, PreprocessConfig, VisionConfig
from patchword.errors import CheckpointError
from patchword.variants import VIT_SIZES

TITLE = "a timm Vision Transformer"
EXPECTS = "config.json with an architecture, tensors patch_embed.*, blocks.* and pos_embed"


@dataclass(frozen=True)
class Architecture:
    """What a name stands for beside the sizes that the tensors state."""

    heads: int
    eps: float = 1e-6  # of timm's LayerNorm
    activation: Activation = "gelu"


HEADS = {**{size: heads for size, (_, _, heads) in VIT_SIZES.items()}, "giant": 16}
PLAIN = {
    "tiny": ("patch16_224", "patch16_384"),
    "small": ("patch32_224", "patch32_384", "patch16_224", "patch16_384", "patch8_224"),
    "base": ("patch32_224", "patch32_384", "patch16_224", "patch16_384", "patch8_224"),
    "large": ("patch32_224", "patch32_384", "patch16_224", "patch16_384", "patch14_224"),
    "huge": ("patch14_224",),
    "giant": ("patch14_224",),
}
CLIP = {
    "base": (
        *("patch32_clip_224", "patch32_clip_256", "patch32_clip_384", "patch32_clip_448"),
        *("patch16_clip_224", "patch16_clip_384"),
    ),
    "large": ("patch14_clip_224", "patch14_clip_336"),
    "huge": ("patch14_clip_224", "patch14_clip_336", "patch14_clip_378"),
}
QUICK = {
    "base": ("patch32_clip_quickgelu_224", "patch16_clip_quickgelu_224"),
    "large": ("patch14_clip_quickgelu_224", "patch14_clip_quickgelu_336"),
    "huge": ("patch14_clip_quickgelu_224", "patch14_clip_quickgelu_378"),
}
DEIT = {"tiny": ("patch16_224",), "small": ("patch16_224",), "base": ("patch16_224", "patch16_384")}


def _named(
    family: str, names: Mapping[str, tuple[str, ...]], *rest: Any
) -> Iterator[tuple[str, Architecture]]:
    for size, kinds in names.items():
        for kind in kinds:
            yield f"{family}_{size}_{kind}", Architecture(HEADS[size], *rest)


ARCHITECTURES = dict(
    [
        *_named("vit", PLAIN),
        *_named("vit", CLIP, 1e-5),
        *_named("vit", QUICK, 1e-5, "quick_gelu"),
        *_named("deit", DEIT),
    ]
)
ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
    "gelu_tanh": "gelu_tanh",
}

# Arguments of the model that are read below, or have no effect outside training.
SIZES = {"img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "num_classes"}
FORM = {"global_pool", "class_token", "pre_norm", "fc_norm", "act_layer", "dynamic_img_size"}
KNOWN = SIZES | FORM | {"drop_rate", "drop_path_rate", "weight_init", "fix_init"}
NEUTRAL = {
    "in_chans": 3,
    "qkv_bias": True,
    "proj_bias": True,
    "qk_norm": False,
    "init_values": None,
    "pos_embed": "learn",
    "no_embed_class": False,
    "reg_tokens": 0,
    "final_norm": True,
    "pool_include_prefix": False,
    "dynamic_img_pad": False,
    "norm_layer": None,
}
POOLS = {"token": "cls", "avg": "avg"}
FILTERS = {"bicubic": "bicubic", "bilinear": "bilinear", "lanczos": "lanczos", "nearest": "nearest"}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # timm/data/constants.py
DEFAULT = "timm's resolve_data_config"


def matches(keys: Collection[str], files: Mapping[str, Any]) -> bool:
    """timm's names of a Vision Transformer."""
    return {"patch_embed.proj.weight", "pos_embed", "blocks.0.attn.qkv.weight"} <= set(keys)


def config(tensors: Mapping[str, Stored], files: Mapping[str, Any]) -> ModelConfig:
    """config.json, checked against the tensors."""
    if "config.json" not in files:
        raise CheckpointError("config.json, which names its architecture, is missing")
    stated = Stated("config.json", files["config.json"])
    name = stated.values.get("architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        stated.fail("architecture", f"which is none of {', '.join(sorted(ARCHITECTURES))}")
    arguments = stated.part("model_args")
    arguments.only(KNOWN, NEUTRAL)
    data = stated.part("pretrained_cfg") if "pretrained_cfg" in stated.values else stated
    size = _input_size(data)
    classes = shape_of(tensors, "head.weight", 2)[0] if "head.weight" in tensors else 0
    for where in (stated, arguments):
        if where.values.get("num_classes") not in (None, classes):
            where.fail("num_classes", f"but the weights have {classes}")
    vision = _vision(stated, arguments, ARCHITECTURES[name], tensors, size)
    return ModelConfig(
        vision=vision,
        preprocess=_preprocess(data, vision.image_size),
        classes=classes,
        labels=_labels(stated, classes),
        source="timm",
        assumed=stated.assumed,
    )


def rules(config: ModelConfig) -> Iterator[Rule]:
    """timm -> patchword, whose names are timm's: only the last norm may be called fc_norm."""
    vision = config.vision
    names = ["pos_embed", "patch_embed.proj.weight", *(["cls_token"] if vision.class_token else [])]
    if vision.patch_bias:
        names.append("patch_embed.proj.bias")
    modules = ["norm_pre"] if vision.pre_norm else []
    modules += ["head"] if config.classes else []
    for i in range(vision.depth):
        parts = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        modules += [f"blocks.{i}.{part}" for part in parts]
    names += [f"{module}.{kind}" for module in modules for kind in ("weight", "bias")]
    for name in names:
        yield Rename(name, f"image.{name}")
    last = "fc_norm" if vision.pool == "avg" else "norm"
    for kind in ("weight", "bias"):
        yield Rename(f"{last}.{kind}", f"image.norm.{kind}")


def _vision(
    stated: Stated,
    arguments: Stated,
    known: Architecture,
    tensors: Mapping[str, Stored],
    size: tuple[int, int] | None,
) -> VisionConfig:
    patches = "patch_embed.proj.weight"
    width = arguments.size("embed_dim", tensors, patches)
    patch = arguments.size("patch_size", tensors, patches, -1)
    place = "in timm's code under this architecture"
    arguments.assume("vision.eps", known.eps, place)
    class_token = "cls_token" in tensors
    where = arguments
    if arguments.values.get("img_size") is None and size is not None:
        where = Stated("config.json, pretrained_cfg", {"input_size": list(size)})
    key = "input_size" if where is not arguments else "img_size"
    return VisionConfig(
        image_size=where.grid(key, tensors, "pos_embed", patch, int(class_token)),
        patch_size=patch,
        width=width,
        depth=arguments.depth("depth", tensors, "blocks."),
        heads=arguments.heads(width, "num_heads", known.heads, "vision.heads", place),
        mlp_width=shape_of(tensors, "blocks.0.mlp.fc1.weight", 2)[0],
        activation=arguments.choice(
            "act_layer", ACTIVATIONS, known.activation, "vision.activation", place
        ),
        eps=known.eps,
        pool=_pool(stated, arguments, tensors),
        class_token=class_token,
        pre_norm="norm_pre.weight" in tensors,
        patch_bias="patch_embed.proj.bias" in tensors,
    )


def _pool(stated: Stated, arguments: Stated, tensors: Mapping[str, Stored]) -> Any:
    """Pooling as stated, and as the name of the last norm has it: fc_norm follows an average."""
    where = arguments if arguments.values.get("global_pool") is not None else stated
    found = "avg" if "fc_norm.weight" in tensors else "cls"
    pool = where.choice("global_pool", POOLS, found, "vision.pool", "fc_norm follows an average")
    if pool != found:
        norm = "fc_norm" if found == "avg" else "norm"
        where.fail("global_pool", f"but the weights have {norm}")
    return pool


def _input_size(data: Stated) -> tuple[int, int] | None:
    """(H, W) of "input_size": [channels, H, W]."""
    value = data.values.get("input_size")
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 3 or value[0] != 3:
        data.fail("input_size", "not 3 channels, a height and a width")
    return Stated(data.where, {"input_size": value[1:]}).pair("input_size")


def _preprocess(data: Stated, size: tuple[int, int]) -> PreprocessConfig:
    """timm's evaluation transform: resize to floor(size / crop_pct), centre crop."""
    crop = data.get("crop_pct", 0.875, "preprocess.crop_pct", DEFAULT)
    modes = {"center": "shortest", "squash": "squash"}
    resize = data.choice("crop_mode", modes, "shortest", "preprocess.resize", DEFAULT)
    if not 0 < crop <= 1:
        data.fail("crop_pct", "not above 0 and at most 1")
    if resize == "squash" and crop != 1:
        data.fail("crop_mode", f"with a crop_pct of {crop}: not supported")
    if resize == "shortest" and size[0] != size[1]:
        data.fail("crop_mode", f"which patchword does not support for {size}", "center")
    return PreprocessConfig(
        size=size,
        resize=resize,
        resize_to=math.floor(min(size) / crop),
        interpolation=data.choice(
            "interpolation", FILTERS, "bicubic", "preprocess.interpolation", DEFAULT
        ),
        crop_rounding="round",
        mean=data.triple("mean", IMAGENET_MEAN, "preprocess.mean", DEFAULT),
        std=data.triple("std", IMAGENET_STD, "preprocess.std", DEFAULT),
    )


def _labels(stated: Stated, classes: int) -> tuple[str, ...]:
    """Names of the classes, described where the file does so; none when they are not as many."""
    names = stated.values.get("label_names") or stated.values.get("labels")
    said = stated.values.get("label_descriptions")
    if isinstance(names, dict):  # by index, with gaps
        names = [names.get(str(i), str(i)) for i in range(classes)]
    if not isinstance(names, list) or len(names) != classes:
        return ()
    words = said if isinstance(said, dict) else {}
    return tuple(str(words.get(str(name), name)) for name in names)
