"""--weights, --architecture, --subfolder, --adapter, --engine and --calibrate of every command that
loads a model, and --exact of every one that also opens images.

They decide how a checkpoint is read and run, and how a photo is decoded. Commands do not pass them
on: `inputs.load` reads them from `active_options`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from patchword.cli.added_options import option, with_options
from patchword.cli.output import refuse

OPTIONS: dict[str, Any] = {
    "weights": typer.Option(
        metavar="ema|raw",
        help="For a training checkpoint that has both: ema, the moving average of the weights "
        "(default), or raw, the weights themselves.",
    ),
    "architecture": typer.Option(
        metavar="NAME",
        help="For open_clip weights without open_clip_config.json: open_clip's name of the "
        "architecture, such as ViT-B-32.",
    ),
    "subfolder": typer.Option(
        metavar="FOLDER",
        help="The folder inside the model's folder that holds the weights: text_encoder, for "
        "example, of a diffusion pipeline.",
    ),
    "engine": typer.Option(
        metavar="torch|auto|compile|openvino|onnx",
        help="What computes vectors. openvino and onnx run on a CPU and compute vectors only: "
        "no heatmaps, captions or training. auto: openvino for many images on a CPU, "
        "else torch.",
    ),
    "calibrate": typer.Option(
        metavar="FOLDER",
        help="For --dtype int8: a folder of 16 or more typical photos. The embedded models "
        "work without: then only their weights are int8.",
    ),
    "adapter": typer.Option(
        metavar="FOLDER",
        help="Folder or hub id of a LoRA adapter to merge; an adapter beside the weights is "
        "merged without this option.",
    ),
}
EXACT = Annotated[
    bool,
    typer.Option(
        "--exact",
        help="Decode JPEGs in full size and resize with Pillow, exactly as the reference "
        "processors do, which is slower. Without it pixel values of large JPEGs differ from theirs "
        "by 0.5 of 255 on average; of small JPEGs fewer than 1% differ, by 1 or 2.",
    ),
]
FOR_ONE_MODEL = ("subfolder", "adapter")  # refused in a command that loads two models


@dataclass
class CheckpointOptions:
    """The values of these options, and the first model that was loaded with them."""

    values: dict[str, Any]
    model: str | None = None

    def for_model(self, model: str) -> dict[str, Any]:
        """The options to load a model with. Refused: an option for one model, of a second one."""
        ambiguous = [f"--{name}" for name in FOR_ONE_MODEL if name in self.values]
        if ambiguous and self.model not in (None, model):
            names = " and ".join(ambiguous)
            refuse(f"{names} could apply to {self.model} or to {model}; save it first")
        self.model = model
        return self.values


NO_OPTIONS = CheckpointOptions({})
active_options: ContextVar[CheckpointOptions] = ContextVar("active_options", default=NO_OPTIONS)


def with_checkpoint_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command with these options beside its own; one that loads no model stays as it is."""
    parameters = inspect.signature(command).parameters
    if "dtype" not in parameters:
        return command
    options = [option(name, Annotated[str | None, how], None) for name, how in OPTIONS.items()]
    if "max_pixels" in parameters:
        options.append(option("exact", EXACT, False))

    def run(added: dict[str, Any], own: dict[str, Any]) -> None:
        given = {name: value for name, value in added.items() if value not in (None, False)}
        before = active_options.set(CheckpointOptions(given))
        try:
            command(**own)
        finally:
            active_options.reset(before)

    return with_options(command, options, run)
