"""Comparison of a model with a receipt."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from patchword.bundle import Bundle
from patchword.errors import PatchwordError
from patchword.receipts.answers import Answers
from patchword.receipts.graph_answers import answers_of
from patchword.receipts.inputs import CARDS, card
from patchword.receipts.receipt import (
    CARD_SAMPLES,
    Card,
    Receipt,
    Row,
    Stage,
    noise_inputs,
    parse,
    sample_indices,
    summarised,
    to_row,
)

# torch.testing.assert_close's for float32. A receipt may come from a machine that adds the same
# numbers in another order. The rounding error of a sum depends on its largest terms, not on the
# result: so atol is for a row whose largest value is 1, and is multiplied by that value.
RTOL, ATOL = 1.3e-6, 1e-5
COSINE_ATOL = 4 * 2**-24  # of a cosine; in pair logits it is multiplied by the scale, up to 100

# Errors of networks at the inputs of another model: sizes, ids, or a list instead of a tensor.
INPUT_ERRORS = (RuntimeError, IndexError, ValueError, TypeError, AttributeError)

# Compares two rows: the largest difference, and how many numbers are beyond the tolerance.
CompareRows = Callable[[Sequence[float], Sequence[float]], tuple[float, int]]
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


class Comparison(NamedTuple):
    """The comparison of one stage."""

    largest: float  # absolute difference; inf if numbers cannot be compared
    reason: str  # what differs; "" for nothing
    hint: str = ""  # a likely cause; "": that of `STAGES`


@dataclass(frozen=True)
class Difference:
    """A stage in which a model and a receipt differ."""

    stage: Stage
    reason: str  # what differs
    largest: float  # absolute difference; inf if numbers cannot be compared
    hint: str  # likely causes


def verify(
    bundle: Bundle, receipt: Mapping[str, Any], rtol: float = RTOL, atol: float = ATOL
) -> list[Difference]:
    """The stages of a receipt in which a model differs, in order; [] for the same model.

    Numbers may differ by atol * m + rtol * |number|, where m is the largest |number| of their row,
    or 1 if that is larger; pair logits by COSINE_ATOL times the scale more. Half precision needs
    more than the defaults, and another device may too. Raises PatchwordError if it is not a receipt
    of this version.
    """
    compared = compare(bundle, receipt, rtol, atol)
    return [difference for _, _, difference in compared if difference is not None]


def compare(
    bundle: Bundle, receipt: Mapping[str, Any], rtol: float = RTOL, atol: float = ATOL
) -> Iterator[tuple[Stage, float, Difference | None]]:
    """Each stage that a receipt has: its name, the largest difference, and the `Difference` if that
    is beyond the tolerance."""
    known, answers = parse(receipt), answers_of(bundle)
    for stage in STAGES:
        if not getattr(known, stage):
            continue
        stage_atol = atol + COSINE_ATOL * bundle.scale if stage == "pair_logits" else atol
        compare_rows = partial(_compare_rows, rtol=rtol, atol=stage_atol)
        try:
            result = _compare_stage(stage, answers, known, compare_rows)
        except (PatchwordError, *INPUT_ERRORS) as error:
            result = Comparison(np.inf, f"cannot be computed: {error}")
        difference = None
        if result.reason:
            hint = result.hint or _usual_cause(stage, bundle)
            difference = Difference(stage, result.reason, result.largest, hint)
        yield stage, result.largest, difference


def _compare_stage(
    stage: Stage, answers: Answers, receipt: Receipt, compare_rows: CompareRows
) -> Comparison:
    missing = _missing_part(stage, answers)
    if missing is not None:
        reason = f"the receipt is of a model with {missing}, and this one has none"
        return Comparison(np.inf, reason)
    if stage == "pixels":
        return _pixels(answers, receipt, compare_rows)
    if stage == "tokens":
        return _tokens(answers, receipt)
    noise, ids = noise_inputs(receipt.pixels), [text.padded for text in receipt.tokens]
    inputs: tuple[Any, ...] = (noise, ids)
    if stage in ("image_tower", "class_logits", "painted_patches"):
        inputs = (noise,)
    elif stage == "text_tower":
        inputs = (ids,)
    compute = getattr(answers, stage)  # its methods are named after the stages
    return _outputs(compute(*inputs), getattr(receipt, stage), compare_rows)


def not_compared(bundle: Bundle, receipt: Mapping[str, Any]) -> list[Stage]:
    """The stages of a model that a receipt does not have: in these it may differ."""
    known, answers = parse(receipt), answers_of(bundle)
    absent = [stage for stage in STAGES if not getattr(known, stage)]
    return [stage for stage in absent if _missing_part(stage, answers) is None]


def _usual_cause(stage: Stage, bundle: Bundle) -> str:
    """What is usually wrong; in half precision, that it is never quite the same."""
    dtype = str(bundle.engine.dtype).removeprefix("torch.")
    if dtype == "float32" or stage in ("pixels", "tokens"):
        return STAGES[stage]
    return f"{dtype}, whose numbers need a larger atol; if it is more than that: {STAGES[stage]}"


def _missing_part(stage: Stage, answers: Answers) -> str | None:
    """The part that a stage needs and the model does not have; None if it has all."""
    config = answers.bundle.config
    if not answers.has_images and stage not in ("tokens", "text_tower"):
        return "an image tower"
    if config.text_or_decoder is None and stage == "tokens":
        return "a tokenizer"
    if not answers.has_texts and stage in ("text_tower", "pair_logits"):
        return "a text tower"
    if not config.classes and stage == "class_logits":
        return "classes"
    if not config.matching and stage == "match_logits":
        return "a matching head"
    if not answers.writes_captions and stage == "word_logits":
        return "a decoder of words"
    if not config.masked and stage == "painted_patches":
        return "a masked autoencoder's decoder"
    return None


def _compare_rows(
    actual: Sequence[float], expected: Sequence[float], rtol: float, atol: float
) -> tuple[float, int]:
    """The largest difference of two rows of one length, and how many numbers are beyond the
    tolerance."""
    a, b = np.array(actual), np.array(expected)
    with np.errstate(invalid="ignore"):
        difference = np.abs(a - b)
        largest_value = np.nan_to_num(np.abs(b), nan=0.0, posinf=0.0).max(initial=1.0)
        near = (difference <= atol * largest_value + rtol * np.abs(b)) & np.isfinite(b)
        beyond = ~near & (a != b)
    largest = float(np.nan_to_num(difference, nan=np.inf).max(initial=0, where=beyond | (a != b)))
    return largest, int(beyond.sum())


def _outputs(actual: Tensor, expected: Sequence[Row], compare_rows: CompareRows) -> Comparison:
    """Compares rows of features or logits, one for each input."""
    if len(actual) != len(expected):
        return Comparison(np.inf, f"{len(actual)} rows, and {len(expected)} in the receipt")
    largest, wrong = 0.0, 0
    for values, row in zip(actual, expected, strict=True):
        actual_row = to_row(values)
        if len(actual_row) != len(row):
            reason = f"{len(actual_row)} numbers an input, and {len(row)} in the receipt"
            return Comparison(np.inf, reason)
        difference, beyond = compare_rows(actual_row, row)
        largest = max(largest, difference)
        if beyond:
            wrong += 1
    reason = f"{wrong} of {len(expected)} inputs differ" if wrong else ""
    return Comparison(largest, reason)


def _pixels(answers: Answers, receipt: Receipt, compare_rows: CompareRows) -> Comparison:
    """Compares the preprocessed test cards."""
    largest, reasons, pairs = 0.0, [], []
    for size, expected in zip(CARDS, receipt.pixels, strict=True):
        actual = summarised(answers.pixels(card(*size)))
        name = f"the card of {size[0]}x{size[1]} pixels"
        if actual.shape != expected.shape:
            shapes = ["x".join(map(str, shape)) for shape in (actual.shape, expected.shape)]
            reason = f"{name} becomes {shapes[0]}, and {shapes[1]} in the receipt"
            return Comparison(np.inf, reason)
        actual_numbers = (*actual.values, *actual.mean, *actual.std)
        expected_numbers = (*expected.values, *expected.mean, *expected.std)
        difference, beyond = compare_rows(actual_numbers, expected_numbers)
        largest = max(largest, difference)
        pairs.append((actual, expected))
        if beyond:
            reasons.append(f"{beyond} of the {len(actual_numbers)} numbers of {name}")
    hint = ""
    if reasons and _same_picture(pairs):
        hint = "rescale, mean or std: the picture is the same in other levels"
    return Comparison(largest, " and ".join(reasons), hint)


def _same_picture(pairs: Sequence[tuple[Card, Card]]) -> bool:
    """Whether each channel of the receipt's cards is a linear function of the model's."""
    channels = []
    for actual, _ in pairs:
        plane = int(np.prod(actual.shape[1:]))
        channels.append(sample_indices(3 * plane, CARD_SAMPLES) // plane)
    channel = np.concatenate(channels)
    actual_values = np.concatenate([actual.values for actual, _ in pairs])
    expected_values = np.concatenate([expected.values for _, expected in pairs])
    for c in range(3):
        x, y = actual_values[channel == c], expected_values[channel == c]
        if len(x) < 3 or np.ptp(x) == 0:
            return False
        line = np.polyval(np.polyfit(x, y, 1), x)
        if not np.abs(line - y).max() < 1e-4:  # half a grey level is 40 times as much
            return False
    return True


def _tokens(answers: Answers, receipt: Receipt) -> Comparison:
    """Compares the ids of the texts, as the tower gets them. Padding counts if the text tower of
    the receipt attends to it, or if it is not behind an end token."""
    attends_padding = receipt.padding == "attended"
    ids = answers.ids([text.text for text in receipt.tokens])
    for expected, actual in zip(receipt.tokens, ids, strict=True):
        reason, hint = _compare_ids(actual, expected.padded, answers.end_id, attends_padding)
        if reason:
            text = json.dumps(expected.text[:30], ensure_ascii=False)
            return Comparison(np.inf, f"{text}: {reason}", hint)
    return Comparison(0.0, "")


def _compare_ids(
    actual: list[int], expected: list[int], end_id: int, attends_padding: bool
) -> tuple[str, str]:
    """The first difference of two rows of ids, and its likely cause; ("", "") for none.

    One may be longer by padding behind the end token, unless the tower attends to padding.
    """
    lengths = f"{len(actual)} ids, and {len(expected)} in the receipt"
    short, long = sorted((actual, expected), key=len)
    different = [i for i in range(len(short)) if actual[i] != expected[i]]
    if not different:
        rest = set(long[len(short) :])
        is_padding = len(rest) == 1 and short[-1:] == [end_id]
        if not rest or (is_padding and not attends_padding):
            return "", ""
        if is_padding:
            return lengths, "padding: to the context, or not"
        return lengths, "context length, or end token"
    first = different[0]
    reason = f"id {first} is {actual[first]}, and {expected[first]} in the receipt"
    if len(set(actual[first:])) == 1 and len(set(expected[first:])) == 1:
        return reason, "end token, or padding"
    if len(actual) != len(expected) and first >= len(short) - 1:
        return reason, "context length"
    return reason, ""
