"""What the formats of Hugging Face's transformers share: configurations, image processors, layers.

Each format says which image processor its models have where no file names one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from patchword.checkpoints.config_reader import ConfigReader
from patchword.checkpoints.rules import Fuse, Rename, Rule
from patchword.config import ModelConfig, PreprocessConfig
from patchword.errors import CheckpointError, CheckpointWarning, warn

CONFIG_FILE = "config.json"

ACTIVATIONS = {  # transformers.activations.ACT2FN
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
# What transformers 5 calls in memory, and in its state_dict(), otherwise than in its files.
PARTS_IN_MEMORY = {
    "attention.o_proj.": "attention.output.dense.",
    "mlp.fc1.": "intermediate.dense.",
    "mlp.fc2.": "output.dense.",
}
SWIN_IN_MEMORY = {
    "attention.q_proj.": "attention.self.query.",
    "attention.k_proj.": "attention.self.key.",
    "attention.v_proj.": "attention.self.value.",
    "attention.relative_position_bias.": "attention.self.",
    **PARTS_IN_MEMORY,
}
VIT_IN_MEMORY = {
    "attention.q_proj.": "attention.attention.query.",
    "attention.k_proj.": "attention.attention.key.",
    "attention.v_proj.": "attention.attention.value.",
    **PARTS_IN_MEMORY,
}
IN_MEMORY = {"vit": VIT_IN_MEMORY, "deit": VIT_IN_MEMORY, "vit_mae": VIT_IN_MEMORY}
IN_MEMORY |= {"swin": SWIN_IN_MEMORY}
LAYERS = re.compile(r"(^|\.)layers\.(\d+)\.")

# `ModelConfig.source` of a classifier that was saved without its head (num_labels 0): its tower
# carries the prefix that a tower alone does not.
HEADLESS = "huggingface, a classifier without head"

RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # PIL.Image.Resampling
HALF = (0.5, 0.5, 0.5)  # mean, and std, of most image processors


@dataclass(frozen=True)
class Processor:
    """An image processor class of transformers and the defaults of its code.

    square: a size that is one number is both sides, not the shorter one. size: pixels; None stands
    for the network's.
    """

    name: str
    square: bool = False
    crop: bool = True
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = PreprocessConfig().mean
    std: tuple[float, float, float] = PreprocessConfig().std
    size: int | None = None

    @property
    def default(self) -> str:
        """Where its defaults come from, for `ModelConfig.assumed`."""
        return f"transformers' {self.name} default"


CLIP = Processor("CLIPImageProcessor")
CHINESE_CLIP = Processor("ChineseCLIPImageProcessor")
BIT = Processor("BitImageProcessor")
BLIP = Processor("BlipImageProcessor", True, False)
SIGLIP = Processor("SiglipImageProcessor", True, False, "bicubic", HALF, HALF)
VIT = Processor("ViTImageProcessor", True, False, "bilinear", HALF, HALF)
DEIT = Processor("DeiTImageProcessor", True, True, "bicubic", HALF, HALF, 256)
FIXED = {p.name: p for p in (CLIP, CHINESE_CLIP, BIT, BLIP, SIGLIP, VIT, DEIT)}
SIGLIP2 = Processor("Siglip2ImageProcessor", True, False, "bilinear", HALF, HALF)
IN_PATCHES = {SIGLIP2.name: SIGLIP2}


def as_saved(names: Collection[str], files: Mapping[str, Any]) -> dict[str, str]:
    """Each name of a ViT, DeiT, MAE or Swin, and what `save_pretrained` calls it: accelerate,
    DeepSpeed and Lightning write the state dict, with the names of transformers 5 in memory."""
    kind = model_type(files)
    parts = IN_MEMORY.get(kind, {})
    if not parts or not any(".attention.k_proj." in name for name in names):
        return {name: name for name in names}
    saved = {}
    for name in names:
        found = name if kind == "swin" else LAYERS.sub(r"\1encoder.layer.\2.", name)
        for part, other in parts.items():
            found = found.replace(f".{part}", f".{other}")
        saved[name] = found
    return saved


def model_type(files: Mapping[str, Any]) -> str:
    """ "model_type" of config.json, "" where there is none."""
    content = files.get(CONFIG_FILE)
    return str(content.get("model_type", "")) if isinstance(content, dict) else ""


@contextmanager
def quantised_named(files: Mapping[str, Any]) -> Iterator[None]:
    """Names the quantisation that config.json states in a CheckpointError that is raised
    meanwhile: quantised weights have other shapes, and more tensors."""
    try:
        yield
    except CheckpointError as error:
        content = files.get(CONFIG_FILE)
        stated = content.get("quantization_config") if isinstance(content, dict) else None
        if not isinstance(stated, dict):
            raise
        raise CheckpointError(
            f"{error}\n  {CONFIG_FILE} says that the weights are quantised, by "
            f"{stated.get('quant_method')!r}: in transformers, dequantize() the model and "
            "save_pretrained() it again"
        ) from error


def config_file(files: Mapping[str, Any], *types: str) -> ConfigReader:
    """config.json, whose model_type must be one of `types`."""
    if CONFIG_FILE not in files:
        raise CheckpointError("config.json, with its heads and activation, is missing")
    reader = ConfigReader(CONFIG_FILE, files[CONFIG_FILE])
    if reader.values.get("model_type") not in types:
        known = " or ".join(f'"{name}"' for name in types)
        reader.fail("model_type", f"and only {known} has these tensors")
    return reader


def tower(reader: ConfigReader, key: str) -> ConfigReader:
    """The object of one tower. In old files it is also under `key`_dict, which is then used."""
    return reader.part(f"{key}_dict" if reader.values.get(f"{key}_dict") is not None else key)


def prefixed(config: ModelConfig) -> bool:
    """Whether the tensors of an image tower carry the prefix that they have in a classifier."""
    return config.classes > 0 or config.source == HEADLESS


def labels(reader: ConfigReader, classes: int) -> tuple[str, ...]:
    """Names of the classes from id2label; none when they are not as many, or only numbered."""
    names = reader.values.get("id2label")
    if not isinstance(names, dict) or len(names) != classes:
        return ()
    words = tuple(str(names.get(str(i), f"LABEL_{i}")) for i in range(classes))
    return () if words == tuple(f"LABEL_{i}" for i in range(classes)) else words


def class_score(reader: ConfigReader, classes: int) -> Literal["softmax", "sigmoid"]:
    """How a classifier's outputs become probabilities, as in transformers' pipeline. Raises
    CheckpointError for one that gives no classes but numbers."""
    kind = reader.optional("problem_type", "")
    if classes and kind == "regression":
        reader.fail("problem_type", "whose outputs are no classes, and patchword knows no others")
    several = kind == "multi_label_classification" or classes == 1
    return "sigmoid" if classes and several else "softmax"


def layer(theirs: str, ours: str, kind: str) -> Iterator[Rule]:
    """One Transformer block of CLIP or SigLIP; kind: "weight" or "bias"."""
    qkv = tuple(f"{theirs}.self_attn.{part}_proj.{kind}" for part in "qkv")
    yield Fuse(qkv, f"{ours}.attn.qkv.{kind}")
    yield Rename(f"{theirs}.self_attn.out_proj.{kind}", f"{ours}.attn.proj.{kind}")
    yield Rename(f"{theirs}.layer_norm1.{kind}", f"{ours}.norm1.{kind}")
    yield Rename(f"{theirs}.layer_norm2.{kind}", f"{ours}.norm2.{kind}")
    yield Rename(f"{theirs}.mlp.fc1.{kind}", f"{ours}.mlp.fc1.{kind}")
    yield Rename(f"{theirs}.mlp.fc2.{kind}", f"{ours}.mlp.fc2.{kind}")


def vit_layer(theirs: str, ours: str, kind: str) -> Iterator[Fuse | Rename]:
    """One Transformer block of ViT, DeiT or MAE; kind: "weight" or "bias"."""
    attention = f"{theirs}.attention"
    qkv = tuple(f"{attention}.attention.{part}.{kind}" for part in ("query", "key", "value"))
    yield Fuse(qkv, f"{ours}.attn.qkv.{kind}")
    yield Rename(f"{attention}.output.dense.{kind}", f"{ours}.attn.proj.{kind}")
    yield Rename(f"{theirs}.layernorm_before.{kind}", f"{ours}.norm1.{kind}")
    yield Rename(f"{theirs}.layernorm_after.{kind}", f"{ours}.norm2.{kind}")
    yield Rename(f"{theirs}.intermediate.dense.{kind}", f"{ours}.mlp.fc1.{kind}")
    yield Rename(f"{theirs}.output.dense.{kind}", f"{ours}.mlp.fc2.{kind}")


def preprocess(
    files: Mapping[str, Any],
    image_size: tuple[int, int],
    assumed: dict[str, str],
    processor: Processor,
) -> PreprocessConfig:
    """preprocessor_config.json, or processor_config.json as transformers 5 writes it.

    processor: of models of this kind, where no file names another one.
    """
    reader = _image_processor(files, assumed)
    processor = _named(reader, files, processor, FIXED)
    sides = image_size if processor.size is None else (processor.size, processor.size)
    square = processor.square or sides[0] != sides[1]
    size = _sides(reader, "size", sides if square else sides[0])
    if not reader.optional("do_resize", True):
        reader.fail("do_resize", "but without resizing photos of different sizes make no batch")
    squash = isinstance(size, tuple)
    crop: int | tuple[int, int] = size
    if reader.optional("do_center_crop", processor.crop):
        crop = _sides(reader, "crop_size", image_size)
    elif not squash:
        reader.fail("do_center_crop", "so that the network would get photos of different shapes")
    final = crop if isinstance(crop, tuple) else (crop, crop)
    resize: Literal["shortest", "square", "squash"] = "squash" if squash else "shortest"
    if isinstance(size, tuple) and size != final:
        if size[0] != size[1] or final[0] != final[1]:
            reader.fail("crop_size", f"a crop from photos squashed to {size}: not supported")
        resize = "square"
    if final != image_size:
        reader.fail("crop_size", f"but the network takes {image_size}", final)
    return PreprocessConfig(
        size=final,
        resize=resize,
        resize_to=min(size) if isinstance(size, tuple) else size,
        interpolation=_interpolation(reader, processor),
        crop_rounding="floor",
        **_levels(reader, processor),
    )


def in_patches(
    files: Mapping[str, Any],
    image_size: tuple[int, int],
    patch_size: int,
    assumed: dict[str, str],
) -> PreprocessConfig:
    """The same for a processor that keeps each image's shape: at most `max_num_patches` patches."""
    reader = _image_processor(files, assumed)
    processor = _named(reader, files, SIGLIP2, IN_PATCHES)
    if not reader.optional("do_resize", True):
        reader.fail("do_resize", "so that the network would get photos of parts of patches")
    default = processor.default
    stated_patch = reader.get("patch_size", patch_size, "preprocess.patch_size", "the network's")
    if stated_patch != patch_size:
        reader.fail("patch_size", f"but the network's are of {patch_size} pixels")
    most = reader.get("max_num_patches", 256, "preprocess.max_patches", default)
    if most < 1:
        reader.fail("max_num_patches", "which leaves no patches")
    return PreprocessConfig(
        size=image_size,
        resize="patches",
        resize_to=min(image_size),
        interpolation=_interpolation(reader, processor),
        max_patches=most,
        patch_size=patch_size,
        **_levels(reader, processor),
    )


def _image_processor(files: Mapping[str, Any], assumed: dict[str, str]) -> ConfigReader:
    """The content of the image processor's file, of transformers 4 or 5. Where there are both,
    that of 5 counts if an image processor is in it, as in transformers."""
    whole = ConfigReader("processor_config.json", files.get("processor_config.json", {}), assumed)
    if whole.values.get("image_processor") is None and "preprocessor_config.json" in files:
        return ConfigReader("preprocessor_config.json", files["preprocessor_config.json"], assumed)
    return whole.part("image_processor")


def _named(
    reader: ConfigReader,
    files: Mapping[str, Any],
    usual: Processor,
    known: Mapping[str, Processor],
) -> Processor:
    """The image processor that the file names, or an old one as a feature extractor, or
    config.json does, as in transformers' AutoImageProcessor; else the usual one. One that is not
    among the `known` is told in a CheckpointWarning, and read as the usual one."""
    config = files.get(CONFIG_FILE)
    both = (reader.values, config if isinstance(config, dict) else {})
    stated = both[0].get("image_processor_type") or both[0].get("feature_extractor_type")
    stated = stated or both[1].get("image_processor_type")
    if not isinstance(stated, str):
        return usual
    name = stated.replace("FeatureExtractor", "ImageProcessor")
    name = name.removesuffix("Fast").removesuffix("Pil")
    if name not in known:
        warn(
            f"{reader.where} is for {stated}, which patchword does not compute: photos are "
            f"prepared as by {usual.name} with the values of that file, and answers may differ "
            "from transformers'",
            CheckpointWarning,
        )
    return known.get(name, usual)


def _sides(reader: ConfigReader, key: str, default: int | tuple[int, int]) -> int | tuple[int, int]:
    """A size: the shortest side, or (H, W). Written {"shortest_edge": 224}, {"height": 224,
    "width": 224}, or, in old files, 224: a square where the default is (H, W)."""
    value = reader.values.get(key)
    if value is None:
        reader.assume(f"preprocess.{key}", default, "the size that the network takes")
        return default
    if isinstance(value, dict):
        part = reader.part(key)
        if set(value) == {"shortest_edge"}:
            return part.pair("shortest_edge")[0]
        if set(value) == {"height", "width"}:
            return part.pair("height")[0], part.pair("width")[0]
    if type(value) is not int:
        reader.fail(key, "not a number, a shortest_edge, or a height and a width")
    return (value, value) if isinstance(default, tuple) else value


def _interpolation(
    reader: ConfigReader, processor: Processor
) -> Literal["nearest", "bilinear", "bicubic", "lanczos"]:
    return reader.choice(  # type: ignore[no-any-return]
        "resample",
        RESAMPLE,
        processor.interpolation,
        "preprocess.interpolation",
        processor.default,
    )


def _levels(reader: ConfigReader, processor: Processor) -> dict[str, Any]:
    """Rescaling and normalising."""
    why = processor.default
    out: dict[str, Any] = {"rescale": 1.0, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    if reader.optional("do_rescale", True):
        out["rescale"] = reader.optional("rescale_factor", 1 / 255)
    if reader.optional("do_normalize", True):
        out["mean"] = reader.triple("image_mean", processor.mean, "preprocess.mean", why)
        out["std"] = reader.triple("image_std", processor.std, "preprocess.std", why)
    return out
