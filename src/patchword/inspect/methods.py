"""The methods by name, and their options."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

from patchword.config import from_dict
from patchword.errors import UnsupportedError
from patchword.inspect.memory import Memory
from patchword.inspect.mutual import Mutual
from patchword.inspect.protocol import Method, View
from patchword.inspect.reference import Reference
from patchword.inspect.subspace import Subspace
from patchword.inspect.winclip import WinCLIP
from patchword.options import nearest

METHODS: dict[str, type[Method]] = {
    kind.name: kind for kind in (Memory, Subspace, WinCLIP, Mutual, Reference)
}


def chosen(name: str, options: Mapping[str, Any]) -> Method:
    """The method with these options, among them those of its `View`; None stands for the default.
    Raises UnsupportedError for an unknown method, and for an option that it does not have."""
    if name not in METHODS:
        near = nearest(name, METHODS)
        raise UnsupportedError(f"no method {name!r}{near}; there are {', '.join(METHODS)}")
    arguments, view = dict[str, Any](), dict[str, Any]()
    for key, value in options.items():
        if value is None:
            continue
        value = tuple(value) if isinstance(value, list) else value
        if key in _fields(View):
            view[key] = value
        elif key in _fields(METHODS[name]):
            arguments[key] = value
        else:
            able = [other for other, kind in METHODS.items() if key in _fields(kind)]
            raise UnsupportedError(
                f"{key} is of {' and '.join(able) or 'no method'}, not of {name}"
            )
    method_class: Any = METHODS[name]
    method: Method = method_class(view=View(**view), **arguments)
    return method


def needless() -> list[str]:
    """The names of the methods that need no good photos."""
    return [name for name, kind in METHODS.items() if not kind.needs.good]


def options_of(method: Method) -> dict[str, Any]:
    """The options of a method as JSON values."""
    options: dict[str, Any] = dataclasses.asdict(cast(Any, method))
    return options


def with_options(name: str, options: Mapping[str, Any]) -> Method:
    """The method whose options `options_of` wrote. Raises ConfigError for values of another
    type."""
    method_class: Any = METHODS[name]
    method: Method = from_dict(method_class, options)
    return method


def _fields(data_class: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(data_class)]
