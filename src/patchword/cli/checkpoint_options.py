"""--weights and --architecture, which every command that loads a model takes.

They say how a training checkpoint is read, and go from here to `inputs.load` by themselves.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from inspect import Parameter
from typing import Annotated, Any

import typer

OPTIONS: dict[str, Any] = {
    "weights": typer.Option(
        metavar="ema|raw",
        help="Of a training checkpoint with both: the moving average of the weights, which is "
        "the default, or the weights themselves.",
    ),
    "architecture": typer.Option(
        metavar="NAME",
        help="Of weights of open_clip without open_clip_config.json: ViT-B-32, ...",
    ),
}
chosen: ContextVar[dict[str, str]] = ContextVar("chosen", default={})  # noqa: B039  # never changed


def with_checkpoint_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command with these options beside its own; one that loads no model stays as it is."""
    own = inspect.signature(command, eval_str=True)
    if "dtype" not in own.parameters:
        return command

    @functools.wraps(command)
    def run(**values: Any) -> None:
        given = {name: values.pop(name) for name in OPTIONS}
        before = chosen.set({name: value for name, value in given.items() if value is not None})
        try:
            command(**values)
        finally:
            chosen.reset(before)

    added = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, how])
        for name, how in OPTIONS.items()
    ]
    run.__annotations__ = {**command.__annotations__, **{p.name: p.annotation for p in added}}
    run.__signature__ = own.replace(parameters=[*own.parameters.values(), *added])  # type: ignore[attr-defined]
    return run
