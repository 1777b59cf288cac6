"""patchword's own format: config.json, model.safetensors and tokenizer.json in one folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from patchword.atomic_write import PART
from patchword.checkpoints.json_files import Files, json_object
from patchword.checkpoints.read import LazyTensor
from patchword.checkpoints.rules import Rule, SameNames
from patchword.config import ModelConfig, from_dict, to_dict
from patchword.errors import CheckpointError

TITLE = "a patchword model"
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
VERSION = 2  # of the format
MARK = "patchword"  # the key of the version in config.json
# Fields of version 1 that version 2 has under "blip"; and fields of its image tower that do not
# apply to a tower of each kind.
BLIP_1 = ("decoder", "shared", "answers", "sight", "matching")
UNUSED_1 = {
    "vit": ("window",),
    "swin": (
        "depth", "pool", "class_token", "registers", "pre_norm", "patch_bias", "stem_width",
        "layer_scale", "qk_norm",
    ),
    "resnet": (
        "patch_size", "depth", "mlp_width", "activation", "eps", "pool", "class_token",
        "registers", "pre_norm", "patch_bias", "stem_width", "layer_scale", "qk_norm",
        "positions", "window",
    ),
}  # fmt: skip
EXPECTS = f'{CONFIG_FILE} with "{MARK}": {VERSION}, and {WEIGHTS_FILE}'
NAMES: tuple[str, ...] = ()  # the mark is enough


def matches(keys: Collection[str], files: Mapping[str, Any]) -> bool:
    """Whether config.json has our mark."""
    return MARK in json_object(files, CONFIG_FILE)


def config(tensors: Mapping[str, LazyTensor], files: Mapping[str, Any]) -> ModelConfig:
    """The config in config.json. Raises CheckpointError for a later version or a broken file."""
    content = files[CONFIG_FILE]
    version, model = content[MARK], content.get("model")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise CheckpointError(
            f"{CONFIG_FILE} is of version {version!r} of the format, and this patchword reads "
            f"versions 1 to {VERSION}: upgrade patchword"
        )
    if not isinstance(model, dict):
        raise CheckpointError(f'{CONFIG_FILE} has no "model", the architecture')
    config = from_dict(ModelConfig, upgraded(model) if version == 1 else model)
    if config.decoder is not None and config.decoder.start_token < 0:
        raise CheckpointError(f"{CONFIG_FILE}: the decoder has no start_token to begin texts with")
    return dataclasses.replace(config, source="patchword")


def rules(config: ModelConfig) -> Iterator[Rule]:
    """Tensors have the names of the network."""
    yield SameNames()


def upgraded(model: Mapping[str, Any]) -> dict[str, Any]:
    """The "model" of config.json, converted from version 1 of the format to version 2.

    Version 1 had one kind of image tower, with the fields of all kinds, and the parts of a BLIP
    beside the others. Values are not checked here: `from_dict` does that.
    """
    out = {name: value for name, value in model.items() if name not in BLIP_1}
    vision, text, decoder = model.get("vision"), model.get("text"), model.get("decoder")
    if isinstance(vision, dict):
        out["vision"] = _upgraded_vision(vision)
    if isinstance(decoder, dict):
        decoder = {**decoder, "pool": "end"}  # has no effect, but must be valid
    cross_attends = isinstance(text, dict) and text.get("cross_width") not in (None, 0)
    if decoder is None and not cross_attends:
        return out
    has_decoder, has_text = decoder is not None, text is not None
    shared, answers = model.get("shared", False), model.get("answers", False)
    image_tokens = model.get("sight", "tokens")
    out["blip"] = {
        "decoder": decoder,
        "writes_captions": has_decoder and bool(not has_text or shared or answers),
        "answers_questions": has_decoder and has_text and bool(not shared or answers),
        "shared_decoder": shared,
        "matching": model.get("matching", False),
        "image_tokens": "all" if image_tokens == "tokens" else image_tokens,
    }
    return out


def _upgraded_vision(vision: Mapping[str, Any]) -> dict[str, Any] | None:
    """An image tower of version 1, without the fields that do not apply to its kind."""
    kind = vision.get("kind", "vit")
    if kind == "none":
        return None
    unused = UNUSED_1.get(kind, ()) if isinstance(kind, str) else ()
    out = {name: value for name, value in vision.items() if name not in unused}
    if kind == "vit":
        out["stem_stages"] = out.pop("stages", [])
    if kind == "swin":
        out["padded"] = out.pop("positions", "relative")
        if out["padded"] == "relative":
            out["padded"] = "before_shift"
        elif out["padded"] == "relative_shifted":
            out["padded"] = "after_shift"
    return out


def describe(config: ModelConfig, weights: str) -> dict[str, Any]:
    """The content of config.json. weights: a hash of the weights that belong to it."""
    return {MARK: VERSION, "weights": weights, "model": to_dict(config)}


def check(metadata: Mapping[str, str], files: Mapping[str, Any]) -> None:
    """Raise CheckpointError if weights and config.json are of different saves."""
    weights = json_object(files, CONFIG_FILE).get("weights")
    if MARK in metadata and weights is not None and metadata[MARK] != weights:
        raise CheckpointError(
            f"{WEIGHTS_FILE} and {CONFIG_FILE} are of two different saves; one was interrupted, or "
            "a file was replaced by hand: save the model again"
        )


def may_replace(folder: Path) -> bool:
    """Whether a model may be saved in this folder: it holds a patchword model, or nothing except
    what an interrupted save left."""
    if not folder.is_dir():
        return False
    if matches((), Files(folder)):
        return True
    return all(path.name.startswith(PART) for path in folder.iterdir())
