"""The public API: functions to load, save and index, and `Model`, which they give and take.

Every option is spelled out here, so that editors show it and a misspelt one is refused. What a
first answer does not need is imported where it is used: the index, other engines; `export` and
`inspector` are in files of their own.
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

OF_PHOTOS = ("stretch", "max_pixels", "squash", "exact")  # options of `load` for opening them

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
    """Open a model.

    source        "demo" or "demo-blip" (embedded), a folder, a file of weights, a hub id,
                  "modelscope:owner/name", "s3://..." or "gs://..."; a folder that `export` wrote
    device        "cpu", "cuda", "cuda:1", "mps"; "auto" is cuda where there is one, else cpu
    dtype         of the weights in memory, "float32", "bfloat16", "float16", or torch's own; "int8"
                  by the engines openvino and onnx, see `calibrate`
    tokenizer     a file or folder to take it from instead of the checkpoint
    token         for closed repositories of the hub
    image_size    pixels, or (H, W), instead of the checkpoint's own; positions are resampled
    subfolder     the folder inside that holds the model: "text_encoder" of a diffusion pipeline
    adapter       a folder or hub id of a LoRA adapter to merge; one that lies beside the weights is
                  merged by itself
    weights       "ema" (the default) or "raw", of a training checkpoint with both
    architecture  of open_clip's weights without open_clip_config.json: "ViT-B-32", ...
    stretch       scale each image from its own darkest and brightest half percent, for images of
                  instruments whose range is not in the file
    max_pixels    files of more, as they would be decoded, are refused
    squash        show the model the whole of each image, its shape not kept, where its
                  preprocessing would crop it
    exact         decode every JPEG whole, as the reference processors do, byte for byte; else at
                  the smallest scale that is at least twice what the network needs, which is
                  faster, and half a level of 255 from it on average
    engine        what computes vectors: "torch"; "compile", torch.compile; on a CPU "openvino" and
                  "onnx", which give vectors alone; "auto": torch, and for more than a thousand
                  images on a CPU openvino, where that is installed (see `engines.choose`)
    calibrate     for dtype "int8": at least 16 photos like those that the model is for, a folder
                  or anything `find_images` takes, see `export`; the embedded models need none:
                  without photos only their weights are int8. Graphs are made once, and kept in the
                  cache by the model's fingerprint and these photos' paths, sizes and times

    Raises CheckpointError where nothing is there or it does not fit whole, TokenizerError, and
    UnsupportedError for a device that is not there.
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
    whole = "float32" if int8 else dtype
    bundle = checkpoints.load(source, device=device, dtype=whole, token=token, **of_weights)
    model = with_methods(bundle).opening(stretch, max_pixels, squash=squash, exact=exact)
    if engine == "torch" and not int8:
        return model
    from patchword.api.engines import in_int8, on_engine

    return in_int8(model, engine, calibrate) if int8 else on_engine(model, engine)


def load_for_texts(source: str, **options: Any) -> Model:
    """What `load` opens with these options, without the weights of its image tower where they can
    be spared: for queries of texts alone."""
    int8 = is_int8(options.get("dtype"))
    if int8 or not {"engine", "calibrate"}.isdisjoint(options) or is_export(source):
        return load(source, **options)
    of_photos = {name: options[name] for name in OF_PHOTOS if name in options}
    others = {name: value for name, value in options.items() if name not in OF_PHOTOS}
    bundle = checkpoints.load(source, texts_alone=True, **others)
    return with_methods(bundle).opening(**of_photos)


@checked
def open_index(path: str | os.PathLike[str]) -> Index:
    """Open the index of images in a folder or at s3://bucket/name, or begin one there when
    something is added. Credentials of object storage are those of the environment:
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION; AWS_ENDPOINT_URL.

    Raises IndexStoreError for a place that cannot be read.
    """
    from patchword import index

    return index.open_index(path, load, load_for_texts)


@checked
def save(model: Bundle, folder: str | os.PathLike[str]) -> Path:
    """Write a model in patchword's own format, config.json, model.safetensors and tokenizer.json;
    `load` reopens it. Returns the folder.

    Raises CheckpointError for a folder that holds something other than a patchword model.
    """
    return checkpoints.save(model, folder)
