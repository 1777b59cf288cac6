"""Options that several commands get beside those that their own functions declare."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from inspect import Parameter
from typing import Any


def option(name: str, annotation: Any, default: Any) -> Parameter:
    """A parameter of a command that becomes an option."""
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def with_options(
    command: Callable[..., None],
    options: Sequence[Parameter],
    run: Callable[[dict[str, Any], dict[str, Any]], None],
) -> Callable[..., None]:
    """A command that takes more options. When it is called, it calls `run` with the values of these
    options and with the values of the command's own parameters, both by name."""
    own = inspect.signature(command, eval_str=True)

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        run({each.name: values.pop(each.name) for each in options}, values)

    added = {each.name: each.annotation for each in options}
    wrapper.__annotations__ = {**command.__annotations__, **added}
    parameters = [*own.parameters.values(), *options]
    wrapper.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    return wrapper
