"""The public API: functions to load, save and index models, and the class `Model`.

Every option is spelled out here, so that editors show it and a misspelt one is refused. Modules
that a first answer does not need are imported where they are used: the index, other engines.
`export` and `inspector` are in files of their own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from patchword import checkpoints
from patchword.api.image_lists import find_images
from patchword.api.model import Model, with_methods
from patchword.bundle import Bundle
from patchword.checkpoints.resolve import is_export
from patchword.engines.device import is_int8
from patchword.errors import UnsupportedError
from patchword.images import MAX_PIXELS
from patchword.options import checked

if TYPE_CHECKING:
    from patchword.index import Index

OPENING = ("stretch", "max_pixels", "squash", "exact")  # options of `load` for opening photos

__all__ = ["Model", "find_images", "load", "open_index", "save"]


@checked
def load(
    source: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    tokenizer: str | os.PathLike[str] | None = None,
    token: str | None = None,
    image_size: int | Sequence[int] | None = None,
    subfolder: str | None = None,
    adapter: str | os.PathLike[str] | None = None,
    weights: str | None = None,
    architecture: str | None = None,
    stretch: bool = False,
    max_pixels: int = MAX_PIXELS,
    squash: bool = False,
    exact: bool = False,
    engine: str = "torch",
    calibrate: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None = None,
) -> Model:
    """Load a model.

    source        "demo" or "demo-blip" (embedded), a folder, a file of weights, a hub id,
                  "modelscope:owner/name", "s3://..." or "gs://..."; a folder that `export` wrote
    device        "cpu", "cuda", "cuda:1", "mps"; "auto": cuda if there is one, else cpu
    dtype         of the weights in memory: "float32", "bfloat16", "float16", or a type of torch;
                  "int8" with the engines openvino and onnx, see `calibrate`
    tokenizer     a file or folder of a tokenizer, instead of the checkpoint's
    token         for private repositories of the hub
    image_size    pixels, or (H, W), instead of the checkpoint's; positions are resampled
    subfolder     the subfolder with the model: "text_encoder" of a diffusion pipeline
    adapter       a folder or hub id of a LoRA adapter to merge; an adapter beside the weights is
                  merged in any case
    weights       "ema" (the default) or "raw", of a training checkpoint with both
    architecture  of open_clip's weights without open_clip_config.json: "ViT-B-32", ...
    stretch       scale each image from its darkest and brightest half percent, for images of
                  instruments whose range is not in the file
    max_pixels    refuse files that are decoded to more pixels
    squash        resize each image as a whole, without keeping its aspect ratio, if the
                  preprocessing would crop it
    exact         decode every JPEG at its full size and resize with Pillow, exactly as the
                  reference processors do; else decode at the smallest scale that is at least twice
                  what the network needs, which differs by half a level of 255 on average, and
                  resize with torch, which changes fewer than 1% of the values, by 1 or 2. Other
                  images are always exact
    engine        what computes vectors: "torch"; "compile", torch.compile; on a CPU "openvino" and
                  "onnx", which give vectors only; "auto": torch, and for more than a thousand
                  images on a CPU openvino, if it is installed (see `engines.choose`)
    calibrate     for dtype "int8": at least 16 photos similar to those that the model is used for,
                  a folder or anything `find_images` takes, see `export`. The embedded models need
                  none: without photos only their weights are int8. Graphs are created once and
                  cached by the model's fingerprint and these photos' paths, sizes and times

    Raises CheckpointError if there is no checkpoint, or one that does not fit completely;
    TokenizerError; UnsupportedError for a device that is not available.
    """
    of_weights: dict[str, Any] = {
        "tokenizer": tokenizer, "image_size": image_size, "subfolder": subfolder,
        "adapter": adapter, "weights": weights, "architecture": architecture,
    }  # fmt: skip
    int8 = is_int8(dtype)
    if calibrate is not None and not int8:
        raise UnsupportedError('calibrate is for dtype="int8": give that too, or leave it out')
    if is_export(source):
        from patchword.api.exports import opened

        given = of_weights | {"calibrate": calibrate}
        model = opened(source, device, dtype, engine, given)
        return model.opening(stretch, max_pixels, squash=squash, exact=exact)
    loaded_dtype = "float32" if int8 else dtype
    bundle = checkpoints.load(source, device=device, dtype=loaded_dtype, token=token, **of_weights)
    model = with_methods(bundle).opening(stretch, max_pixels, squash=squash, exact=exact)
    if engine == "torch" and not int8:
        return model
    from patchword.api.engines import in_int8, on_engine

    return in_int8(model, engine, calibrate) if int8 else on_engine(model, engine)


def load_for_texts(source: str, **options: Any) -> Model:
    """`load`, without the weights of the image tower if possible: for queries by text only."""
    int8 = is_int8(options.get("dtype"))
    if int8 or not {"engine", "calibrate"}.isdisjoint(options) or is_export(source):
        return load(source, **options)
    of_photos = {name: options[name] for name in OPENING if name in options}
    others = {name: value for name, value in options.items() if name not in OPENING}
    bundle = checkpoints.load(source, texts_alone=True, **others)
    return with_methods(bundle).opening(**of_photos)


@checked
def open_index(path: str | os.PathLike[str]) -> Index:
    """Open the index of images in a folder or at s3://bucket/name. If there is none, it is created
    when something is added. Credentials of object storage come from the environment:
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION; AWS_ENDPOINT_URL.

    Raises IndexStoreError for a path that cannot be read.
    """
    from patchword import index

    return index.open_index(path, load, load_for_texts)


@checked
def save(model: Bundle, folder: str | os.PathLike[str]) -> Path:
    """Write a model in patchword's own format: config.json, model.safetensors and tokenizer.json.
    `load` reads it. Returns the folder.

    Raises CheckpointError for a folder with other contents than a patchword model.
    """
    return checkpoints.save(model, folder)
