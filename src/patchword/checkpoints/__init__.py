"""Checkpoints: any of the formats below -> a Bundle, and a Bundle -> our own format.

A format is a module with `TITLE` and `EXPECTS` (for errors), `matches(keys, files)`,
`config(tensors, files)` and `rules(config)`; it knows no network. Nothing in a checkpoint is ever
run, and nothing is loaded that does not fit whole.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import safetensors.torch
import torch
from torch import Tensor

from patchword import bundle, models
from patchword.bundle import Bundle
from patchword.checkpoints import hub
from patchword.checkpoints.formats import (
    chinese_clip,
    hf_blip,
    hf_chinese_clip,
    hf_clip,
    hf_mae,
    hf_siglip,
    hf_swin,
    hf_vit,
    lavis,
    mae,
    open_clip,
    open_clip_custom,
    openai,
    own,
    timm,
    timm_swin,
)
from patchword.checkpoints.read import Files, Source, open_path
from patchword.checkpoints.rules import assemble, fit
from patchword.config import ModelConfig
from patchword.errors import CheckpointError, ConfigError
from patchword.images.preprocess import at_size
from patchword.text import tokenizer_files
from patchword.text.tokenizer import Tokenizer
from patchword.text.tokenizer_files import TOKENIZER_FILE

FORMATS: tuple[ModuleType, ...] = (
    own,
    chinese_clip,
    hf_blip,
    hf_chinese_clip,
    hf_clip,
    hf_mae,
    hf_siglip,
    hf_swin,
    hf_vit,
    lavis,
    mae,
    open_clip,
    open_clip_custom,
    openai,
    timm,
    timm_swin,
)
PIPELINE_TEXT, PIPELINE_WORDS = "text_encoder", "tokenizer"  # folders of a diffusion pipeline
EMBEDDED = ("demo", "demo-blip")  # the models that travel in the package: a CLIP and a BLIP


def load(
    source: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    tokenizer: str | os.PathLike[str] | None = None,
    token: str | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> Bundle:
    """Open a checkpoint: a folder, a file of weights, a hub id "organisation/name", or one of the
    package's own, "demo" and "demo-blip".

    dtype: of the weights in memory, whatever their type in the file. tokenizer: a file or folder
    to take it from instead of the checkpoint. token: for closed repositories of the hub.
    image_size: pixels, or (H, W), to look at instead of the checkpoint's own; positions are
    resampled to it (see `preprocess.at_size`). Raises
    CheckpointError when it is missing, of an unknown format, unsafe, or does not fit;
    TokenizerError when its tokenizer does not fit.
    """
    opened = locate(os.fspath(source), token)
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
    if image_size is not None:
        config = _resized(config, image_size, opened.name)
    own.check(opened.metadata, opened.files)
    like = network.state_dict()
    shapes = {name: tuple(value.shape) for name, value in like.items()}
    plan = fit(form.rules(config), opened.tensors, shapes, f"{opened.weights} is {form.TITLE}")
    state = dict(assemble(plan, opened.tensors, like, device, dtype))
    network.load_state_dict(state, assign=True)
    return bundle.make(network, config, _tokenizer(words, config), opened.name)


def _resized(config: ModelConfig, size: int | tuple[int, int], name: str) -> ModelConfig:
    """The config with preprocessing to another size that patches divide."""
    if config.vision is None:
        raise CheckpointError(f"{name} has a text tower only and looks at images of no size")
    preprocess = at_size(config.preprocess, size)
    patch = config.vision.patch_size
    if min(preprocess.size) < patch or any(side % patch for side in preprocess.size):
        raise CheckpointError(f"{name} cannot look at {preprocess.size}: patches are {patch} px")
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


def recognise(opened: Source) -> ModuleType:
    """The one format that matches. Raises CheckpointError, naming what was found, otherwise."""
    found = [form for form in FORMATS if form.matches(opened.tensors, opened.files)]
    if len(found) == 1:
        return found[0]
    names = sorted(opened.tensors)
    said = [f"tensors {', '.join(names[:3])} ... ({len(names)} in all)", *_types(opened)]
    verdict = " and ".join(form.TITLE for form in found) or "no format that patchword reads"
    known = "\n".join(f"  {form.TITLE}: {form.EXPECTS}" for form in FORMATS)
    raise CheckpointError(
        f"{opened.weights} is {verdict}. Found {'; '.join(said)}. Exactly one must match:\n{known}"
    )


def save(model: Bundle, folder: str | os.PathLike[str]) -> Path:
    """Write our own format: config.json, model.safetensors and, with a tokenizer, tokenizer.json.

    Other files of the folder stay. Each file is written beside its place, then moved there;
    config.json comes last and names the weights by hash, so that half a save is never loaded.
    Raises CheckpointError for a folder that holds something other than a patchword model.
    """
    folder = Path(folder)
    if folder.exists() and not own.may_replace(folder):
        raise CheckpointError(
            f"{folder} holds something other than a patchword model; give a new or empty folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    state = {n: t.detach().cpu().contiguous() for n, t in model.network.state_dict().items()}
    digest = _digest(state)
    with _replacing(folder / own.WEIGHTS_FILE) as place:
        metadata = {"format": "pt", own.MARK: digest}
        safetensors.torch.save_file(state, place, metadata=metadata)
    if model.tokenizer is None:
        (folder / TOKENIZER_FILE).unlink(missing_ok=True)
    else:
        with _replacing(folder / TOKENIZER_FILE) as place:
            place.write_text(model.tokenizer.to_json(), encoding="utf-8")
    with _replacing(folder / own.CONFIG_FILE) as place:
        text = json.dumps(own.describe(model.config, digest), indent=2, ensure_ascii=False)
        place.write_text(text + "\n", encoding="utf-8")
    return folder


def _types(opened: Source) -> Iterator[str]:
    """What the usual configuration files say that the model is."""
    for name in ("config.json", "open_clip_config.json"):
        stated = opened.files.get(name)
        if isinstance(stated, dict):
            kinds = [f"{k} {stated[k]!r}" for k in ("model_type", "architecture") if k in stated]
            yield f"{name} with {' and '.join(kinds) or 'keys ' + ', '.join(list(stated)[:5])}"


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


def _digest(state: Mapping[str, Tensor]) -> str:
    """A hash (hex, 16 digits) of tensors with their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A place to write what shall be at `path`; moved there, safe on disk, when all went well."""
    place = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield place
        with place.open("rb") as file:
            os.fsync(file.fileno())
        place.replace(path)
    finally:
        place.unlink(missing_ok=True)
