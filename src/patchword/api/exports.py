"""Exports models for other programs, and loads exported models."""

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
    """Write a model for programs that run it without patchword: its parts as graphs, and files for
    transformers' processors and tokenizers.

    to      "onnx": onnx/vision_model.onnx and onnx/text_model.onnx, the names of transformers.js,
            or onnx/model.onnx for an image classifier; "openvino": openvino_model_vision.xml and
            openvino_model_text.xml, or openvino_model.xml, the names of optimum-intel
    int8    weights in int8. Activations are int8 too: for onnxruntime all of them; for OpenVINO
            those of the image tower, if photos are given and the vectors of other photos still
            agree with float32 by a cosine of 0.995. The files are then
            onnx/vision_model_quantized.onnx and so on
    photos  for int8: at least 16 photos similar to those that the model is used for, a folder or
            anything `find_images` takes. Half of them calibrate, a quarter decides whether
            activations can be int8, the rest measure the agreement with float32; 128 are enough.
            None: only for the embedded models, which are measured on generated scenes

    Inputs are "pixel_values" (B, 3, H, W) and "input_ids" (B, L), with any B. Outputs are
    "image_embeds" and "text_embeds" (B, D), not normalised; "pooler_output" for SigLIP and for
    towers without a joint space; "logits" for a classifier. A BLIP also has its matching head,
    questions and decoder, which take the image's "last_hidden_state" as "encoder_hidden_states".
    The decoder computes all words so far, without a cache. Heatmaps and attention are not exported.

    Returns the folder, its graphs and, for int8, the agreement of "image" and "text": the mean and
    the least cosine between vectors in int8 and in float32. `load` opens the folder;
    patchword verify FOLDER FOLDER/receipt.json compares it with the model. The folder is written
    completely or not at all. Raises CheckpointError for a folder with other contents, also another
    model's export; UnsupportedError for a model whose images have sizes of their own, or that is
    not in float32, for one that int8 changes too much (a cosine below 0.99), and for a missing
    library.
    """
    if photos is not None and not int8:
        raise UnsupportedError("photos are for int8: give int8 too, or leave them out")
    return exporting.export(model, folder, to, calibration(model, photos) if int8 else None)


def calibration(model: Model, photos: Any) -> exporting.Photos:
    """Preprocessed photos for int8. Photos that cannot be opened give a warning and are left
    out."""
    if photos is None and model.name not in EMBEDDED:
        raise UnsupportedError(
            "int8 is calibrated on photos like those that the model is for: give a folder of them "
            "(export: photos, load: calibrate)"
        )
    if model.config.vision is None:
        raise UnsupportedError(f"{model.name} sees no images, with which int8 is calibrated")
    sources: Sequence[ImageLike]
    if photos is None:
        sources = [scene(0, number).image for number in range(64)]
    else:
        names = find_images(photos)
        step = max(len(names) // exporting.MOST, 1)
        sources = names[::step][: exporting.MOST]
    pixels = []
    for source in sources:
        try:
            pixels.append(model.open(source)[0])
        except ImageError as error:
            warn(f"{error}; int8 does without it", ImageWarning)
    return exporting.calibrated(pixels, representative=photos is not None)


def opened(source: Any, device: Any, dtype: Any, engine: str, of_weights: dict[str, Any]) -> Model:
    """The model of an exported folder. of_weights: the options of `load` that are for weights.
    Raises UnsupportedError if one of them is set, and for another device or engine."""
    unfit = [name for name, value in of_weights.items() if value is not None]
    if unfit:
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
