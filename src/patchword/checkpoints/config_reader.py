"""Reads the values of a checkpoint's config, checks them against its tensors, and notes each
default that was taken for a missing value."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

from patchword.checkpoints.read import LazyTensor
from patchword.config import TYPE_NAMES
from patchword.errors import CheckpointError

T = TypeVar("T", int, float, str, bool)
MAX_SHOWN = 100  # characters of a value in an error


@dataclass
class ConfigReader:
    """One object of a JSON file.

    where: its name in errors. assumed: collects the defaults that were taken for missing values.
    """

    where: str
    values: Mapping[str, Any]
    assumed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.values, Mapping):
            raise CheckpointError(f"{self.where} is {_short(self.values)}, not an object")

    def section(self, key: str) -> ConfigReader:
        """The object under `key`; an empty one if there is none."""
        return ConfigReader(f"{self.where}, {key}", self.values.get(key) or {}, self.assumed)

    def get(self, key: str, default: T, name: str, why: str) -> T:
        """The value under `key`, of the type of `default`.

        If it is missing or null: `default`, noted as assumed for the config value `name`, for the
        reason `why`.
        """
        if self.values.get(key) is None:
            self.assume(name, default, why)
            return default
        return self._typed(key, type(default))

    def optional(self, key: str, default: T) -> T:
        """The value under `key`, or `default` if the format itself defines that for a missing
        key: nothing is noted."""
        return default if self.values.get(key) is None else self._typed(key, type(default))

    def assume(self, name: str, value: object, why: str) -> None:
        """Note that config value `name` is `value`, though no file states it."""
        self.assumed[name] = f"{value}: not stated; {why}"

    def lookup(self, key: str, choices: Mapping[Any, str]) -> Any:
        """The entry of `choices` for the value under `key`, which must be there."""
        value = self.values[key]
        if isinstance(value, (list, dict)) or value not in choices:
            known = ", ".join(map(repr, choices))
            self.fail(key, f"which patchword does not compute; it knows {known}")
        return choices[value]

    def choice(
        self, key: str, choices: Mapping[Any, str], default: str, name: str, why: str
    ) -> Any:
        """`lookup`; if the value is missing, `default`, noted as in `get`."""
        if self.values.get(key) is None:
            self.assume(name, default, why)
            return default
        return self.lookup(key, choices)

    def size(self, key: str, tensors: Mapping[str, LazyTensor], tensor: str, axis: int = 0) -> int:
        """A dimension, from the value under `key` and from `axis` of the shape of `tensor`.

        Raises CheckpointError if the two disagree, or both are missing.
        """
        shape = tensors[tensor].shape if tensor in tensors else ()
        actual = shape[axis] if -len(shape) <= axis < len(shape) else None
        if self.values.get(key) is None:
            if actual is None:
                raise CheckpointError(f"neither {self.where} states {key} nor is there {tensor}")
            return actual
        value = self._typed(key, int)
        if actual is not None and value != actual:
            self.fail(key, f"but {tensor} is {shape}, which makes it {actual}")
        return value

    def depth(self, key: str, names: Collection[str], prefix: str) -> int:
        """A number of layers, from the value under `key` and from the tensor names that begin with
        `prefix`. Raises CheckpointError if the two disagree."""
        actual = depth(names, prefix)
        if self.values.get(key) is not None and self._typed(key, int) != actual:
            self.fail(key, f"but the weights have {actual} layers ({prefix}*)")
        return actual

    def heads(self, width: int, key: str, default: int, name: str, why: str) -> int:
        """A number of attention heads, which must divide the width."""
        heads = self.get(key, default, name, why)
        if heads < 1 or width % heads:
            self.fail(key, f"which does not divide the width {width}", heads)
        return heads

    def image_size(
        self,
        key: str,
        tensors: Mapping[str, LazyTensor],
        positions: str,
        patch: int,
        prefix: int = 1,
    ) -> tuple[int, int]:
        """An image size (H, W) in pixels, from the value under `key`, one number or two, and from
        the number of learned positions.

        positions: their tensor (..., N, D), the first `prefix` of them not for patches. If the
        value is missing, the grid is square. Raises CheckpointError if the two disagree, or both
        are missing.
        """
        shape = tensors[positions].shape if positions in tensors else ()
        count = shape[-2] - prefix if len(shape) > 1 else None
        if self.values.get(key) is None:
            if count is None:
                raise CheckpointError(f"neither {self.where} states {key} nor is there {positions}")
            side = math.isqrt(max(count, 0))
            if side * side != count:
                self.fail(key, f"and {positions} {shape} makes no square grid", "not stated")
            return side * patch, side * patch
        height, width = self.pair(key)
        if count is not None and (height // patch) * (width // patch) != count:
            self.fail(key, f"but {positions} is {shape}, at patches of {patch} pixels")
        return height, width

    def pair(self, key: str) -> tuple[int, int]:
        """Two positive integers; a single one stands for both."""
        value = self.values[key]
        both = value if isinstance(value, (list, tuple)) else [value, value]
        if len(both) != 2 or not all(type(v) is int and v > 0 for v in both):
            self.fail(key, "not one or two whole numbers of pixels")
        return both[0], both[1]

    def rgb(
        self, key: str, default: tuple[float, float, float], name: str, why: str
    ) -> tuple[float, float, float]:
        """Three numbers, for red, green and blue."""
        value = self.values.get(key)
        if value is None:
            self.assume(name, default, why)
            return default
        numbers = [_float(v) for v in value] if isinstance(value, (list, tuple)) else []
        if len(numbers) != 3 or None in numbers:
            self.fail(key, "not three numbers")
        return tuple(numbers)  # type: ignore[return-value]  # of three, none of them None

    def refuse_others(self, known: Collection[str], neutral: Mapping[str, Any]) -> None:
        """Raise CheckpointError for a key that is not supported: it may change the computation.

        known: keys that are read or do not matter. neutral: keys that change nothing if they have
        this value, or null.
        """
        for key, value in self.values.items():
            if key not in known and not (key in neutral and value in (None, neutral[key])):
                self.fail(key, "which patchword does not support")

    def fail(self, key: str, reason: str, value: object = None) -> NoReturn:
        """Raise CheckpointError that names `key` and its value in the file, or `value`."""
        shown = _short(self.values.get(key)) if value is None else value
        raise CheckpointError(f"{self.where} says {key} is {shown}, {reason}")

    def _typed(self, key: str, kind: type[T]) -> T:
        value = self.values[key]
        if kind is float:
            value = _float(value)
        if type(value) is not kind:
            self.fail(key, f"which is not {TYPE_NAMES[kind]}")
        return value


def _short(value: object) -> str:
    """A value as an error shows it."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _float(value: Any) -> float | None:
    """A number as a float; None for anything else, and for an integer that no float can hold."""
    try:
        return float(value) if type(value) in (int, float) else None
    except OverflowError:
        return None


def depth(names: Collection[str], prefix: str) -> int:
    """The number of layers: `prefix` is what comes before the layer's number in tensor names."""
    pattern = re.compile(rf"{re.escape(prefix)}(\d+)\.")
    matches = [pattern.match(name) for name in names]
    return 1 + max((int(match[1]) for match in matches if match), default=-1)


def shape_of(tensors: Mapping[str, LazyTensor], name: str, rank: int) -> tuple[int, ...]:
    """The shape of a tensor. Raises CheckpointError if it is missing or has not `rank`
    dimensions."""
    if name not in tensors:
        raise CheckpointError(f"it has no {name}")
    if len(tensors[name].shape) != rank:
        raise CheckpointError(f"{name} is {tensors[name].shape}; {rank} dimensions are expected")
    return tensors[name].shape


def scale_limit(tensors: Mapping[str, LazyTensor]) -> float:
    """100, as in CLIP's paper, or the checkpoint's own scale if it was trained without a limit.

    The original libraries clamp the scale in training only.
    """
    stored = tensors.get("logit_scale")
    if stored is None or stored.shape not in ((), (1,)):
        return 100.0
    return max(100.0, math.exp(float(stored.read())))
