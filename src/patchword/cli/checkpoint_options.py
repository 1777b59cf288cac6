"""--weights, --architecture, --subfolder, --adapter, --engine and --calibrate, which every command
that loads a model takes, and --exact, which every one takes that opens images with it.

They say how a checkpoint is read and run and how a photo is decoded, and go from here to
`inputs.load` by themselves.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from inspect import Parameter
from typing import Annotated, Any

import typer

from patchword.cli.output import refuse

OPTIONS: dict[str, Any] = {
    "weights": typer.Option(
        metavar="ema|raw",
        help="Of a training checkpoint with both: the moving average of the weights, which is "
        "the default, or the weights themselves.",
    ),
    "architecture": typer.Option(
        metavar="NAME",
        help="The name that open_clip has for the network, such as ViT-B-32, for its weights "
        "without open_clip_config.json.",
    ),
    "subfolder": typer.Option(
        metavar="FOLDER",
        help="The folder inside that holds the model: text_encoder, ... of a diffusion pipeline.",
    ),
    "engine": typer.Option(
        metavar="torch|auto|compile|openvino|onnx",
        help="What computes vectors; openvino and onnx, on a CPU, do so alone: no heatmaps, "
        "captions or training. auto: torch, and openvino for many images on a CPU.",
    ),
    "calibrate": typer.Option(
        metavar="FOLDER",
        help="For --dtype int8: 16 or more photos like those that the model is for. The embedded "
        "models need none: without photos only their weights are int8.",
    ),
    "adapter": typer.Option(
        metavar="FOLDER",
        help="Folder or hub id of a LoRA adapter to merge; one that lies beside the weights is "
        "merged by itself.",
    ),
}
EXACT = Annotated[
    bool,
    typer.Option(
        "--exact",
        help="Decode every JPEG whole, as the reference processors do, byte for byte: slower; "
        "without it pixels are half a level of 255 from theirs on average.",
    ),
]
OF_ONE = ("subfolder", "adapter")  # apply to one model only, in a command that loads two


@dataclass
class CheckpointOptions:
    """The options of a command, and the first model that it loaded."""

    options: dict[str, Any]
    model: str | None = None

    def of(self, model: str) -> dict[str, Any]:
        """The options for a model. Wrong usage: those of one model in a command that loads two."""
        once = [f"--{name}" for name in OF_ONE if name in self.options]
        if once and self.model not in (None, model):
            refuse(f"{' and '.join(once)} could apply to {self.model} or to {model}; save it first")
        self.model = model
        return self.options


NONE = CheckpointOptions({})
active_options: ContextVar[CheckpointOptions] = ContextVar("chosen", default=NONE)


def with_checkpoint_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command with these options beside its own; one that loads no model stays as it is."""
    own = inspect.signature(command, eval_str=True)
    if "dtype" not in own.parameters:
        return command

    @functools.wraps(command)
    def run(**values: Any) -> None:
        given = {each.name: values.pop(each.name) for each in added}
        options = {name: value for name, value in given.items() if value not in (None, False)}
        before = active_options.set(CheckpointOptions(options))
        try:
            command(**values)
        finally:
            active_options.reset(before)

    added = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, how])
        for name, how in OPTIONS.items()
    ]
    if "max_pixels" in own.parameters:
        added.append(Parameter("exact", Parameter.KEYWORD_ONLY, default=False, annotation=EXACT))
    run.__annotations__ = {**command.__annotations__, **{p.name: p.annotation for p in added}}
    run.__signature__ = own.replace(parameters=[*own.parameters.values(), *added])  # type: ignore[attr-defined]
    return run
