"""Checks options before any work is done: a misspelt option is refused with the nearest name, and
so is a value that is not possible.

`checked` converts the arguments of a function by their annotations: NumPy's numbers to Python's,
subclasses of str to str, collections of texts, numbers or paths to lists. Arguments of other types,
such as images and tensors, are checked where they are used.
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

LARGEST = 2**62  # whole number; no count in memory or files is larger
# By name, in every function: the least value of a whole number.
LEAST = dict.fromkeys(
    ("batch", "batch_size", "count", "height", "k", "shortlist", "top", "width"), 1
)
# Arguments that are checked where they are used, with more specific errors.
UNCHECKED = ("self", "return", "source", "image_size", "sources", "image", "images")
CLASS_NAMES = {"Bundle": "a model, as patchword.load gives it", "Found": "a hit of a search"}

# Names of options in other libraries (transformers, open_clip, timm, LanceDB), and here.
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
UNNEEDED = {
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
# By function: an example, added to the error for wrong arguments.
EXAMPLES = {
    "open_index": 'index = open_index(path); index.add(photos, model); index.search("words")'
}


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """A decorator that checks the arguments of a function. It raises UnsupportedError for an
    unknown option, with the nearest known name, for missing or superfluous arguments, and for a
    value that does not fit its annotation."""
    parameters = inspect.signature(function).parameters.values()
    order = [p.name for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    known = [p.name for p in parameters if p.name != "self"]
    needed = [p.name for p in parameters if p.default is p.empty]

    @functools.cache  # at the first call: annotations may name classes that are defined later
    def kinds() -> dict[str, list[Kind]]:
        return _kinds_of(function)

    @functools.wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> R:
        for name in options:
            if name not in known:
                raise UnsupportedError(
                    f"{function.__name__} has no option {name}{_hint(name, known)}; it has "
                    f"{', '.join(known)}"
                )
        positional = order[: len(arguments)]
        missing = [name for name in needed if name not in options and name not in positional]
        twice = [name for name in positional if name in options]
        if missing or twice or len(arguments) > len(order):
            raise _wrong_arguments(function.__name__, missing, twice, order)
        by_name = kinds()
        converted: Any = list(arguments)
        for index, name in enumerate(positional):
            if name in by_name:
                converted[index] = _read(by_name[name], name, converted[index])
        converted_options: Any = dict(options)
        for name, value in options.items():
            if name in by_name:
                converted_options[name] = _read(by_name[name], name, value)
        return function(*converted, **converted_options)

    return call


def _wrong_arguments(
    name: str, missing: Sequence[str], twice: Sequence[str], order: Sequence[str]
) -> UnsupportedError:
    """The error for missing, repeated or superfluous arguments."""
    if missing:
        problem = f"needs {', '.join(missing)}"
    elif twice:
        problem = f"is given {', '.join(twice)} twice"
    else:
        positional = [parameter for parameter in order if parameter != "self"]
        problem = f"takes {', '.join(positional)} and no more without a name"
    example = f": {EXAMPLES[name]}" if name in EXAMPLES else ""
    return UnsupportedError(f"{name} {problem}{example}")


def nearest(name: str, known: Iterable[str]) -> str:
    """The nearest of the known names as a question in brackets; empty if none is similar."""
    matches = difflib.get_close_matches(name, list(known), 1)
    return f" (do you mean {matches[0]}?)" if matches else ""


def _hint(name: str, known: Sequence[str]) -> str:
    """In brackets: the name of another library's option here, the reason why it is not needed, or
    the nearest of the known names."""
    if SYNONYMS.get(name) in known:
        return f" (it is called {SYNONYMS[name]} here)"
    if name in UNNEEDED:
        return f" ({UNNEEDED[name]})"
    return nearest(name, known)


def at_least(name: str, value: Any, least: int = 1) -> int:
    """`value` as a whole number. Raises UnsupportedError for any other value or one below
    `least`."""
    return _whole(least, name, value)


def in_range(
    name: str,
    value: float,
    least: float,
    most: float = math.inf,
    above: bool = False,
    below: bool = False,
) -> None:
    """Raise ConfigError for a number of a configuration that is not finite or outside [least,
    most]. above: `least` itself is outside; below: `most` itself is."""
    large_enough = value > least if above else value >= least
    small_enough = value < most if below else value <= most
    if math.isfinite(value) and large_enough and small_enough:
        return
    allowed = f"above {least:g}" if above else f"{least:g} or more"
    if most != math.inf:
        allowed += f", and below {most:g}" if below else f", and at most {most:g}"
    raise ConfigError(f"{name} is {value}; it must be {allowed}")


def checked_probability(name: str, value: float | None) -> None:
    """Raise UnsupportedError for a number that is not a probability. None is allowed."""
    if value is not None and not 0 <= value <= 1:
        raise UnsupportedError(f"{name} is {value!r}; it is a probability, 0 to 1")


def text_list(texts: Any) -> list[str]:
    """Texts as a list; a single text becomes a list of one. Raises UnsupportedError, with its
    number, for an item that is not a text."""
    result = _read(_TEXTS, "texts", texts)
    return [result] if isinstance(result, str) else result


class Kind(NamedTuple):
    """One kind of value that an argument may have."""

    types: type | tuple[type, ...]
    description: str  # in errors
    read: Callable[[str, Any], Any]  # (name, value) -> the value for the function


def _kinds_of(function: Callable[..., Any]) -> dict[str, list[Kind]]:
    """The kinds of value of each argument, by name; without those that are checked elsewhere."""
    annotations = {
        name: hint for name, hint in function.__annotations__.items() if name not in UNCHECKED
    }
    # Without "return": its class may not be imported at run time.
    holder = types.SimpleNamespace(__annotations__=annotations)
    hints = typing.get_type_hints(holder, function.__globals__)
    kinds_by_name = {name: _kinds(hint, name) for name, hint in hints.items()}
    return {name: kinds for name, kinds in kinds_by_name.items() if kinds is not None}


def _kinds(hint: Any, name: str) -> list[Kind] | None:
    """The kinds of an annotation; None if one of them is not checked here."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    parts = typing.get_args(hint) if union else (hint,)
    is_path = any(part is os.PathLike or typing.get_origin(part) is os.PathLike for part in parts)
    kinds = []
    for part in parts:
        kind = _PATH if is_path and part is str else _kind(part, name)
        if kind is None:
            return None
        kinds.append(kind)
    return kinds


def _kind(hint: Any, name: str) -> Kind | None:
    if isinstance(hint, TypeVar):
        hint = hint.__bound__
    origin = typing.get_origin(hint) or hint
    if origin is int:
        least = LEAST.get(name)
        return Kind(Integral, _describe_whole(least), partial(_whole, least))
    if origin in _PLAIN:
        return _PLAIN[origin]
    if origin in (Sequence, Iterable):
        item_kinds = _kinds(typing.get_args(hint)[0], name)
        if item_kinds is None:
            return None
        description = f"a list, each item {item_kinds[0].description}"
        return Kind(Iterable, description, partial(_items, item_kinds, origin is Sequence))
    if isinstance(origin, type) and origin.__module__.startswith("patchword."):
        return Kind(origin, CLASS_NAMES.get(origin.__name__, f"a {origin.__name__}"), _same)
    return None


def _read(kinds: Sequence[Kind], name: str, value: Any) -> Any:
    """The value, read by the first kind that it has. Raises UnsupportedError if it has none."""
    for kind in kinds:
        if isinstance(value, kind.types):
            return kind.read(name, value)
    raise _refused(name, value, " or ".join(dict.fromkeys(kind.description for kind in kinds)))


def _refused(name: str, value: Any, description: str) -> UnsupportedError:
    return UnsupportedError(f"{name} is {reprlib.repr(value)}; it must be {description}")


def _describe_whole(least: int | None) -> str:
    return "a whole number" if least is None else f"a whole number of {least} or more"


def _whole(least: int | None, name: str, value: Any) -> int:
    """An int of Python or NumPy, but not a bool."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise _refused(name, value, _describe_whole(least))
    number = int(value)
    if least is not None and number < least:
        raise _refused(name, value, _describe_whole(least))
    if abs(number) > LARGEST:
        raise _refused(name, value, "between -2**62 and 2**62")
    return number


def _number(name: str, value: Any) -> float:
    """A float or a whole number, but not a bool."""
    if isinstance(value, bool) or not abs(value) < LARGEST:  # true for NaN too
        raise _refused(name, value, "a finite number")
    return float(value)


def _path(name: str, value: str) -> str:
    if not value or "\0" in value:
        raise _refused(name, value, "a path")
    return _plain(name, value)


def _plain(name: str, value: str) -> str:
    """The text as a str, not of a subclass."""
    return str.__str__(value)


def _same(name: str, value: Any) -> Any:
    return value


def _items(kinds: Sequence[Kind], ordered: bool, name: str, values: Any) -> list[Any]:
    """A collection as a list, with each item read. A set is allowed only if order has no meaning,
    a mapping never."""
    if isinstance(values, (str, bytes, bytearray)):
        example: list[Any] = [values]
        if isinstance(values, str):
            example = [part.strip() for part in values.split(",")]
        raise UnsupportedError(
            f"{name} must be a list, not one string: {name}={reprlib.repr(example)}"
        )
    if isinstance(values, Mapping) or (ordered and isinstance(values, (set, frozenset))):
        raise _refused(name, values, "a list, which has an order: list(...)")
    if getattr(values, "ndim", 1) == 0:
        raise _refused(name, values, "a list")
    items = list(values)
    if kinds[0] is _PLAIN[str] and set(map(type, items)) <= {str}:
        return items
    singular = name.removesuffix("es" if name.endswith("xes") else "s")
    return [
        _read(kinds, f"{singular} {number} of {len(items)}", item)
        for number, item in enumerate(items, 1)
    ]


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
