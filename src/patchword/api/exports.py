"""Models for other programs, and such models again."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from patchword import exporting
from patchword.api.image_lists import find_images
from patchword.api.model import Model, with_methods
from patchword.checkpoints import EMBEDDED
from patchword.engines.device import as_device, as_dtype, is_int8
from patchword.errors import ImageError, ImageWarning, UnsupportedError, warn
from patchword.exporting import Exported
from patchword.images import ImageLike
from patchword.options import checked
from patchword.scenes import scene


@checked
def export(
    model: Model,
    folder: str | os.PathLike[str],
    *,
    to: str = "onnx",
    int8: bool = False,
    photos: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None = None,
) -> Exported:
    """Write a model for programs that run it without patchword: its parts as graphs, and its
    preprocessing and tokenizer as transformers' processors and tokenizers read them.

    to      "onnx": onnx/vision_model.onnx and onnx/text_model.onnx, as transformers.js reads them,
            or onnx/model.onnx of an image classifier; "openvino": openvino_model_vision.xml and
            openvino_model_text.xml, or openvino_model.xml, as optimum-intel calls them
    int8    weights in int8. Activations are int8 too: by onnxruntime all of them; by OpenVINO those
            of the image tower, if photos are given and the vectors of other photos still agree with
            float32 by a cosine of 0.995. Files are then onnx/vision_model_quantized.onnx and so on
    photos  for int8: at least 16 photos like those that the model is for, a folder or anything
            `find_images` takes. Half of them calibrate, a quarter judges whether activations can be
            int8, the rest measure how far the result is from float32; 128 are enough. None, for the
            embedded models alone: it is measured on generated scenes

    Inputs are "pixel_values" (B, 3, H, W) and "input_ids" (B, L), any number of them; outputs
    "image_embeds" and "text_embeds" (B, D), not normalised, "pooler_output" of SigLIP and of towers
    without a joint space, "logits" of a classifier. A BLIP has its matching head, questions and
    decoder besides, which take the image's "last_hidden_state" as "encoder_hidden_states"; the
    decoder computes all words so far, without a cache. What heatmaps and attention need is not
    written.

    Returns the folder, its graphs and, for int8, their agreement: the mean and the least cosine of
    vectors to those in float32, of "image" and "text". `load` opens the folder again; patchword
    verify FOLDER FOLDER/receipt.json compares it with the model. It is written whole or not at all.
    Raises CheckpointError for one that holds something else, another model's export too,
    UnsupportedError for a model that takes each image in its own shape, or is not in float32, for
    one that int8 changes too much (a cosine below 0.99), and for a library that is missing.
    """
    if photos is not None and not int8:
        raise UnsupportedError("photos are for int8: give int8 too, or leave them out")
    return exporting.export(model, folder, to, calibration(model, photos) if int8 else None)


def calibration(model: Model, photos: Any) -> exporting.Photos:
    """Photos for int8, as the network takes them; those that cannot be opened are named and left
    out."""
    if photos is None and model.name not in EMBEDDED:
        raise UnsupportedError(
            "int8 is calibrated on photos like those that the model is for: give a folder of them "
            "(export: photos, load: calibrate)"
        )
    if model.config.vision is None:
        raise UnsupportedError(f"{model.name} sees no images, with which int8 is calibrated")
    names = [] if photos is None else find_images(photos)
    some: Sequence[ImageLike] = names[:: max(len(names) // exporting.MOST, 1)][: exporting.MOST]
    if photos is None:
        some = [scene(0, number).image for number in range(64)]
    found = []
    for source in some:
        try:
            found.append(model.open(source)[0])
        except ImageError as error:
            warn(f"{error}; int8 does without it", ImageWarning)
    return exporting.calibrated(found, representative=photos is not None)


def opened(source: Any, device: Any, dtype: Any, engine: str, given: dict[str, Any]) -> Model:
    """The model of an exported folder. given: the options of `load` that are for weights; those
    that are set raise UnsupportedError, as does another device or engine."""
    if unfit := [name for name, value in given.items() if value is not None]:
        raise UnsupportedError(
            f"{source} is an exported model, which takes no {' and no '.join(unfit)}: give it "
            "where the model is exported"
        )
    if device != "auto" and (place := as_device(device)).type != "cpu":
        raise UnsupportedError(f"{source} is an exported model and runs on the CPU, not on {place}")
    int8 = is_int8(dtype)
    model = with_methods(exporting.opened(source, as_dtype("float32" if int8 else dtype)))
    if int8 and model.engine.dtype != torch.int8:
        raise UnsupportedError(f"{source} is exported in float32: export it again with int8")
    if engine not in ("torch", "auto", model.engine.name):
        raise UnsupportedError(
            f"{source} is exported for the engine {model.engine.name}, not for {engine}: leave out "
            "engine"
        )
    return model
