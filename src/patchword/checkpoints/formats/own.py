"""patchword's own format: config.json, model.safetensors and tokenizer.json in one folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from patchword.atomic_write import PART
from patchword.checkpoints.read import Files, Stored
from patchword.checkpoints.rules import Rule, Same
from patchword.config import ModelConfig, from_dict, to_dict
from patchword.errors import CheckpointError

TITLE = "a patchword model"
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
VERSION = 2  # of the format, in config.json under MARK
MARK = "patchword"
# Fields of version 1 that version 2 has elsewhere, and those of its image tower that do not apply
# to a tower of that kind.
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
NAMES: tuple[str, ...] = ()  # it is recognised by its mark


def matches(keys: Collection[str], files: Mapping[str, Any]) -> bool:
    """Whether config.json carries our mark."""
    content = files.get(CONFIG_FILE)
    return isinstance(content, dict) and MARK in content


def config(tensors: Mapping[str, Stored], files: Mapping[str, Any]) -> ModelConfig:
    """The config of config.json. Raises CheckpointError for a later version or a broken file."""
    content = files[CONFIG_FILE]
    version, model = content[MARK], content.get("model")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise CheckpointError(
            f"{CONFIG_FILE} is of version {version!r} of the format, and this patchword reads "
            f"versions 1 to {VERSION}: upgrade patchword"
        )
    if not isinstance(model, dict):
        raise CheckpointError(f'{CONFIG_FILE} has no "model", the architecture')
    read = from_dict(ModelConfig, upgraded(model) if version == 1 else model)
    if read.decoder is not None and read.decoder.start_token < 0:
        raise CheckpointError(f"{CONFIG_FILE}: the decoder has no start_token to begin texts with")
    return dataclasses.replace(read, source="patchword")


def rules(config: ModelConfig) -> Iterator[Rule]:
    """Every tensor has the network's own name."""
    yield Same()


def upgraded(model: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a model in version 1 of the format, converted to version 2.

    Version 1 had one image tower with the fields of every kind, "none" among them, and the parts
    of a BLIP beside the others. Values are passed on unchecked: `from_dict` checks them.
    """
    out = {name: value for name, value in model.items() if name not in BLIP_1}
    vision, text, decoder = (model.get(name) for name in ("vision", "text", "decoder"))
    if isinstance(vision, dict):
        out["vision"] = _vision_1(vision)
    if isinstance(decoder, dict):
        decoder = {**decoder, "pool": "end"}  # nothing is pooled
    reads = isinstance(text, dict) and text.get("cross_width") not in (None, 0)
    if decoder is None and not reads:
        return out
    shared, answers = (model.get(name, False) for name in ("shared", "answers"))
    writes, sight = decoder is not None, model.get("sight", "tokens")
    out["blip"] = {
        "decoder": decoder,
        "writes_captions": writes and bool(text is None or shared or answers),
        "answers_questions": writes and text is not None and bool(not shared or answers),
        "shared_decoder": shared,
        "matching": model.get("matching", False),
        "image_tokens": "all" if sight == "tokens" else sight,
    }
    return out


def _vision_1(vision: Mapping[str, Any]) -> dict[str, Any] | None:
    """An image tower of version 1, without the fields that do not apply to its kind."""
    kind = vision.get("kind", "vit")
    if kind == "none":
        return None
    unused = UNUSED_1.get(kind, ()) if isinstance(kind, str) else ()
    out = {name: value for name, value in vision.items() if name not in unused}
    if kind == "vit":
        out["stem_stages"] = out.pop("stages", [])
    if kind == "swin":
        order = out.pop("positions", "relative")
        orders = (("relative", "before_shift"), ("relative_shifted", "after_shift"))
        out["padded"] = next((new for old, new in orders if order == old), order)
    return out


def describe(config: ModelConfig, weights: str) -> dict[str, Any]:
    """The contents of config.json. weights: a hash of the weights that belong to it."""
    return {MARK: VERSION, "weights": weights, "model": to_dict(config)}


def check(metadata: Mapping[str, str], files: Mapping[str, Any]) -> None:
    """Raise CheckpointError when weights and config.json are of different saves."""
    content = files.get(CONFIG_FILE)
    weights = content.get("weights") if isinstance(content, dict) else None
    if MARK in metadata and weights is not None and metadata[MARK] != weights:
        raise CheckpointError(
            f"{WEIGHTS_FILE} and {CONFIG_FILE} are of two different saves; one was interrupted, or "
            "a file was replaced by hand: save the model again"
        )


def may_replace(folder: Path) -> bool:
    """Whether a save may go to this folder: empty, but for what a killed process left, or with a
    patchword model in it."""
    if not folder.is_dir():
        return False
    return matches((), Files(folder)) or all(
        path.name.startswith(PART) for path in folder.iterdir()
    )
