"""Comparison of a model with a receipt."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from patchword.bundle import Bundle
from patchword.errors import PatchwordError
from patchword.receipts.answers import Answers
from patchword.receipts.graph_answers import answers_of
from patchword.receipts.inputs import CARDS, card
from patchword.receipts.receipt import (
    SAMPLED,
    Card,
    Receipt,
    Row,
    Stage,
    held,
    noises,
    parse,
    picked,
    summary,
)

# torch.testing.assert_close's for float32. A receipt may come from a machine that adds the same
# numbers in another order, and a sum's rounding goes by its largest terms, not by what is left of
# them: so atol is of a row whose largest value is 1, and grows with that value.
RTOL, ATOL = 1.3e-6, 1e-5
COSINE = 4 * 2**-24  # pair logits besides: a cosine's last bits, times the scale (up to 100)

# What networks raise at inputs of another model's shapes: sizes, ids, a list where one tensor goes.
UNFIT = (RuntimeError, IndexError, ValueError, TypeError, AttributeError)

Differ = Callable[[Sequence[float], Sequence[float]], tuple[float, int]]
Found = tuple[float, str, str]  # largest difference, what differs ("" for nothing), hint
STAGES: dict[Stage, str] = {  # in order, with what is usually wrong
    "pixels": "resizing (shortest side, squash, patches), crop, interpolation, rescale, mean, std",
    "tokens": "context length, start or end token, padding, or how a text is cleaned first",
    "image_tower": "activation (GELU, QuickGELU, tanh), LayerNorm eps, heads, pooling, positions, "
    "or other weights",
    "text_tower": "activation (GELU, QuickGELU, tanh), LayerNorm eps, heads, mask, end token, "
    "pooling, or other weights",
    "class_logits": "the head's weights, or what is pooled before it",
    "pair_logits": "temperature (logit_scale), its limit, or the bias",
    "match_logits": "cross-attention to the image, the first token of a text, or the matching head",
    "word_logits": "the decoder's masks, its first token, or its weights",
    "painted_patches": "the decoder: its positions, depth, heads, or the share of hidden patches",
}


@dataclass(frozen=True)
class Difference:
    """A stage in which a model and a receipt differ."""

    stage: Stage
    reason: str  # what was found where
    largest: float  # absolute difference; inf where numbers cannot be compared
    hint: str  # likely causes


def verify(
    bundle: Bundle, receipt: Mapping[str, Any], rtol: float = RTOL, atol: float = ATOL
) -> list[Difference]:
    """The stages of a receipt in which a model differs, in order; [] for the same model.

    Numbers may differ by atol * m + rtol * |number|, where m is the largest |number| of their row,
    or 1 if that is more; pair logits by COSINE times the scale besides.
    Half precision needs more than the defaults, and so may another device. Raises PatchwordError
    for what is not a receipt of this version.
    """
    return [found for _, _, found in compare(bundle, receipt, rtol, atol) if found is not None]


def compare(
    bundle: Bundle, receipt: Mapping[str, Any], rtol: float = RTOL, atol: float = ATOL
) -> Iterator[tuple[Stage, float, Difference | None]]:
    """Each stage that a receipt has: its name, the largest difference, and whether that counts."""
    known, ours = parse(receipt), answers_of(bundle)
    differ = partial(_difference, rtol=rtol, atol=atol)
    scaled = partial(_difference, rtol=rtol, atol=atol + COSINE * bundle.scale)
    inputs, rows = noises(known.pixels), [each.whole for each in known.tokens]
    ways: dict[Stage, Callable[[], Found]] = {
        "pixels": lambda: _pixels(ours, known, differ),
        "tokens": lambda: _tokens(ours, known),
        "image_tower": lambda: _rows(ours.image_tower(inputs), known.image_tower, differ),
        "text_tower": lambda: _rows(ours.text_tower(rows), known.text_tower, differ),
        "class_logits": lambda: _rows(ours.class_logits(inputs), known.class_logits, differ),
        "pair_logits": lambda: _rows(ours.pair_logits(inputs, rows), known.pair_logits, scaled),
        "match_logits": lambda: _rows(ours.match_logits(inputs, rows), known.match_logits, differ),
        "word_logits": lambda: _rows(ours.word_logits(inputs, rows), known.word_logits, differ),
        "painted_patches": lambda: _rows(
            ours.painted_patches(inputs), known.painted_patches, differ
        ),
    }
    for stage, way in ways.items():
        if not getattr(known, stage):
            continue
        try:
            largest, reason, hint = _missing(stage, ours) or way()
        except (PatchwordError, *UNFIT) as error:
            largest, reason, hint = np.inf, f"cannot be computed: {error}", ""
        likely = hint or _likely(stage, bundle)
        yield stage, largest, Difference(stage, reason, largest, likely) if reason else None


def not_compared(bundle: Bundle, receipt: Mapping[str, Any]) -> list[Stage]:
    """The stages of a model that a receipt has nothing of: they may differ all the same."""
    known, ours = parse(receipt), answers_of(bundle)
    return [stage for stage in STAGES if not getattr(known, stage) and not _missing(stage, ours)]


def _likely(stage: Stage, bundle: Bundle) -> str:
    """What is usually wrong, and before it that a model in fewer bits is never quite the same."""
    dtype = str(bundle.engine.dtype).removeprefix("torch.")
    if dtype == "float32" or stage in ("pixels", "tokens"):
        return STAGES[stage]
    return f"{dtype}, whose numbers need a larger atol; if it is more than that: {STAGES[stage]}"


def _missing(stage: Stage, ours: Answers) -> Found | None:
    """The part that a stage needs, if the model does not have it."""
    config = ours.bundle.config
    lacks = {
        "an image tower": not ours.sees and stage not in ("tokens", "text_tower"),
        "a tokenizer": stage == "tokens" and config.text_or_decoder is None,
        "a text tower": not ours.reads and stage in ("text_tower", "pair_logits"),
        "classes": not config.classes and stage == "class_logits",
        "a matching head": not config.matching and stage == "match_logits",
        "a decoder of words": not ours.writes and stage == "word_logits",
        "a masked autoencoder's decoder": not config.masked and stage == "painted_patches",
    }
    for part, lacking in lacks.items():
        if lacking:
            return np.inf, f"the receipt is of a model with {part}, and this one has none", ""
    return None


def _difference(
    ours: Sequence[float], theirs: Sequence[float], rtol: float, atol: float
) -> tuple[float, int]:
    """The largest difference of two rows of one length, and how many are beyond the tolerance."""
    a, b = np.array(ours), np.array(theirs)
    with np.errstate(invalid="ignore"):
        difference = np.abs(a - b)
        size = np.nan_to_num(np.abs(b), nan=0.0, posinf=0.0).max(initial=1.0)
        near = (difference <= atol * size + rtol * np.abs(b)) & np.isfinite(b)
        beyond = ~near & (a != b)
    largest = float(np.nan_to_num(difference, nan=np.inf).max(initial=0, where=beyond | (a != b)))
    return largest, int(beyond.sum())


def _rows(ours: Tensor, theirs: Sequence[Row], differ: Differ) -> Found:
    """Rows of features or logits."""
    if len(ours) != len(theirs):
        return np.inf, f"{len(ours)} rows, and {len(theirs)} in the receipt", ""
    largest, wrong = 0.0, 0
    for mine, row in zip(map(held, ours), theirs, strict=True):
        if len(mine) != len(row):
            return np.inf, f"{len(mine)} numbers an input, and {len(row)} in the receipt", ""
        most, beyond = differ(mine, row)
        largest, wrong = max(largest, most), wrong + (beyond > 0)
    return largest, f"{wrong} of {len(theirs)} inputs differ" if wrong else "", ""


def _pixels(ours: Answers, known: Receipt, differ: Differ) -> Found:
    """The test cards."""
    largest, wrong, pairs = 0.0, [], []
    for size, theirs in zip(CARDS, known.pixels, strict=True):
        mine = summary(ours.pixels(card(*size)))
        name = f"the card of {size[0]}x{size[1]} pixels"
        if mine.shape != theirs.shape:
            found = ["x".join(map(str, shape)) for shape in (mine.shape, theirs.shape)]
            return np.inf, f"{name} becomes {found[0]}, and {found[1]} in the receipt", ""
        numbers = [(*each.values, *each.mean, *each.std) for each in (mine, theirs)]
        most, beyond = differ(*numbers)
        largest = max(largest, most)
        pairs.append((mine, theirs))
        if beyond:
            wrong.append(f"{beyond} of the {len(numbers[0])} numbers of {name}")
    hint = "rescale, mean or std: the picture is the same in other levels"
    return largest, " and ".join(wrong), hint if wrong and _same_picture(pairs) else ""


def _same_picture(pairs: Sequence[tuple[Card, Card]]) -> bool:
    """Whether the cards of a receipt are ours times a number plus a number in each channel."""
    plane = [np.prod(mine.shape[1:]) for mine, _ in pairs]
    where = [picked(int(3 * n), SAMPLED) // n for n in plane]
    channel = np.concatenate(where)
    ours = np.concatenate([mine.values for mine, _ in pairs])
    theirs = np.concatenate([other.values for _, other in pairs])
    for c in range(3):
        x, y = ours[channel == c], theirs[channel == c]
        if len(x) < 3 or np.ptp(x) == 0:
            return False
        line = np.polyval(np.polyfit(x, y, 1), x)
        if not np.abs(line - y).max() < 1e-4:  # half a grey level is 40 times as much
            return False
    return True


def _tokens(ours: Answers, known: Receipt) -> Found:
    """The texts: equal as the tower sees them. Padding counts where the receipt says that it
    is attended to, or where it would be taken for something else."""
    texts = [each.text for each in known.tokens]
    for theirs, row in zip(known.tokens, ours.ids(texts), strict=True):
        reason, hint = _first_difference(row, theirs.whole, ours.end, known.padding == "attended")
        if reason:
            return np.inf, f"{json.dumps(theirs.text[:30], ensure_ascii=False)}: {reason}", hint
    return 0.0, "", ""


def _first_difference(
    ours: list[int], theirs: list[int], end: int, attended: bool
) -> tuple[str, str]:
    """The first difference of two rows of ids and its likely cause; "" twice without one.

    One may be longer by padding behind the end token, unless padding is attended to.
    """
    short, long = sorted((ours, theirs), key=len)
    same = next((i for i in range(len(short)) if ours[i] != theirs[i]), None)
    if same is None:
        rest = set(long[len(short) :])
        padded = len(rest) == 1 and short[-1:] == [end]
        if not rest or (padded and not attended):
            return "", ""
        found = f"{len(ours)} ids, and {len(theirs)} in the receipt"
        return (
            found,
            "padding: to the context, or not" if padded else "context length, or end token",
        )
    found = f"id {same} is {ours[same]}, and {theirs[same]} in the receipt"
    if len(set(ours[same:])) == 1 and len(set(theirs[same:])) == 1:
        return found, "end token, or padding"
    if len(ours) != len(theirs) and same >= len(short) - 1:
        return found, "context length"
    return found, ""
