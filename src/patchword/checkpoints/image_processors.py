"""The image processors of Hugging Face's transformers, from their files and their code.

A format names the processor of its models, for checkpoints in which no file names one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from patchword.checkpoints.config_reader import ConfigReader
from patchword.checkpoints.huggingface import CONFIG_FILE
from patchword.checkpoints.json_files import json_object
from patchword.config import PreprocessConfig
from patchword.errors import CheckpointWarning, warn

RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # PIL.Image.Resampling
HALF = (0.5, 0.5, 0.5)  # mean, and std, of most image processors


@dataclass(frozen=True)
class Processor:
    """An image processor class of transformers, with the defaults of its code.

    square: a size of one number is that of both sides, else of the shorter side. size: in pixels;
    None: the network's.
    """

    name: str
    square: bool = False
    crop: bool = True
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = PreprocessConfig().mean
    std: tuple[float, float, float] = PreprocessConfig().std
    size: int | None = None

    @property
    def why(self) -> str:
        """Why a default is taken, for `ModelConfig.assumed`."""
        return f"transformers' {self.name} default"


CLIP = Processor("CLIPImageProcessor")
CHINESE_CLIP = Processor("ChineseCLIPImageProcessor")
BIT = Processor("BitImageProcessor")
BLIP = Processor("BlipImageProcessor", square=True, crop=False)
SIGLIP = Processor("SiglipImageProcessor", square=True, crop=False, mean=HALF, std=HALF)
VIT = Processor(
    "ViTImageProcessor", square=True, crop=False, interpolation="bilinear", mean=HALF, std=HALF
)
DEIT = Processor("DeiTImageProcessor", square=True, mean=HALF, std=HALF, size=256)
SIGLIP2 = Processor(
    "Siglip2ImageProcessor", square=True, crop=False, interpolation="bilinear", mean=HALF, std=HALF
)


def preprocess(
    files: Mapping[str, Any],
    image_size: tuple[int, int],
    assumed: dict[str, str],
    processor: Processor,
    any_size: bool = False,
) -> PreprocessConfig:
    """The preprocessing, from preprocessor_config.json or, as transformers 5 writes it,
    processor_config.json.

    processor: if no file names another one. any_size: the network takes photos of other sizes than
    `image_size` as well.
    """
    reader = _processor_reader(files, assumed)
    known = (CLIP, CHINESE_CLIP, BIT, BLIP, SIGLIP, VIT, DEIT)
    processor = _stated_processor(reader, files, processor, known)
    if not reader.optional("do_resize", True):
        reader.fail("do_resize", "but without resizing photos of different sizes make no batch")
    sides = image_size if processor.size is None else (processor.size, processor.size)
    square = processor.square or sides[0] != sides[1]
    size = _size(reader, "size", sides if square else sides[0])
    crop = size
    if reader.optional("do_center_crop", processor.crop):
        crop = _size(reader, "crop_size", image_size)
    elif isinstance(size, int):
        reader.fail("do_center_crop", "so that the network would get photos of different shapes")
    final = (crop, crop) if isinstance(crop, int) else crop
    resize: Literal["shortest", "square", "squash"]
    if isinstance(size, int):
        resize = "shortest"
    elif size == final:
        resize = "squash"
    else:
        if size[0] != size[1] or final[0] != final[1]:
            reader.fail("crop_size", f"a crop from photos squashed to {size}: not supported")
        resize = "square"
    if final != image_size and not any_size:
        reader.fail("crop_size", f"but the network takes {image_size}", final)
    return PreprocessConfig(
        size=final,
        resize=resize,
        resize_to=size if isinstance(size, int) else min(size),
        interpolation=_interpolation(reader, processor),
        crop_rounding="floor",
        **_normalisation(reader, processor),
    )


def preprocess_in_patches(
    files: Mapping[str, Any],
    image_size: tuple[int, int],
    patch_size: int,
    assumed: dict[str, str],
) -> PreprocessConfig:
    """The preprocessing of a processor that keeps the shape of each image, which has at most
    `max_num_patches` patches."""
    reader = _processor_reader(files, assumed)
    processor = _stated_processor(reader, files, SIGLIP2, (SIGLIP2,))
    if not reader.optional("do_resize", True):
        reader.fail("do_resize", "so that the network would get photos of parts of patches")
    stated_patch = reader.get("patch_size", patch_size, "preprocess.patch_size", "the network's")
    if stated_patch != patch_size:
        reader.fail("patch_size", f"but the network's are of {patch_size} pixels")
    max_patches = reader.get("max_num_patches", 256, "preprocess.max_patches", processor.why)
    if max_patches < 1:
        reader.fail("max_num_patches", "which leaves no patches")
    return PreprocessConfig(
        size=image_size,
        resize="patches",
        resize_to=min(image_size),
        interpolation=_interpolation(reader, processor),
        max_patches=max_patches,
        patch_size=patch_size,
        **_normalisation(reader, processor),
    )


def _processor_reader(files: Mapping[str, Any], assumed: dict[str, str]) -> ConfigReader:
    """The content of the image processor's file. Like transformers, it takes that of version 5
    before that of version 4, if an image processor is in it."""
    newer = ConfigReader("processor_config.json", files.get("processor_config.json", {}), assumed)
    if newer.values.get("image_processor") is None and "preprocessor_config.json" in files:
        return ConfigReader("preprocessor_config.json", files["preprocessor_config.json"], assumed)
    return newer.section("image_processor")


def _stated_processor(
    reader: ConfigReader,
    files: Mapping[str, Any],
    default: Processor,
    known: Iterable[Processor],
) -> Processor:
    """The image processor that its file or config.json names, as in transformers'
    AutoImageProcessor; else the default. Warns of one that is not known, and returns the default
    for it."""
    stated = (
        reader.values.get("image_processor_type")
        or reader.values.get("feature_extractor_type")  # in old files
        or json_object(files, CONFIG_FILE).get("image_processor_type")
    )
    if not isinstance(stated, str):
        return default
    name = stated.replace("FeatureExtractor", "ImageProcessor")
    name = name.removesuffix("Fast").removesuffix("Pil")
    for processor in known:
        if processor.name == name:
            return processor
    warn(
        f"{reader.where} is for {stated}, which patchword does not compute: photos are "
        f"prepared as by {default.name} with the values of that file, and answers may differ "
        "from transformers'",
        CheckpointWarning,
    )
    return default


def _size(reader: ConfigReader, key: str, default: int | tuple[int, int]) -> int | tuple[int, int]:
    """A size in pixels: the shorter side, or (H, W).

    Files write {"shortest_edge": 224}; {"height": 224, "width": 224} or [224, 224]; or, in old
    files, 224, which is of the kind of the default.
    """
    value = reader.values.get(key)
    if value is None:
        reader.assume(f"preprocess.{key}", default, "the size that the network takes")
        return default
    if isinstance(value, dict):
        section = reader.section(key)
        if set(value) == {"shortest_edge"}:
            return section.pair("shortest_edge")[0]
        if set(value) == {"height", "width"}:
            return section.pair("height")[0], section.pair("width")[0]
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
        processor.why,
    )


def _normalisation(reader: ConfigReader, processor: Processor) -> dict[str, Any]:
    """The fields rescale, mean and std of a `PreprocessConfig`."""
    rescale, mean, std = 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if reader.optional("do_rescale", True):
        rescale = reader.optional("rescale_factor", 1 / 255)
    if reader.optional("do_normalize", True):
        mean = reader.rgb("image_mean", processor.mean, "preprocess.mean", processor.why)
        std = reader.rgb("image_std", processor.std, "preprocess.std", processor.why)
    return {"rescale": rescale, "mean": mean, "std": std}
