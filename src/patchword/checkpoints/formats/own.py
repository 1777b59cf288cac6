"""patchword's own format: config.json, model.safetensors and tokenizer.json in one folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from patchword.checkpoints.read import Files, Stored
from patchword.checkpoints.rules import Rule, Same
from patchword.config import ModelConfig, from_dict, to_dict
from patchword.errors import CheckpointError, ConfigError

TITLE = "a patchword model"
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
VERSION = 1  # of the format, in config.json under MARK
MARK = "patchword"
EXPECTS = f'{CONFIG_FILE} with "{MARK}": {VERSION}, and {WEIGHTS_FILE}'


def matches(keys: Collection[str], files: Mapping[str, Any]) -> bool:
    """Whether config.json carries our mark."""
    stated = files.get(CONFIG_FILE)
    return isinstance(stated, dict) and MARK in stated


def config(tensors: Mapping[str, Stored], files: Mapping[str, Any]) -> ModelConfig:
    """What config.json says. Raises CheckpointError when it is of a later version or broken."""
    stated = files[CONFIG_FILE]
    if stated[MARK] != VERSION:
        raise CheckpointError(
            f"{CONFIG_FILE} is of version {stated[MARK]!r} of the format, and this patchword reads "
            f"version {VERSION}: upgrade patchword"
        )
    try:
        read = from_dict(ModelConfig, stated.get("model", {}))
    except ConfigError as error:
        raise CheckpointError(f"{CONFIG_FILE}: {error}") from error
    return dataclasses.replace(read, source="patchword")


def rules(config: ModelConfig) -> Iterator[Rule]:
    """Every tensor is called what the network calls it."""
    yield Same()


def describe(config: ModelConfig, weights: str) -> dict[str, Any]:
    """The contents of config.json. weights: a hash of the weights that belong to it."""
    return {MARK: VERSION, "weights": weights, "model": to_dict(config)}


def check(metadata: Mapping[str, str], files: Mapping[str, Any]) -> None:
    """Raise CheckpointError when weights and config.json state different saves."""
    stated = files.get(CONFIG_FILE)
    weights = stated.get("weights") if isinstance(stated, dict) else None
    if MARK in metadata and weights is not None and metadata[MARK] != weights:
        raise CheckpointError(
            f"{WEIGHTS_FILE} and {CONFIG_FILE} are of two different saves; one was interrupted, or "
            "a file was replaced by hand: save the model again"
        )


def may_replace(folder: Path) -> bool:
    """Whether a save may go to this folder: empty, or with a patchword model in it."""
    if not folder.is_dir():
        return False
    return matches((), Files(folder)) or not any(folder.iterdir())
