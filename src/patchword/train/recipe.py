"""A training run as data: a TOML file and `key=value` changes to it."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from patchword.config import ModelConfig, from_dict
from patchword.data import SourceConfig
from patchword.errors import ConfigError, RecipeError


@dataclass(frozen=True)
class Recipe:
    """Everything that a run depends on. Paths are relative to where the command is run."""

    out: str  # folder for checkpoints, metrics and the finished model
    model: ModelConfig
    data: tuple[SourceConfig, ...]
    steps: int  # of the schedule
    until: int = 0  # stop at this step of it; 0: at its end
    batch: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.05  # not on norms, biases, positions and the temperature
    warmup: int = 500  # steps; then cosine to zero (Loshchilov & Hutter 2017)
    clip_norm: float = 1.0
    ema: float = 0.999  # decay of the weight average that is saved; 0 saves the weights themselves
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    init: str = ""  # a patchword model to start from, and whose tokenizer to keep
    checkpoint_every: int = 500  # steps


def load(path: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe. `changes` are "key=value" or "data.0.path=photos": dots go down, numbers
    into lists, values are TOML, or plain strings.

    Raises RecipeError for a file that is missing or not TOML, an unknown key, or a bad value.
    """
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise RecipeError(f"{path} is not TOML: {error}") from error
    for change in changes:
        _apply(values, change)
    try:
        return from_dict(Recipe, values)
    except ConfigError as error:
        raise RecipeError(f"{path}: {error}") from error


def _apply(values: Any, change: str) -> None:
    key, equals, text = change.partition("=")
    if not equals:
        raise RecipeError(f"{change!r} is not key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = (int(part) if part.isdigit() else part for part in key.split("."))
    try:
        for part in parents:
            values = values[part]
        values[last] = value
    except (KeyError, IndexError, TypeError) as error:
        raise RecipeError(f"{change!r}: the recipe has no {key!r}") from error
