"""WiSE-FT: a model between two others, by interpolation of their weights (Wortsman et al. 2022,
"Robust fine-tuning of zero-shot models", eq. 1):

    (1 - alpha) * start + alpha * end

start is the zero-shot model, end the fine-tuned one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from patchword.bundle import Bundle, make
from patchword.config import to_dict
from patchword.errors import UnsupportedError, listed, warn
from patchword.fingerprint import DENSE_HEAD

# Fields of a config that may differ: about its origin, or computed from weights. A head for maps
# that only one model has is left out.
MAY_DIFFER = ("source", "assumed", "read_from", "scale_limit", "dense_head")
NAMED = 4  # differences that an error lists
PARTS = {  # fields of a config for a model's parts; what an error says of a model without
    "vision": "has no image tower",
    "text": "has no text tower",
    "blip": "is no BLIP",
    "masked": "has no decoder of masked patches",
    "classes": "has no layer that names classes",
}


def blend(start: Bundle, end: Bundle, alpha: float) -> Bundle:
    """The model whose weights are (1 - alpha) * start + alpha * end.

    Weights are computed in float64 and rounded once to the type of `start`; alpha 0 and 1 give
    `start` and `end` bit for bit. Integer counters are those of the nearer model. If the limits of
    the logit scales differ, the result has the higher one; config, preprocessing and tokenizer are
    those of `start`. A head for maps that only one model has is left out, with a warning. Raises
    UnsupportedError, naming the differences, for models with different configs or tokenizers, and
    for an alpha outside 0 to 1.
    """
    if not 0 <= alpha <= 1:
        raise UnsupportedError(f"alpha is {alpha}; it goes from 0 (the first model) to 1")
    if bool(start.config.dense_head) != bool(end.config.dense_head):
        owner = start if start.config.dense_head else end
        warn(
            f"heatmaps of the blend will be less exact than those of {owner.name}, which alone has "
            "a layer that makes its maps (a head for maps)"
        )
        start, end = _headless(start), _headless(end)
    if different := list(differences(start, end)):
        raise UnsupportedError(
            f"{start.name} and {end.name} cannot be blended: {listed(different, NAMED, '; ')}"
        )
    ours, theirs = start.own_network.state_dict(), end.own_network.state_dict()
    state = {name: _between(value, theirs[name], alpha).clone() for name, value in ours.items()}
    if alpha == 0:
        model = start
    elif alpha == 1:
        model = end
    else:  # the blended scale may be above the lower limit
        model = max(start, end, key=lambda model: model.config.scale_limit)
    network = copy.deepcopy(model.own_network)
    network.load_state_dict(state, assign=True)
    limit = model.config.scale_limit
    config = replace(start.config, source="patchword", read_from=(), scale_limit=limit)
    name = f"{start.name} + {alpha:g} ({end.name} - {start.name})"
    return make(network, config, start.tokenizer, name)


def _headless(model: Bundle) -> Bundle:
    """The same model without a head for maps."""
    if model.config.dense_head is None:
        return model
    network = copy.deepcopy(model.own_network)
    network.register_module("dense_head", None)
    return make(network, replace(model.config, dense_head=None), model.tokenizer, model.name)


def differences(start: Bundle, end: Bundle) -> Iterator[str]:
    """The differences that prevent blending of two models, each in a few words: parts that one of
    them lacks; else fields of their configs; if those are equal, tensors; and the tokenizers."""
    if parts := list(_different_parts(start, end)):
        yield from parts
        return
    ours, theirs = _flat(to_dict(start.config)), _flat(to_dict(end.config))
    fields = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    for key in fields:
        yield f"{key} is {_short(ours.get(key))} and {_short(theirs.get(key))}"
    if not fields:
        first, second = _shapes(start), _shapes(end)
        for name in sorted({*first, *second}):
            if first.get(name) != second.get(name):
                yield f"{name} is {first.get(name, 'missing')} and {second.get(name, 'missing')}"
    if _tokenizer_files(start) != _tokenizer_files(end):
        yield "their tokenizers differ"


def _shapes(model: Bundle) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's tensors by their names, without a head for maps."""
    tensors = model.own_network.state_dict().items()
    return {name: tuple(tensor.shape) for name, tensor in tensors if DENSE_HEAD not in name}


def _tokenizer_files(model: Bundle) -> str:
    tokenizer = model.tokenizer
    return "" if tokenizer is None else tokenizer.to_json() + tokenizer.cleaning


def _different_parts(start: Bundle, end: Bundle) -> Iterator[str]:
    """In words: the parts that only one of two models has, or that are of different kinds."""
    for name, words in PARTS.items():
        ours, theirs = getattr(start.config, name), getattr(end.config, name)
        if bool(ours) != bool(theirs):
            yield f"{(start if theirs else end).name} {words}"
    ours, theirs = start.config.vision, end.config.vision
    if ours and theirs and type(ours) is not type(theirs):
        yield f"their image towers are a {_kind(ours)} and a {_kind(theirs)}"


def _kind(config: object) -> str:
    """ViTConfig -> "ViT"."""
    return type(config).__name__.removesuffix("Config")


def _between(ours: Tensor, theirs: Tensor, alpha: float) -> Tensor:
    theirs = theirs.to(ours.device)
    if alpha in (0, 1) or not ours.is_floating_point():
        return theirs.to(ours.dtype) if alpha >= 0.5 else ours
    first, last = ours.cpu().double(), theirs.cpu().double()  # Apple's GPUs have no float64
    return ((1 - alpha) * first + alpha * last).to(ours)


def _flat(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """A config as dotted names and values, without fields of `MAY_DIFFER` and without `antialias`,
    by which positions are resized and which the start decides."""
    out: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and key not in MAY_DIFFER:
            out |= _flat(value, f"{above}{key}.")
        elif (above or key not in MAY_DIFFER) and key != "antialias":
            out[above + key] = value
    return out


def _short(value: Any) -> str:
    words = "absent" if value is None else str(value)
    return words if len(words) <= 60 else f"{words[:57]}..."
