"""Checkpoints: any of `formats` -> a Bundle, and a Bundle -> our own format.

No code in a checkpoint is ever run, and a checkpoint is loaded whole or not at all. This is the
only module that uses both formats and networks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from patchword import bundle, models
from patchword.bundle import Bundle
from patchword.checkpoints import (
    hub,
    huggingface,
    known_fingerprints,
    layouts,
    open_clip_names,
    scope_files,
    training_folders,
    wrappers,
)
from patchword.checkpoints.adapter_modules import modules_of
from patchword.checkpoints.formats import FORMATS, openai, own, recognise
from patchword.checkpoints.read import PROCESSORS, Files, Source
from patchword.checkpoints.resolve import EMBEDDED, locate
from patchword.checkpoints.rules import assemble, fit
from patchword.checkpoints.saving import save
from patchword.config import ModelConfig
from patchword.engines.device import as_device, as_dtype, check
from patchword.errors import (
    CheckpointError,
    CheckpointWarning,
    ConfigError,
    UnsupportedError,
    in_threads,
    warn,
)
from patchword.images.preprocess import at_size
from patchword.text import tokenizer_files
from patchword.text.tokenizer import Tokenizer

__all__ = ["EMBEDDED", "FORMATS", "load", "locate", "modules_of", "recognise", "save"]


@torch.inference_mode(False)  # of such weights nothing has gradients, however long a program lives
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
    texts_alone: bool = False,
) -> Bundle:
    """Open a checkpoint: a folder, a file of weights, a hub id "organisation/name", a repository of
    ModelScope "modelscope:owner/name", a bucket "s3://..." or "gs://...", or one of the package's
    own, "demo" and "demo-blip".

    device, dtype  device and number type of the weights in memory, whatever their type in the
                   file; as names or torch's own objects
    tokenizer      a file or folder to take it from instead of the checkpoint
    token          for closed repositories of the hub
    image_size     pixels, or (H, W), of the input instead of the checkpoint's own; positions are
                   resampled to it (see `preprocess.at_size`)
    subfolder      the folder inside that holds the model: "text_encoder" of a diffusion pipeline
    adapter        a folder or hub id of a LoRA adapter to merge; one beside the weights is merged
                   anyway
    weights        of a file with two sets of them: "ema", their moving average, or "raw"; None
                   takes the average, as timm does, and says so in a CheckpointWarning
    architecture   of weights of open_clip without open_clip_config.json, by its name there
    texts_alone    the bundle is for texts: the image tower of a model with two is left out where
                   the fingerprint is known without its weights

    Raises CheckpointError for one that is missing, of an unknown format, unsafe, or does not fit;
    TokenizerError for a tokenizer that does not fit; UnsupportedError for an unknown device or
    number type.
    """
    where, number = as_device(device), as_dtype(dtype)
    check(where, number)
    size = None if image_size is None else _sides(image_size)
    lora = None if adapter is None else _findable(adapter)
    opened = locate(_named(source), token, subfolder, lora, wrappers.checked(weights))
    if weights is None:
        wrappers.warn_of_others(opened.weights.name, opened.entry)
    if Path(opened.name).is_dir():
        training_folders.warn_of_others(opened.weights)
    words = _words(opened, tokenizer)
    beside = words.parent if words is not None and words.is_file() else words
    known = open_clip_names.architecture_of(opened, architecture)
    files = Files(opened.folder, beside, _pixels(opened), known and known.files)
    names = huggingface.as_saved(opened.tensors, files)
    tensors = {saved: opened.tensors[name] for name, saved in names.items()}
    opened = replace(opened, files=files, tensors=tensors)
    form = recognise(opened)
    with huggingface.quantised_named(opened.files):
        config, network = _outlined(form, opened, known.title if known else "")
    if form is openai:
        open_clip_names.doubt(opened)
    read = (_origin(opened, subfolder), *config.read_from)
    config = replace(config, read_from=(*read, known.title) if known else read)
    if size is not None:
        config = _resized(config, size, opened.name)
    own.check(opened.metadata, opened.files)
    like, file = network.state_dict(), str(opened.weights)
    shapes = {name: tuple(value.shape) for name, value in like.items()}
    what = f"{opened.weights} is {form.TITLE}"
    with huggingface.quantised_named(opened.files):
        plan = fit(form.rules(config), opened.tensors, shapes, what)
    part = texts_alone and bool(config.vision and config.text) and config.blip is None
    first = {name: rule for name, rule in plan.items() if not part or name.startswith(models.TEXT)}
    state_of_files = known_fingerprints.identity(opened)
    with ThreadPoolExecutor(1) as pool:  # copying weights leaves Python's lock to the parser
        reading = pool.submit(in_threads(lambda at: _tokenizer(at, config)), words)
        state = dict(assemble(first, opened.tensors, like, where, number, file=file))
    kind = None if number == torch.float32 else str(number).removeprefix("torch.")
    given = {"image_size": size and list(size), "subfolder": subfolder, "adapter": lora}
    given |= {"dtype": kind, "weights": weights, "architecture": architecture}
    options = {name: value for name, value in given.items() if value is not None}
    scope = None if size or opened.adapter else scope_files.read(opened.folder)
    parser = reading.result()
    fingerprints = known_fingerprints.Known(state_of_files, config, parser, options)
    digest = fingerprints.found() if part else ""
    if digest:
        network = models.text_outline(config)
    else:
        rest = {name: rule for name, rule in plan.items() if name not in first}
        state |= assemble(rest, opened.tensors, like, where, number, file=file)
    network.load_state_dict(state, assign=True)
    if opened.adapter and config.dense_head and not digest:
        config = _headless(network, config, opened.name)
    digest = digest or fingerprints.of(network)
    return bundle.make(network, config, parser, opened.name, options, scope, digest)


def _headless(network: nn.Module, config: ModelConfig, name: str) -> ModelConfig:
    """Take its head for maps from a network that an adapter has changed; the config without it."""
    network.register_module("dense_head", None)
    said = (
        "heatmaps will be less exact than those of the base: the layer that makes its maps (its "
        "head for maps) fits only its weights without the adapter"
    )
    warn(f"{name}: {said}", CheckpointWarning)
    return replace(config, dense_head=None)


def _outlined(form: ModuleType, opened: Source, title: str) -> tuple[ModelConfig, nn.Module]:
    """The config of a checkpoint, with the files that it was read from, and its network on the meta
    device, without weights.

    title: the architecture that is known without a file, for errors. Raises CheckpointError for a
    config that contradicts itself or the tensors."""
    files = opened.files.anew()  # knows what this format reads
    try:
        config = form.config(opened.tensors, files)
        network = models.outline(config)
    except ConfigError as error:
        found = f" (from {', '.join(files.parsed)})" if files.parsed else ""
        raise CheckpointError(f"{opened.name} is {form.TITLE}, but {error}{found}") from error
    except CheckpointError as error:
        known = f" ({title})" if title else ""
        raise CheckpointError(f"{opened.name} is {form.TITLE}{known}, but {error}") from error
    return replace(config, read_from=files.parsed), network


def _named(source: Any) -> str:
    """The source as a string. Raises CheckpointError for an empty one."""
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
        raise CheckpointError(f"{name} has a text tower only: image_size does not apply")
    preprocess = at_size(config.preprocess, size)
    patch = config.vision.patch_size
    if min(preprocess.size) < patch or any(side % patch for side in preprocess.size):
        raise CheckpointError(
            f"{name} cannot take images of {preprocess.size}: patches are {patch} px"
        )
    return replace(config, preprocess=preprocess)


def _findable(adapter: str | os.PathLike[str]) -> str:
    """The name of an adapter, as an absolute path if it is one."""
    path = Path(adapter).expanduser()
    return str(path.resolve()) if path.exists() else os.fspath(adapter)


def _origin(opened: Source, subfolder: str | None) -> str:
    """The file that the weights were read from, and the adapter that was merged into them."""
    weights = wrappers.described(opened.weights.name, opened.entry)
    if opened.adapter is None:
        return f"{subfolder}/{weights}" if subfolder else weights
    if opened.adapter == opened.weights:
        return f"{weights}, with the LoRA adapter in it merged"
    return f"{opened.weights.parent / weights}, with the LoRA adapter {opened.adapter} merged"


def _words(opened: Source, given: str | os.PathLike[str] | None) -> Path | None:
    """The path of the tokenizer: as given, else beside the adapter or the weights, else in a
    diffusion pipeline in the folder of that name: "tokenizer_2" for "text_encoder_2"; None without
    one."""
    if given is not None:
        return hub.snapshot(Path(given).expanduser())
    pipeline = layouts.companion_path(opened.folder, layouts.WORDS_OF)
    places = [opened.adapter and opened.adapter.parent, opened.folder, pipeline]
    return next((p for p in places if p and p.is_dir() and tokenizer_files.has_tokenizer(p)), None)


def _pixels(opened: Source) -> Path | None:
    """The folder of the image processor's files, if not that of the weights: the adapter's, or the
    one in a diffusion pipeline."""
    pipeline = layouts.companion_path(opened.folder, layouts.PIXELS_OF)
    beside = opened.adapter and opened.adapter.parent
    places = [p for p in (beside, opened.folder, pipeline) if p]
    return next((p for p in places if any((p / name).is_file() for name in PROCESSORS)), None)


def _tokenizer(path: Path | None, config: ModelConfig) -> Tokenizer | None:
    """The tokenizer of that file or folder, for a model with a text tower or decoder."""
    if config.text_or_decoder is None or path is None:
        return None
    return Tokenizer.from_folder(path, config.text_or_decoder)
