"""Reads a checkpoint's config values, checks them against its tensors, and notes each default."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, TypeVar

from patchword.checkpoints.read import Stored
from patchword.config import TYPE_NAMES
from patchword.errors import CheckpointError

CLIP_END = "<|endoftext|>"
T = TypeVar("T", int, float, str, bool)
SHOWN = 100  # characters of a value in an error


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

    def part(self, key: str) -> ConfigReader:
        """The object under `key`; an empty one when there is none."""
        return ConfigReader(f"{self.where}, {key}", self.values.get(key) or {}, self.assumed)

    def get(self, key: str, default: T, name: str, why: str) -> T:
        """The value under `key`, of the type of `default`.

        Where it is missing or null: `default`, noted as config value `name` with `why`.
        """
        if self.values.get(key) is None:
            self.assume(name, default, why)
            return default
        return self._typed(key, type(default))

    def optional(self, key: str, default: T) -> T:
        """The value under `key`, or `default` where the format defines that for a missing key."""
        return default if self.values.get(key) is None else self._typed(key, type(default))

    def assume(self, name: str, value: object, why: str) -> None:
        """Note that config value `name` is `value` though no file says so."""
        self.assumed[name] = f"{value}: not stated; {why}"

    def choice(
        self, key: str, choices: Mapping[Any, str], default: str, name: str, why: str
    ) -> Any:
        """The entry of `choices` for the value under `key`; where that is missing, `default`, noted
        as in `get`."""
        value = self.values.get(key)
        if value is None:
            self.assume(name, default, why)
            return default
        if isinstance(value, (list, dict)) or value not in choices:
            known = ", ".join(map(repr, choices))
            self.fail(key, f"which patchword does not compute; it knows {known}")
        return choices[value]

    def size(self, key: str, tensors: Mapping[str, Stored], tensor: str, axis: int = 0) -> int:
        """A dimension, from the value under `key` and from `axis` of the shape of `tensor`.

        Raises CheckpointError when the two disagree, or both are missing.
        """
        shape = tensors[tensor].shape if tensor in tensors else ()
        found = shape[axis] if -len(shape) <= axis < len(shape) else None
        if self.values.get(key) is None:
            if found is None:
                raise CheckpointError(f"neither {self.where} states {key} nor is there {tensor}")
            return found
        value = self._typed(key, int)
        if found is not None and value != found:
            self.fail(key, f"but {tensor} is {shape}, which makes it {found}")
        return value

    def depth(self, key: str, keys: Collection[str], prefix: str) -> int:
        """A number of layers, from the value under `key` and from the tensor names under `prefix`.

        Raises CheckpointError when the two disagree.
        """
        found = depth(keys, prefix)
        if self.values.get(key) is not None and self._typed(key, int) != found:
            self.fail(key, f"but the weights have {found} layers ({prefix}*)")
        return found

    def heads(self, width: int, key: str, default: int, name: str, why: str) -> int:
        """A number of heads, which must divide the width."""
        heads = self.get(key, default, name, why)
        if heads < 1 or width % heads:
            self.fail(key, f"which does not divide the width {width}", heads)
        return heads

    def grid(
        self,
        key: str,
        tensors: Mapping[str, Stored],
        tensor: str,
        patch: int,
        extra: int = 1,
    ) -> tuple[int, int]:
        """An image size (H, W) in pixels, from the value under `key`, one number or two, and from
        the number of learned positions.

        tensor: the positions (..., N, D), `extra` of them not of patches. Where the value is
        missing, the grid is square. Raises CheckpointError when the two disagree, or both are
        missing.
        """
        shape = tensors[tensor].shape if tensor in tensors else ()
        count = shape[-2] - extra if len(shape) > 1 else None
        if self.values.get(key) is None:
            if count is None:
                raise CheckpointError(f"neither {self.where} states {key} nor is there {tensor}")
            side = math.isqrt(max(count, 0))
            if side * side != count:
                self.fail(key, f"and {tensor} {shape} makes no square grid", "not stated")
            return side * patch, side * patch
        height, width = self.pair(key)
        if count is not None and (height // patch) * (width // patch) != count:
            self.fail(key, f"but {tensor} is {shape}, at patches of {patch} pixels")
        return height, width

    def pair(self, key: str) -> tuple[int, int]:
        """Two positive integers; a single one stands for both."""
        value = self.values[key]
        both = value if isinstance(value, (list, tuple)) else [value, value]
        if len(both) != 2 or not all(type(v) is int and v > 0 for v in both):
            self.fail(key, "not one or two whole numbers of pixels")
        return both[0], both[1]

    def triple(
        self, key: str, default: tuple[float, float, float], name: str, why: str
    ) -> tuple[float, float, float]:
        """Three numbers, for red, green and blue."""
        value = self.values.get(key)
        if value is None:
            self.assume(name, default, why)
            return default
        three = [_float(v) for v in value] if isinstance(value, (list, tuple)) else []
        if len(three) != 3 or None in three:
            self.fail(key, "not three numbers")
        return tuple(three)  # type: ignore[return-value]  # of three, none of them None

    def only(self, known: Collection[str], neutral: Mapping[str, Any]) -> None:
        """Raise CheckpointError for a key that changes what is computed, and is not understood.

        known: keys that are read or do not matter. neutral: keys that may be there with this value
        (or null), which changes nothing.
        """
        for key, value in self.values.items():
            if key not in known and not (key in neutral and value in (None, neutral[key])):
                self.fail(key, "which patchword does not support")

    def fail(self, key: str, reason: str, value: object = None) -> NoReturn:
        """Raise CheckpointError naming `key` and its value, or the `value` given."""
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
    shown = repr(value)
    return shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."


def _float(value: Any) -> float | None:
    """A number as a float; None for what is no number, or a whole one that no float can hold."""
    try:
        return float(value) if type(value) in (int, float) else None
    except OverflowError:
        return None


def depth(keys: Collection[str], prefix: str) -> int:
    """How many layers are numbered under `prefix`, which ends before the number."""
    number = re.compile(rf"{re.escape(prefix)}(\d+)\.")
    return 1 + max((int(m[1]) for key in keys if (m := number.match(key))), default=-1)


def shape_of(tensors: Mapping[str, Stored], name: str, rank: int) -> tuple[int, ...]:
    """The shape of a tensor from which a size is read. Raises CheckpointError without it."""
    if name not in tensors:
        raise CheckpointError(f"it has no {name}")
    if len(tensors[name].shape) != rank:
        raise CheckpointError(f"{name} is {tensors[name].shape}; {rank} dimensions are expected")
    return tensors[name].shape


def scale_limit(tensors: Mapping[str, Stored]) -> float:
    """100, as in CLIP's paper, or the checkpoint's own scale if it was trained without a limit.

    The original libraries clamp the scale in training only.
    """
    stored = tensors.get("logit_scale")
    value = stored.read() if stored and stored.shape in ((), (1,)) else None
    return max(100.0, math.exp(float(value))) if value is not None else 100.0


def end_of(files: Mapping[str, Any], vocab_size: int) -> tuple[int, Literal["end", "highest"]]:
    """The end token of texts that are pooled at their highest id, and the kind of pooling.

    The end token is CLIP's, the last of its vocabulary; if tokens were added to the tokenizer after
    it, a text with one of them is pooled there. Without a tokenizer, the last id is the end token.
    """
    ids = vocabulary(files)
    last = max(ids.values(), default=vocab_size - 1)
    end = special_id(files, "eos_token")
    if end is None:
        end = ids.get(CLIP_END, last)
    return end, "end" if end == last else "highest"


def special_word(files: Mapping[str, Any], name: str) -> tuple[str | None, str]:
    """The token that the tokenizer's files call `name`, such as "pad_token", and the file that says
    so; (None, "") when none does.

    As transformers reads them: special_tokens_map.json comes before tokenizer_config.json, unless
    the latter lists its special tokens itself ("added_tokens_decoder").
    """
    order = ["special_tokens_map.json", "tokenizer_config.json"]
    whole = files.get(order[1])
    if isinstance(whole, dict) and whole.get("added_tokens_decoder"):
        order = order[1:]
    for file in order:
        content = files.get(file)
        token = content.get(name) if isinstance(content, dict) else None
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            return token, file
    return None, ""


def special_id(files: Mapping[str, Any], name: str) -> int | None:
    """The id of that token; None when the checkpoint's files do not name it."""
    word, _ = special_word(files, name)
    return None if word is None else vocabulary(files).get(word)


def vocabulary(files: Mapping[str, Any]) -> dict[str, int]:
    """Ids by token of tokenizer.json, of any kind, else of vocab.json and what was added to it;
    empty without either."""
    whole, listed = files.get("tokenizer.json"), files.get("vocab.json")
    added: Any = ()
    if isinstance(whole, dict):
        model, added = whole.get("model"), whole.get("added_tokens")
        listed = model.get("vocab") if isinstance(model, dict) else None
    elif isinstance(listed, dict):
        added = _beside(files)
    if isinstance(listed, list):  # unigrams: pieces with their scores, in the order of their ids
        rows = ((row, i) for i, row in enumerate(listed) if isinstance(row, list) and row)
        listed = {row[0]: i for row, i in rows if isinstance(row[0], str)}
    ids = {**listed} if isinstance(listed, dict) else {}
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict) and isinstance(token.get("content"), str):
            ids[token["content"]] = token.get("id")
    return {k: i for k, i in ids.items() if isinstance(k, str) and type(i) is int}


def _beside(files: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tokens that the files beside a vocab.json add to it, as a tokenizer.json lists them."""
    options, more = files.get("tokenizer_config.json"), files.get("added_tokens.json")
    listed = options.get("added_tokens_decoder") if isinstance(options, dict) else None
    found: list[dict[str, Any]] = []
    for token, id_ in more.items() if isinstance(more, dict) else ():
        found.append({"content": token, "id": id_})
    for id_, token in listed.items() if isinstance(listed, dict) else ():
        if isinstance(token, dict) and id_.isdecimal():
            found.append({"content": token.get("content"), "id": int(id_)})
    return found
