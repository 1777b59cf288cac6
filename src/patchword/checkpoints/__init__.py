"""Checkpoints: any of `formats` -> a Bundle, and a Bundle -> our own format.

Nothing in a checkpoint is ever run, and nothing is loaded that does not fit whole. Here alone
formats meet networks.
"""

from __future__ import annotations

import importlib.resources
import os
from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any

import torch

from patchword import bundle, models
from patchword.bundle import Bundle
from patchword.checkpoints import hub
from patchword.checkpoints.formats import FORMATS, own, recognise
from patchword.checkpoints.read import Files, Source, open_path
from patchword.checkpoints.rules import assemble, fit
from patchword.checkpoints.saving import save
from patchword.config import ModelConfig
from patchword.engines.device import as_device, as_dtype
from patchword.errors import CheckpointError, ConfigError, UnsupportedError
from patchword.images.preprocess import at_size
from patchword.text import tokenizer_files
from patchword.text.tokenizer import Tokenizer

__all__ = ["EMBEDDED", "FORMATS", "load", "locate", "recognise", "save"]

PIPELINE_TEXT, PIPELINE_WORDS = "text_encoder", "tokenizer"  # folders of a diffusion pipeline
EMBEDDED = ("demo", "demo-blip")  # the models that travel in the package: a CLIP and a BLIP


def load(
    source: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    tokenizer: str | os.PathLike[str] | None = None,
    token: str | None = None,
    image_size: int | Sequence[int] | None = None,
) -> Bundle:
    """Open a checkpoint: a folder, a file of weights, a hub id "organisation/name", or one of the
    package's own, "demo" and "demo-blip".

    device, dtype  where the weights are in memory and of which type, whatever it is in the file;
                   names or torch's own
    tokenizer      a file or folder to take it from instead of the checkpoint
    token          for closed repositories of the hub
    image_size     pixels, or (H, W), of the input instead of the checkpoint's own; positions are
                   resampled to it (see `preprocess.at_size`)

    Raises CheckpointError when it is missing, of an unknown format, unsafe, or does not fit;
    TokenizerError when its tokenizer does not fit; UnsupportedError for a device that is not there
    or a type that is none.
    """
    where, number = as_device(device), as_dtype(dtype)
    size = None if image_size is None else _sides(image_size)
    opened = locate(_named(source), token)
    words = _words(opened.folder, tokenizer)
    beside = words.parent if words is not None and words.is_file() else words
    opened = replace(opened, files=Files(opened.folder, beside))
    form = recognise(opened)
    stated = Files(opened.folder, beside)  # knows what this format reads
    try:
        config = form.config(opened.tensors, stated)
        network = models.outline(config)  # the tensors of the file become its parameters
    except ConfigError as error:
        found = f" (from {', '.join(stated.parsed)})" if stated.parsed else ""
        raise CheckpointError(f"{opened.name} is {form.TITLE}, but {error}{found}") from error
    except CheckpointError as error:
        raise CheckpointError(f"{opened.name} is {form.TITLE}, but {error}") from error
    config = replace(config, read_from=(opened.weights.name, *stated.parsed))
    if size is not None:
        config = _resized(config, size, opened.name)
    own.check(opened.metadata, opened.files)
    like = network.state_dict()
    shapes = {name: tuple(value.shape) for name, value in like.items()}
    plan = fit(form.rules(config), opened.tensors, shapes, f"{opened.weights} is {form.TITLE}")
    state = dict(assemble(plan, opened.tensors, like, where, number))
    network.load_state_dict(state, assign=True)
    options: dict[str, Any] = {} if size is None else {"image_size": list(size)}
    if number != torch.float32:
        options["dtype"] = str(number).removeprefix("torch.")
    return bundle.make(network, config, _tokenizer(words, config), opened.name, options)


def _named(source: Any) -> str:
    """The source as a string. Raises CheckpointError for nothing, which is no checkpoint either."""
    if not isinstance(source, (str, os.PathLike)) or not os.fspath(source):
        raise CheckpointError(
            f"the model is {source!r}; give a hub id, a folder, a file of weights, or one of the "
            f'embedded models, "{EMBEDDED[0]}" and "{EMBEDDED[1]}"'
        )
    return os.fspath(source)


def _sides(size: Any) -> tuple[int, int]:
    """Pixels, or (H, W), as (H, W). Raises UnsupportedError for anything else."""
    sides = (size, size) if isinstance(size, Integral) else size
    if isinstance(sides, Sequence) and len(sides) == 2:
        height, width = sides
        if all(isinstance(n, Integral) and not isinstance(n, bool) for n in sides):
            return int(height), int(width)
    raise UnsupportedError(f"image_size is {size!r}; give pixels, 384, or (height, width)")


def _resized(config: ModelConfig, size: tuple[int, int], name: str) -> ModelConfig:
    """The config with preprocessing to another size that patches divide."""
    if config.vision is None:
        raise CheckpointError(f"{name} has a text tower only: image_size means nothing to it")
    preprocess = at_size(config.preprocess, size)
    patch = config.vision.patch_size
    if min(preprocess.size) < patch or any(side % patch for side in preprocess.size):
        raise CheckpointError(
            f"{name} cannot take images of {preprocess.size}: patches are {patch} px"
        )
    return replace(config, preprocess=preprocess)


def locate(source: str, token: str | None = None) -> Source:
    """The opened files of what the user named. Raises CheckpointError if it is nowhere."""
    if source in EMBEDDED:
        folder = Path(str(importlib.resources.files("patchword"))) / "assets" / source
        return open_path(folder, source)
    path = Path(source).expanduser()
    if path.exists():
        return open_path(path, str(path.resolve()))  # an index finds it again from anywhere
    if hub.is_id(source):
        return open_path(hub.fetch(source, token), source)
    raise CheckpointError(
        f"{source}: no such file or folder, nor is it a hub id like organisation/name; "
        f'the embedded models are "{EMBEDDED[0]}" and "{EMBEDDED[1]}"'
    )


def _words(folder: Path, given: str | os.PathLike[str] | None) -> Path | None:
    """Where the tokenizer is: as given, else beside the weights, else where a diffusion pipeline
    has that of its folder "text_encoder_2", in "tokenizer_2" next to it; None for nowhere."""
    if given is not None:
        return Path(given).expanduser()
    here = Path(os.path.abspath(folder))
    places = [folder]
    if here.name.startswith(PIPELINE_TEXT):
        places.append(here.with_name(here.name.replace(PIPELINE_TEXT, PIPELINE_WORDS, 1)))
    for place in places:
        if place.is_dir() and tokenizer_files.present(place):
            return place
    return None


def _tokenizer(path: Path | None, config: ModelConfig) -> Tokenizer | None:
    """The tokenizer of that file or folder, for a model that reads or writes."""
    if config.text_or_decoder is None or path is None:
        return None
    return Tokenizer.from_folder(path, config.text_or_decoder)
