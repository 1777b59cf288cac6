"""The methods, by name, and their options."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

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
    """A method with those of the options that are given; None: as the method has it. Options of its
    `View` are among them. Raises UnsupportedError for an unknown method, and for an option that it
    does not have."""
    if name not in METHODS:
        near = nearest(name, METHODS)
        raise UnsupportedError(f"no method {name!r}{near}; there are {', '.join(METHODS)}")
    given = {key: value for key, value in options.items() if value is not None}
    given = {key: tuple(v) if isinstance(v, list) else v for key, v in given.items()}
    view = {key: given.pop(key) for key in ("layers", "short_side") if key in given}
    own = _fields(METHODS[name])
    for key in given:
        if key not in own:
            able = [kind for kind, cls in METHODS.items() if key in _fields(cls)]
            raise UnsupportedError(
                f"{key} is of {' and '.join(able) or 'no method'}, not of {name}"
            )
    kind: Any = METHODS[name]
    made: Method = kind(view=View(**view), **given)
    return made


def needless() -> list[str]:
    """The names of the methods that need no good photos."""
    return [name for name, kind in METHODS.items() if not kind.needs.good]


def options_of(method: Method) -> dict[str, Any]:
    """The options of a method as JSON values."""
    return {name: _plain(getattr(method, name)) for name in _fields(type(method))}


def with_options(name: str, options: Mapping[str, Any]) -> Method:
    """The method that `options_of` described. Raises ConfigError for values of another kind."""
    kind: Any = METHODS[name]
    made: Method = from_dict(kind, options)
    return made


def _fields(kind: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if isinstance(value, View) else value
