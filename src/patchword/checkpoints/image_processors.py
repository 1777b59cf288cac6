"""The image processors of Hugging Face's transformers, as their files and classes state them.

Each format says which one its models have where no file names one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from patchword.checkpoints.config_reader import ConfigReader
from patchword.checkpoints.huggingface import CONFIG_FILE
from patchword.config import PreprocessConfig
from patchword.errors import CheckpointWarning, warn

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


def preprocess(
    files: Mapping[str, Any],
    image_size: tuple[int, int],
    assumed: dict[str, str],
    processor: Processor,
    any_size: bool = False,
) -> PreprocessConfig:
    """preprocessor_config.json, or processor_config.json as transformers 5 writes it.

    processor: of models of this kind, where no file names another one. any_size: the network takes
    photos of other sizes than `image_size` as well.
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
    if final != image_size and not any_size:
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
    "width": 224}, [224, 224] for the same, or, in old files, 224: a square where the default is
    (H, W)."""
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
    if isinstance(value, list) and len(value) == 2:
        return reader.pair(key)
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
