"""Checks of options: a misspelt one is refused with the nearest name, and an impossible value
before any work is done.

`checked` reads the arguments of a function by their annotations. Numbers of NumPy become Python's,
text of any subclass of str becomes plain, collections of texts, numbers or paths become lists. What
it does not know, such as images and tensors, it leaves to those who use it.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import os
import reprlib
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from numbers import Integral, Real
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

from patchword.errors import ConfigError, UnsupportedError

P = ParamSpec("P")
R = TypeVar("R")

LARGEST = 2**62  # whole number that memory and files can count
# Whole numbers that mean the same in every function, and how small they may be.
LEAST = dict.fromkeys(
    ("batch", "batch_size", "count", "height", "k", "shortlist", "top", "width"), 1
)
# Checked where they are used, by errors that say what a model and an image may be.
LEFT = ("self", "return", "source", "image_size", "sources", "image", "images")
WANTED = {"Bundle": "a model, as patchword.load gives it", "Found": "a hit of a search"}

# Options as other libraries call them (transformers, open_clip, timm, LanceDB), and as we do.
SYNONYMS = {
    "candidate_labels": "labels",
    "class_names": "labels",
    "hypothesis_template": "templates",
    "prompts": "templates",
    "threshold": "reject",
    "num_beams": "beams",
    "max_new_tokens": "max_length",
    "num_return_sequences": "count",
    "choices": "answers",
    "inputs": "images",
    "n": "k",
    "limit": "k",
    "top_k": "k",
    "topk": "k",
    "filter": "where",
    "torch_dtype": "dtype",
    "precision": "dtype",
    "device_map": "device",
    "use_auth_token": "token",
    "img_size": "image_size",
    "force_image_size": "image_size",
    "pretrained": "source",
    "pretrained_model_name_or_path": "source",
    "truncation": "long_text",
    "select_layer": "layer",
    "vision_feature_layer": "layer",
}
# Options of other libraries that are not needed here, with the reason.
NEEDLESS = {
    "do_sample": "texts are sampled where temperature, top_k or top_p is given",
    "return_tensors": "arrays are NumPy's; torch.from_numpy makes tensors of them",
    "normalize": "vectors always have length 1",
    "trust_remote_code": "no code of a checkpoint is ever run",
    "use_safetensors": "the file that is there is read",
    "cache_dir": "set the environment variable HF_HOME",
    "padding": "texts are padded as the model was trained",
    "use_fast": "there is one tokenizer",
    "resume": "the same command goes on where a run was stopped",
}
# How functions are used whose first argument alone says little.
USED = {"open_index": 'index = open_index(path); index.add(photos, model); index.search("words")'}


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """A decorator: the function, checked before it is called. It raises UnsupportedError for an
    option that it does not have, with the nearest of those that it has, for arguments that are
    missing or too many, and for a value that does not fit its annotation."""
    parameters = inspect.signature(function).parameters.values()
    order = [p.name for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    known = [p.name for p in parameters if p.name != "self"]
    needed = [p.name for p in parameters if p.default is p.empty]

    @functools.cache  # when first called: annotations may name what is defined further down
    def kinds() -> dict[str, list[Kind]]:
        return _kinds_of(function)

    @functools.wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> R:
        for name in options:
            if name not in known:
                raise UnsupportedError(
                    f"{function.__name__} has no option {name}{_habit(name, known)}; it has "
                    f"{', '.join(known)}"
                )
        missing = [n for n in needed if n not in options and n not in order[: len(arguments)]]
        twice = [n for n in order[: len(arguments)] if n in options]
        if missing or twice or len(arguments) > len(order):
            raise _misused(function.__name__, missing, twice, [n for n in order if n != "self"])
        by_name = kinds()
        ordered: Any = list(arguments)
        for place, name in enumerate(order[: len(ordered)]):
            if name in by_name:
                ordered[place] = _read(by_name[name], name, ordered[place])
        named: Any = {
            name: _read(by_name[name], name, value) if name in by_name else value
            for name, value in options.items()
        }
        return function(*ordered, **named)

    return call


def _misused(
    name: str, missing: Sequence[str], twice: Sequence[str], order: Sequence[str]
) -> UnsupportedError:
    """The error for a call without arguments that are needed, or with more than there are."""
    said = f"takes {', '.join(order)} and no more without a name"
    said = f"is given {', '.join(twice)} twice" if twice else said
    said = f"needs {', '.join(missing)}" if missing else said
    return UnsupportedError(f"{name} {said}{': ' if name in USED else ''}{USED.get(name, '')}")


def nearest(name: str, known: Iterable[str]) -> str:
    """The nearest of the known names, as a question in brackets; empty where none is near."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f" (do you mean {near[0]}?)" if near else ""


def _habit(name: str, known: Sequence[str]) -> str:
    """The name of an option here, why it is not needed, or the nearest of the known names; in
    brackets."""
    if SYNONYMS.get(name) in known:
        return f" (it is called {SYNONYMS[name]} here)"
    return f" ({NEEDLESS[name]})" if name in NEEDLESS else nearest(name, known)


def at_least(name: str, value: Any, least: int = 1) -> int:
    """A whole number that is not too small. Raises UnsupportedError otherwise."""
    return _whole(least, name, value)


def in_range(
    name: str,
    value: float,
    least: float,
    most: float = math.inf,
    above: bool = False,
    below: bool = False,
) -> None:
    """Raise ConfigError for a number of a configuration outside [least, most], for `least` itself
    with `above`, for `most` itself with `below`, and for one that is not finite."""
    low = value > least if above else value >= least
    high = value < most if below else value <= most
    if math.isfinite(value) and low and high:
        return
    first = f"above {least:g}" if above else f"{least:g} or more"
    last = f"below {most:g}" if below else f"at most {most:g}"
    wanted = first if most == math.inf else f"{first}, and {last}"
    raise ConfigError(f"{name} is {value}; it must be {wanted}")


def checked_probability(name: str, value: float | None) -> None:
    """Raise UnsupportedError for a number that is no probability; None is what was not given."""
    if value is not None and not 0 <= value <= 1:
        raise UnsupportedError(f"{name} is {value!r}; it is a probability, 0 to 1")


def text_list(texts: Any) -> list[str]:
    """Texts as a list; a single one becomes a list of one. Raises UnsupportedError for what is no
    text, by its number."""
    found = _read(_TEXTS, "texts", texts)
    return [found] if isinstance(found, str) else found


class Kind(NamedTuple):
    """One kind of value that an argument may be: its types, how errors call it, and what makes of
    (name, value) what the function is given."""

    types: type | tuple[type, ...]
    wanted: str
    read: Callable[[str, Any], Any]


def _kinds_of(function: Callable[..., Any]) -> dict[str, list[Kind]]:
    """By name, the kinds of value that each argument may be; without those checked elsewhere."""
    wanted = {n: h for n, h in function.__annotations__.items() if n not in LEFT}
    given = types.SimpleNamespace(__annotations__=wanted)  # what is returned may not be imported
    hints = typing.get_type_hints(given, function.__globals__)
    found = {name: _kinds(hint, name) for name, hint in hints.items()}
    return {name: kinds for name, kinds in found.items() if kinds is not None}


def _kinds(hint: Any, name: str) -> list[Kind] | None:
    """The kinds of an annotation; None where one of them is not known here."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    parts = typing.get_args(hint) if union else (hint,)
    paths = any(part is os.PathLike or typing.get_origin(part) is os.PathLike for part in parts)
    found = [_PATH if paths and part is str else _kind(part, name) for part in parts]
    kinds = [kind for kind in found if kind is not None]
    return kinds if len(kinds) == len(found) else None


def _kind(hint: Any, name: str) -> Kind | None:
    if isinstance(hint, TypeVar):
        hint = hint.__bound__
    origin = typing.get_origin(hint) or hint
    if origin is int:
        least = LEAST.get(name)
        return Kind(Integral, _wanted_whole(least), partial(_whole, least))
    if origin in _PLAIN:
        return _PLAIN[origin]
    if origin in (Sequence, Iterable):
        inside = _kinds(typing.get_args(hint)[0], name)
        if inside is None:
            return None
        wanted = f"a list, each item {inside[0].wanted}"
        return Kind(Iterable, wanted, partial(_items, inside, origin is Sequence))
    if isinstance(origin, type) and origin.__module__.startswith("patchword."):
        return Kind(origin, WANTED.get(origin.__name__, f"a {origin.__name__}"), _same)
    return None


def _read(kinds: Sequence[Kind], name: str, value: Any) -> Any:
    """The value as the first kind that it is. Raises UnsupportedError if it is none of them."""
    for kind in kinds:
        if isinstance(value, kind.types):
            return kind.read(name, value)
    raise _refused(name, value, " or ".join(dict.fromkeys(kind.wanted for kind in kinds)))


def _refused(name: str, value: Any, wanted: str) -> UnsupportedError:
    return UnsupportedError(f"{name} is {reprlib.repr(value)}; it must be {wanted}")


def _wanted_whole(least: int | None) -> str:
    return "a whole number" if least is None else f"a whole number of {least} or more"


def _whole(least: int | None, name: str, value: Any) -> int:
    """An int, or NumPy's; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise _refused(name, value, _wanted_whole(least))
    number = int(value)
    if least is not None and number < least:
        raise _refused(name, value, _wanted_whole(least))
    if abs(number) > LARGEST:
        raise _refused(name, value, "between -2**62 and 2**62")
    return number


def _number(name: str, value: Any) -> float:
    """A float; a whole number is one too, a bool is none."""
    if isinstance(value, bool) or not abs(value) < LARGEST:  # nor is NaN
        raise _refused(name, value, "a finite number")
    return float(value)


def _path(name: str, value: str) -> str:
    if not value or "\0" in value:
        raise _refused(name, value, "a path")
    return _plain(name, value)


def _plain(name: str, value: str) -> str:
    """The text alone, without what a subclass of str adds."""
    return str.__str__(value)


def _same(name: str, value: Any) -> Any:
    return value


def _items(kinds: Sequence[Kind], ordered: bool, name: str, values: Any) -> list[Any]:
    """A collection as a list, each of its items read. A set is one only where order means nothing,
    a mapping never."""
    if isinstance(values, (str, bytes, bytearray)):
        parts = (
            [each.strip() for each in values.split(",")] if isinstance(values, str) else [values]
        )
        shown = reprlib.repr(parts)
        raise UnsupportedError(f"{name} must be a list, not one string: {name}={shown}")
    if isinstance(values, Mapping) or (ordered and isinstance(values, (set, frozenset))):
        raise _refused(name, values, "a list, which has an order: list(...)")
    if getattr(values, "ndim", 1) == 0:
        raise _refused(name, values, "a list")
    items = list(values)
    if kinds[0] is _PLAIN[str] and set(map(type, items)) <= {str}:
        return items
    one = name.removesuffix("es" if name.endswith("xes") else "s")
    return [_read(kinds, f"{one} {n} of {len(items)}", item) for n, item in enumerate(items, 1)]


_PATH = Kind(str, "a path", _path)
_PLAIN: dict[Any, Kind] = {
    bool: Kind((bool, np.bool_), "True or False", lambda name, value: bool(value)),
    float: Kind(Real, "a number", _number),
    str: Kind(str, "a text", _plain),
    os.PathLike: Kind(os.PathLike, "a path", _same),
    Callable: Kind(Callable, "a function", _same),  # type: ignore[arg-type]
    types.NoneType: Kind(types.NoneType, "None", _same),
}
_TEXTS = [_PLAIN[str], Kind(Iterable, "a list of texts", partial(_items, [_PLAIN[str]], True))]
