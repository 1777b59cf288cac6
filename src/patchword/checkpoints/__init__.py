"""Loads checkpoints of any of the `formats` as a Bundle, and saves a Bundle in our own format.

No code in a checkpoint is ever run, and a checkpoint is loaded completely or not at all. This is
the only module that uses both formats and networks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
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
    memory_names,
    open_clip_names,
    scope_files,
    training_folders,
    wrappers,
)
from patchword.checkpoints.adapter_modules import modules_of
from patchword.checkpoints.apply_rules import match_rules, read_tensors
from patchword.checkpoints.formats import FORMATS, openai, own, recognise
from patchword.checkpoints.json_files import PROCESSOR_FILES, Files
from patchword.checkpoints.open_clip_names import KnownArchitecture
from patchword.checkpoints.read import Checkpoint
from patchword.checkpoints.resolve import EMBEDDED, locate
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


@torch.inference_mode(False)  # weights that are made in that mode can never have gradients
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
    device, dtype = as_device(device), as_dtype(dtype)
    check(device, dtype)
    size = None if image_size is None else _height_and_width(image_size)
    adapter_name = None if adapter is None else _absolute(adapter)
    wanted = wrappers.checked(weights)
    opened = locate(_source_name(source), token, subfolder, adapter_name, wanted)
    if weights is None:
        wrappers.warn_of_others(opened.weights.name, opened.entry)
    if Path(opened.name).is_dir():
        training_folders.warn_of_others(opened.weights)
    tokenizer_path = _tokenizer_path(opened, tokenizer)
    known = open_clip_names.architecture_of(opened, architecture)
    opened = _complete(opened, tokenizer_path, known)
    form = recognise(opened)
    with huggingface.naming_quantisation(opened.files):
        config, network = _config_and_network(form, opened, known)
    if form is openai:
        open_clip_names.warn_of_doubt(opened)
    read_from = [_origin(opened, subfolder), *config.read_from]
    if known is not None:
        read_from.append(known.title)
    config = replace(config, read_from=tuple(read_from))
    if size is not None:
        config = _resized(config, size, opened.name)
    own.check(opened.metadata, opened.files)
    like = network.state_dict()
    shapes = {name: tuple(value.shape) for name, value in like.items()}
    what = f"{opened.weights} is {form.TITLE}"
    with huggingface.naming_quantisation(opened.files):
        plan = match_rules(form.rules(config), opened.tensors, shapes, what)
    identity = known_fingerprints.identity(opened)  # before the weights are read
    read = partial(
        read_tensors,
        tensors=opened.tensors,
        like=like,
        device=device,
        dtype=dtype,
        file=str(opened.weights),
    )
    two_towers = config.vision is not None and config.text is not None and config.blip is None
    may_skip_images = texts_alone and two_towers
    first = plan
    if may_skip_images:
        first = {name: rule for name, rule in plan.items() if name.startswith(models.TEXT)}
    with ThreadPoolExecutor(1) as pool:  # reading weights leaves Python's lock to the parser
        parse = in_threads(partial(_tokenizer, config=config))
        parsing = pool.submit(parse, tokenizer_path)
        state = dict(read(first))
    parsed_tokenizer = parsing.result()
    options = {
        "image_size": None if size is None else list(size),
        "subfolder": subfolder,
        "adapter": adapter_name,
        "dtype": None if dtype == torch.float32 else str(dtype).removeprefix("torch."),
        "weights": weights,
        "architecture": architecture,
    }
    options = {name: value for name, value in options.items() if value is not None}
    cached = known_fingerprints.CachedFingerprint(identity, config, parsed_tokenizer, options)
    fingerprint = cached.read() if may_skip_images else ""
    if fingerprint:
        network = models.text_outline(config)
    else:
        state |= read({name: rule for name, rule in plan.items() if name not in first})
    network.load_state_dict(state, assign=True)
    if not fingerprint:
        if opened.adapter is not None and config.dense_head is not None:
            config = _without_dense_head(network, config, opened.name)
        fingerprint = cached.of(network)
    scope = None
    if size is None and opened.adapter is None:
        scope = scope_files.read(opened.folder)
    return bundle.make(network, config, parsed_tokenizer, opened.name, options, scope, fingerprint)


def _complete(
    opened: Checkpoint, tokenizer: Path | None, known: KnownArchitecture | None
) -> Checkpoint:
    """A checkpoint with the JSON files of other folders, with that of a known architecture, and
    with the tensor names of transformers' files instead of those in memory."""
    tokenizer_folder = tokenizer
    if tokenizer is not None and tokenizer.is_file():
        tokenizer_folder = tokenizer.parent
    known_files = None if known is None else known.files
    files = Files(opened.folder, tokenizer_folder, _processor_folder(opened), known_files)
    names = memory_names.as_saved(opened.tensors, files)
    tensors = {saved: opened.tensors[name] for name, saved in names.items()}
    return replace(opened, files=files, tensors=tensors)


def _config_and_network(
    form: ModuleType, opened: Checkpoint, known: KnownArchitecture | None
) -> tuple[ModelConfig, nn.Module]:
    """The config of a checkpoint, with the files that it was read from, and its network on the meta
    device, without weights. Raises CheckpointError for a config that contradicts itself or the
    tensors."""
    files = opened.files.unread()  # notes which files this format reads
    try:
        config = form.config(opened.tensors, files)
        network = models.outline(config)
    except ConfigError as error:
        read_from = f" (from {', '.join(files.parsed)})" if files.parsed else ""
        raise CheckpointError(f"{opened.name} is {form.TITLE}, but {error}{read_from}") from error
    except CheckpointError as error:
        title = f" ({known.title})" if known else ""
        raise CheckpointError(f"{opened.name} is {form.TITLE}{title}, but {error}") from error
    return replace(config, read_from=files.parsed), network


def _without_dense_head(network: nn.Module, config: ModelConfig, name: str) -> ModelConfig:
    """Remove the head for maps from a network that an adapter has changed; the config without
    it."""
    network.register_module("dense_head", None)
    warn(
        f"{name}: heatmaps will be less exact than those of the base: the layer that makes its "
        "maps (its head for maps) fits only its weights without the adapter",
        CheckpointWarning,
    )
    return replace(config, dense_head=None)


def _source_name(source: Any) -> str:
    """The source as a string. Raises CheckpointError for an empty one."""
    if not isinstance(source, (str, os.PathLike)) or not os.fspath(source):
        raise CheckpointError(
            f"the model is {source!r}; give a hub id, a folder, a file of weights, or one of the "
            f'embedded models, "{EMBEDDED[0]}" and "{EMBEDDED[1]}"'
        )
    return os.fspath(source)


def _height_and_width(size: Any) -> tuple[int, int]:
    """The option image_size, a number of pixels or (H, W), as (H, W). Raises UnsupportedError for
    anything else."""
    sides = (size, size) if isinstance(size, Integral) else size
    is_pair = isinstance(sides, Sequence) and len(sides) == 2
    if is_pair and all(isinstance(n, Integral) and not isinstance(n, bool) for n in sides):
        return int(sides[0]), int(sides[1])
    raise UnsupportedError(f"image_size is {size!r}; give pixels, 384, or (height, width)")


def _resized(config: ModelConfig, size: tuple[int, int], name: str) -> ModelConfig:
    """The config with preprocessing to another size, which must consist of whole patches."""
    if config.vision is None:
        raise CheckpointError(f"{name} has a text tower only: image_size does not apply")
    preprocess = at_size(config.preprocess, size)
    patch = config.vision.patch_size
    if min(preprocess.size) < patch or any(side % patch for side in preprocess.size):
        raise CheckpointError(
            f"{name} cannot take images of {preprocess.size}: patches are {patch} px"
        )
    return replace(config, preprocess=preprocess)


def _absolute(adapter: str | os.PathLike[str]) -> str:
    """The name of an adapter; if it is a path, an absolute one."""
    path = Path(adapter).expanduser()
    return str(path.resolve()) if path.exists() else os.fspath(adapter)


def _origin(opened: Checkpoint, subfolder: str | None) -> str:
    """The file that the weights were read from, and the adapter that was merged into them."""
    weights = wrappers.described(opened.weights.name, opened.entry)
    if opened.adapter is None:
        return f"{subfolder}/{weights}" if subfolder else weights
    if opened.adapter == opened.weights:
        return f"{weights}, with the LoRA adapter in it merged"
    return f"{opened.weights.parent / weights}, with the LoRA adapter {opened.adapter} merged"


def _tokenizer_path(opened: Checkpoint, given: str | os.PathLike[str] | None) -> Path | None:
    """The tokenizer's file or folder: the one that the user gave, else the folder of the adapter,
    of the weights, or, for "text_encoder_2" of a diffusion pipeline, "tokenizer_2"; None if none of
    them has one."""
    if given is not None:
        return hub.snapshot(Path(given).expanduser())
    for folder in _folders(opened, layouts.TOKENIZER_FOLDER):
        if folder.is_dir() and tokenizer_files.has_tokenizer(folder):
            return folder
    return None


def _processor_folder(opened: Checkpoint) -> Path | None:
    """The folder with the image processor's files: that of the adapter, of the weights, or the one
    in a diffusion pipeline; None if none of them has one."""
    for folder in _folders(opened, layouts.PROCESSOR_FOLDER):
        if any((folder / name).is_file() for name in PROCESSOR_FILES):
            return folder
    return None


def _folders(opened: Checkpoint, pair: tuple[str, str]) -> list[Path]:
    """Folders that may hold other files of a checkpoint; pair: of `layouts.companion`."""
    adapter = None if opened.adapter is None else opened.adapter.parent
    pipeline = layouts.companion_path(opened.folder, pair)
    return [folder for folder in (adapter, opened.folder, pipeline) if folder is not None]


def _tokenizer(path: Path | None, config: ModelConfig) -> Tokenizer | None:
    """The tokenizer in that file or folder, for a model with a text tower or decoder."""
    if config.text_or_decoder is None or path is None:
        return None
    return Tokenizer.from_folder(path, config.text_or_decoder)
