"""The fields of a receipt, and how it is made, written and read."""

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
from patchword.receipts.inputs import CARDS, TEXTS, card, hashed, noise

VERSION = 1  # of the format
CARD_SAMPLES = 64  # pixels of a card in a receipt
MAX_ROW = 1024  # numbers of a row in a receipt; a longer row is sampled
MAX_INPUT = 1 << 24  # numbers of a card, and ids of a text, that any model can take
DIGITS = 8  # significant ones; half a unit of the last is 1/26 of RTOL
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
    """A test card after preprocessing, as the network gets it (float32), summarised."""

    shape: tuple[int, ...]  # (3, H, W)
    mean: Row  # of each channel, summed in float64
    std: Row
    values: Row  # samples of the flattened pixels


@dataclass(frozen=True)
class Tokens:
    """The ids of a text: `ids`, then the id `pad` up to `length`."""

    text: str
    ids: tuple[int, ...]
    pad: int
    length: int

    @property
    def padded(self) -> list[int]:
        """The ids as a text tower gets them."""
        return list(self.ids) + [self.pad] * (self.length - len(self.ids))


@dataclass(frozen=True)
class Receipt:
    """The outputs of one model. A stage that it does not have is empty."""

    receipt: int  # VERSION
    made_by: str  # "patchword 0.1.0", "transformers 5.23.0"
    model: str
    family: str = ""
    fingerprint: str = ""
    pixels: tuple[Card, ...] = ()  # of each of CARDS
    padding: Literal["ignored", "attended"] = "ignored"  # by the text tower
    tokens: tuple[Tokens, ...] = ()  # of each of TEXTS
    image_tower: tuple[Row, ...] = ()  # raw features of `noise` in the shape of each card
    text_tower: tuple[Row, ...] = ()  # raw features of the ids in `tokens`
    class_logits: tuple[Row, ...] = ()  # of the same noise
    pair_logits: tuple[Row, ...] = ()  # of each noise with each text, before softmax or sigmoid
    match_logits: tuple[Row, ...] = ()  # no match and match, of each noise with each text
    word_logits: tuple[Row, ...] = ()  # of the next word after the first text, for each noise
    painted_patches: tuple[Row, ...] = ()  # of each noise, hidden in the order of `shuffled` (MAE)


def stages(
    attends_padding: bool,
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

    attends_padding: whether the text tower attends to padding. pixels: preprocesses a card
    (H, W, 3) to (3, h, w). The other functions return a row for each of their first inputs; None:
    the model has no such stage. texts: without those that are too long for a library that does not
    cut them.
    """
    cards = []
    if pixels is not None:
        cards = [summarised(pixels(card(*size))) for size in CARDS]
    tokens = []
    if ids is not None:
        tokens = [tokens_of(text, row) for text, row in zip(texts, ids(texts), strict=True)]
    inputs, rows = noise_inputs(cards), [text.padded for text in tokens]
    outputs: dict[Stage, Tensor | tuple[()]] = {
        "image_tower": image(inputs) if image else (),
        "text_tower": text(rows) if text else (),
        "class_logits": classes(inputs) if classes else (),
        "pair_logits": pairs(inputs, rows) if pairs else (),
        "match_logits": matches(inputs, rows) if matches else (),
        "word_logits": words(inputs, rows) if words else (),
        "painted_patches": painted(inputs) if painted else (),
    }
    return {
        "pixels": [to_dict(card_) for card_ in cards],
        "padding": "attended" if attends_padding else "ignored",
        "tokens": [to_dict(text_) for text_ in tokens],
        **{stage: [to_row(values) for values in output] for stage, output in outputs.items()},
    }


def noise_inputs(cards: Sequence[Card]) -> Inputs:
    """Noise in the shape of each card."""
    return [noise(card_.shape, seed) for seed, card_ in enumerate(cards, start=1)]


def summarised(pixels: NDArray[np.float32]) -> Card:
    """The summary of a preprocessed card (3, H, W)."""
    channels = pixels.reshape(3, -1).astype(np.float64)
    return Card(
        shape=pixels.shape,
        mean=to_row(channels.mean(axis=1)),
        std=to_row(channels.std(axis=1)),
        values=to_row(pixels.reshape(-1)[sample_indices(pixels.size, CARD_SAMPLES)]),
    )


def tokens_of(text: str, row: Sequence[int]) -> Tokens:
    """The ids of a text without the padding: the last id, if it is repeated at the end."""
    count = len(row)
    while count > 1 and row[count - 2] == row[-1]:
        count -= 1
    ids = tuple(int(id_) for id_ in row[:count])
    return Tokens(text, ids, pad=int(row[-1]) if len(row) else 0, length=len(row))


def to_row(values: Any) -> Row:
    """Numbers as in a receipt: rounded to DIGITS, and sampled if there are more than MAX_ROW."""
    flat = np.asarray(values, np.float64).reshape(-1)
    samples = flat[sample_indices(flat.size, MAX_ROW)]
    return tuple(float(f"{value:.{DIGITS}g}") for value in samples)


def sample_indices(size: int, count: int) -> NDArray[np.int64]:
    """Sorted indices below `size`: all of them, or `count` pseudo-random ones."""
    if size <= count:
        return np.arange(size)
    return np.sort(hashed(np.arange(count)) % size)


def to_text(receipt: Mapping[str, Any], ascii_only: bool = False) -> str:
    """A receipt as JSON that people can read: one line for each card, text and row."""
    lines = []
    for key, value in receipt.items():
        text = json.dumps(value)
        if isinstance(value, (list, tuple)) and value:
            rows = [json.dumps(row, ensure_ascii=ascii_only) for row in value]
            text = "[\n  " + ",\n  ".join(rows) + "\n ]"
        lines.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


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
        parsed = from_dict(Receipt, receipt)
    except ConfigError as error:
        raise PatchwordError(f"not a whole receipt: {error}") from error
    if not any(getattr(parsed, stage) for stage in get_args(Stage)):
        raise PatchwordError("an empty receipt: there is nothing to compare")
    _check_sizes(parsed)
    if parsed.pixels and len(parsed.pixels) != len(CARDS):
        raise PatchwordError(f"not a whole receipt: {len(parsed.pixels)} cards, not {len(CARDS)}")
    return parsed


def _check_sizes(receipt: Receipt) -> None:
    """Raise PatchwordError for inputs that are too large for any model, before they are made."""
    for card_ in receipt.pixels:
        if len(card_.shape) != 3 or min(card_.shape) < 1 or math.prod(card_.shape) > MAX_INPUT:
            shape = "x".join(map(str, card_.shape))
            raise PatchwordError(f"not a whole receipt: a card becomes {shape}, not 3 x H x W")
    for text in receipt.tokens:
        if not len(text.ids) <= text.length <= MAX_INPUT:
            raise PatchwordError(
                f"not a whole receipt: {text.text[:20]!r} has {len(text.ids)} ids, padded to "
                f"{text.length}"
            )
