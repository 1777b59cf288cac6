"""The receipt itself: its fields, and how it is filled, written and read."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from patchword.config import from_dict, to_dict
from patchword.errors import ConfigError, PatchwordError
from patchword.receipts.inputs import CARDS, TEXTS, card, noise, scattered

VERSION = 1  # of the format
SAMPLED = 64  # pixels of a card that a receipt holds
LONGEST = 1024  # numbers of a row that a receipt holds; of a longer one as many are picked
MOST = 1 << 24  # numbers of a card, and ids of a text, that a model could take
DIGITS = 8  # significant: half a unit of the last is 1/26 of RTOL
Stage = Literal[
    "pixels",
    "tokens",
    "image_tower",
    "text_tower",
    "class_logits",
    "pair_logits",
    "match_logits",
    "word_logits",
    "painted_patches",
]
Row = tuple[float, ...]
Inputs = list[NDArray[np.float32]]  # each (3, h, w)
Ids = list[list[int]]


@dataclass(frozen=True)
class Card:
    """A test card after preprocessing: all numbers float32, as the network gets them."""

    shape: tuple[int, ...]  # (3, H, W)
    mean: Row  # of each channel, summed in float64
    std: Row
    values: Row  # at `picked` of the flattened pixels


@dataclass(frozen=True)
class Tokens:
    """A text as ids: `ids`, then `pad` up to `length`."""

    text: str
    ids: tuple[int, ...]
    pad: int
    length: int

    @property
    def whole(self) -> list[int]:
        """The ids as a tower gets them."""
        return [*self.ids, *[self.pad] * (self.length - len(self.ids))]


@dataclass(frozen=True)
class Receipt:
    """The answers of one model. A stage that it does not have is empty."""

    receipt: int  # VERSION
    made_by: str  # "patchword 0.1.0", "transformers 5.23.0"
    model: str
    family: str = ""
    fingerprint: str = ""
    pixels: tuple[Card, ...] = ()  # of each of CARDS
    padding: Literal["ignored", "attended"] = "ignored"  # whether the text tower attends to it
    tokens: tuple[Tokens, ...] = ()  # of each of TEXTS
    image_tower: tuple[Row, ...] = ()  # raw features of `noise` in the shape of each card
    text_tower: tuple[Row, ...] = ()  # raw features of the ids in `tokens`
    class_logits: tuple[Row, ...] = ()  # of the same noise
    pair_logits: tuple[Row, ...] = ()  # of each noise with each text, before softmax or sigmoid
    match_logits: tuple[Row, ...] = ()  # no match and match, of each noise with each text
    word_logits: tuple[Row, ...] = ()  # of the next word about each noise after the first text
    painted_patches: tuple[Row, ...] = ()  # of each noise, hidden in the order of `order` (MAE)


def filled(
    attended: bool,
    *,
    pixels: Callable[[NDArray[np.uint8]], NDArray[np.float32]] | None = None,
    ids: Callable[[Sequence[str]], Sequence[Sequence[int]]] | None = None,
    image: Callable[[Inputs], Tensor] | None = None,
    text: Callable[[Ids], Tensor] | None = None,
    classes: Callable[[Inputs], Tensor] | None = None,
    pairs: Callable[[Inputs, Ids], Tensor] | None = None,
    matches: Callable[[Inputs, Ids], Tensor] | None = None,
    words: Callable[[Inputs, Ids], Tensor] | None = None,
    painted: Callable[[Inputs], Tensor] | None = None,
    texts: Sequence[str] = TEXTS,
) -> dict[str, Any]:
    """The stages of a receipt from the functions that compute them, of this library or another.

    None: the model has no such stage. attended: whether the text tower attends to padding. `pixels`
    takes a card (H, W, 3) to (3, h, w); the others give a row for each of their first inputs.
    texts: those of TEXTS that fit a library which does not cut them.
    """
    cards = [summary(pixels(card(*size))) for size in CARDS] if pixels else []
    tokens = [folded(t, row) for t, row in zip(texts, ids(texts), strict=True)] if ids else []
    inputs, rows = noises(cards), [each.whole for each in tokens]
    made: dict[Stage, Tensor | tuple[()]] = {
        "image_tower": image(inputs) if image else (),
        "text_tower": text(rows) if text else (),
        "class_logits": classes(inputs) if classes else (),
        "pair_logits": pairs(inputs, rows) if pairs else (),
        "match_logits": matches(inputs, rows) if matches else (),
        "word_logits": words(inputs, rows) if words else (),
        "painted_patches": painted(inputs) if painted else (),
    }
    return {
        "pixels": [to_dict(each) for each in cards],
        "padding": "attended" if attended else "ignored",
        "tokens": [to_dict(each) for each in tokens],
        **{name: [held(row) for row in rows] for name, rows in made.items()},
    }


def noises(cards: Sequence[Card]) -> Inputs:
    """One input for each card, of its shape."""
    return [noise(each.shape, seed) for seed, each in enumerate(cards, start=1)]


def summary(pixels: NDArray[np.float32]) -> Card:
    """A preprocessed card (3, H, W) in few numbers."""
    channels = pixels.reshape(3, -1).astype(np.float64)
    values = pixels.reshape(-1)[picked(pixels.size, SAMPLED)]
    return Card(pixels.shape, held(channels.mean(axis=1)), held(channels.std(axis=1)), held(values))


def folded(text: str, row: Sequence[int]) -> Tokens:
    """A row of ids; what repeats at its end is counted, so that padding takes no room."""
    kept = len(row)
    while kept > 1 and row[kept - 2] == row[-1]:
        kept -= 1
    return Tokens(text, tuple(map(int, row[:kept])), int(row[-1]) if len(row) else 0, len(row))


def held(row: Any) -> Row:
    """Numbers as a receipt holds them: rounded to DIGITS, of a long row LONGEST of them."""
    values = np.asarray(row, np.float64).reshape(-1)
    values = values[picked(values.size, LONGEST)]
    return tuple(float(f"{value:.{DIGITS}g}") for value in values)


def picked(size: int, count: int) -> NDArray[np.int64]:
    """Indices below `size`, in order: all of them, or `count` that fall without a pattern."""
    if size <= count:
        return np.arange(size)
    return np.sort(scattered(np.arange(count)) % size)


def to_text(receipt: Mapping[str, Any], ascii_only: bool = False) -> str:
    """A receipt as JSON to read: one line for each card, text and row."""
    lines = []
    for key, value in receipt.items():
        rows = [json.dumps(row, ensure_ascii=ascii_only) for row in value] if _nested(value) else []
        text = "[\n  " + ",\n  ".join(rows) + "\n ]" if rows else json.dumps(value)
        lines.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _nested(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 0


def parse(receipt: Mapping[str, Any]) -> Receipt:
    """JSON values as a Receipt. Raises PatchwordError for anything else."""
    if not isinstance(receipt, Mapping) or "receipt" not in receipt:
        raise PatchwordError('no receipt: it must be a JSON object with "receipt"')
    if receipt["receipt"] != VERSION:
        raise PatchwordError(
            f"a receipt of version {receipt['receipt']!r}, and this patchword reads version "
            f"{VERSION}: upgrade patchword, or make the receipt anew"
        )
    try:
        known = from_dict(Receipt, receipt)
    except ConfigError as error:
        raise PatchwordError(f"not a whole receipt: {error}") from error
    if not any(getattr(known, stage) for stage in get_args(Stage)):
        raise PatchwordError("an empty receipt: there is nothing to compare")
    _check_sizes(known)
    if known.pixels and len(known.pixels) != len(CARDS):
        raise PatchwordError(f"not a whole receipt: {len(known.pixels)} cards, not {len(CARDS)}")
    return known


def _check_sizes(known: Receipt) -> None:
    """Raise PatchwordError for inputs that no model takes, before they are made."""
    for card_ in known.pixels:
        if len(card_.shape) != 3 or min(card_.shape) < 1 or math.prod(card_.shape) > MOST:
            shape = "x".join(map(str, card_.shape))
            raise PatchwordError(f"not a whole receipt: a card becomes {shape}, not 3 x H x W")
    for text in known.tokens:
        if not len(text.ids) <= text.length <= MOST:
            raise PatchwordError(
                f"not a whole receipt: {text.text[:20]!r} has {len(text.ids)} ids, padded to "
                f"{text.length}"
            )
