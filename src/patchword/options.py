"""Options as people write them: a misspelt one is refused with the nearest name, and a number that
cannot be is refused before any work is done."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

from patchword.errors import ConfigError, UnsupportedError

P = ParamSpec("P")
R = TypeVar("R")


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """The same function, which refuses an option that it does not have with the nearest of those
    that it has, as an UnsupportedError and before it is called."""
    known = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if name != "self" and parameter.kind is not inspect.Parameter.POSITIONAL_ONLY
    ]

    @functools.wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> R:
        for name in options:
            if name not in known:
                raise UnsupportedError(
                    f"{function.__name__} has no option {name}{nearest(name, known)}; it has "
                    f"{', '.join(known)}"
                )
        return function(*arguments, **options)

    return call


def nearest(name: str, known: Iterable[str]) -> str:
    """The nearest of the known names, as a question in brackets; empty where none is near."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f" (do you mean {near[0]}?)" if near else ""


def at_least(name: str, value: Any, least: int = 1) -> int:
    """A whole number that is not too small. Raises UnsupportedError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UnsupportedError(f"{name} is {value!r}; it must be a whole number of {least} or more")
    return value


def in_range(
    name: str, value: float, least: float, most: float = math.inf, above: bool = False
) -> None:
    """Raise ConfigError for a number of a configuration outside [least, most], for `least` itself
    with `above`, and for one that is not finite."""
    low = value > least if above else value >= least
    if math.isfinite(value) and low and value <= most:
        return
    first = f"above {least:g}" if above else f"{least:g} or more"
    wanted = first if most == math.inf else f"{first}, and at most {most:g}"
    raise ConfigError(f"{name} is {value}; it must be {wanted}")
