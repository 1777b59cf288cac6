"""What all timm formats read from config.json: input size, preprocessing, names of classes."""

from __future__ import annotations

import math
from collections.abc import Mapping

from patchword.checkpoints.config_reader import ConfigReader, shape_of
from patchword.checkpoints.read import LazyTensor
from patchword.config import PreprocessConfig
from patchword.variants.base import IMAGENET_MEAN, IMAGENET_STD

FILTERS = {"bicubic": "bicubic", "bilinear": "bilinear", "lanczos": "lanczos", "nearest": "nearest"}
DEFAULT = "timm's resolve_data_config"
EXAMPLE = '"pretrained_cfg": {"input_size": [3, 224, 224], "mean": [...], "std": [...]}'


def without_config(architecture: str = "vit_base_patch16_224") -> str:
    """The advice for a checkpoint without config.json."""
    return (
        "config.json, which names its architecture, is missing: timm.models.save_for_hf(model, "
        f'folder) writes it, or write {{"architecture": "{architecture}", {EXAMPLE}}} yourself'
    )


def input_size(data: ConfigReader) -> tuple[int, int] | None:
    """(H, W) of "input_size": [channels, H, W]; None without it."""
    value = data.values.get("input_size")
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 3 or value[0] != 3:
        data.fail("input_size", "not 3 channels, a height and a width")
    return ConfigReader(data.where, {"input_size": value[1:]}).pair("input_size")


def classes_of(tensors: Mapping[str, LazyTensor], head: str, *readers: ConfigReader) -> int:
    """The number of classes: rows of the tensor `head`; 0 without it. Raises CheckpointError if a
    part of config.json states another number."""
    classes = shape_of(tensors, head, 2)[0] if head in tensors else 0
    for reader in readers:
        if reader.values.get("num_classes") not in (None, classes):
            reader.fail("num_classes", f"but the weights have {classes}")
    return classes


def preprocess(data: ConfigReader, size: tuple[int, int]) -> PreprocessConfig:
    """timm's evaluation transform: resize or squash to floor(size / crop_pct), then crop the
    centre."""
    crop = data.get("crop_pct", 0.875, "preprocess.crop_pct", DEFAULT)
    modes = {"center": "shortest", "squash": "squash"}
    resize = data.choice("crop_mode", modes, "shortest", "preprocess.resize", DEFAULT)
    if not 0 < crop <= 1:
        data.fail("crop_pct", "not above 0 and at most 1")
    if resize == "squash" and crop != 1:
        resize = "square"
    if resize != "squash" and size[0] != size[1]:
        mode = data.values.get("crop_mode") or "center"
        data.fail("crop_mode", f"which patchword does not support for {size}", mode)
    return PreprocessConfig(
        size=size,
        resize=resize,
        resize_to=math.floor(min(size) / crop),
        interpolation=data.choice(
            "interpolation", FILTERS, "bicubic", "preprocess.interpolation", DEFAULT
        ),
        crop_rounding="round",
        mean=data.rgb("mean", IMAGENET_MEAN, "preprocess.mean", DEFAULT),
        std=data.rgb("std", IMAGENET_STD, "preprocess.std", DEFAULT),
    )


def labels(reader: ConfigReader, classes: int) -> tuple[str, ...]:
    """Names of the classes, or their descriptions if the file has them; none if their number is
    another."""
    names = reader.values.get("label_names") or reader.values.get("labels")
    if isinstance(names, dict):  # by index, with gaps
        names = [names.get(str(i), str(i)) for i in range(classes)]
    if not isinstance(names, list) or len(names) != classes:
        return ()
    descriptions = reader.values.get("label_descriptions")
    if not isinstance(descriptions, dict):
        descriptions = {}
    return tuple(str(descriptions.get(str(name), name)) for name in names)
