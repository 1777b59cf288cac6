"""Options and arguments that commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EMBEDDED = "demo"
EMBEDDED_BLIP = "demo-blip"  # which captions, answers and matches

ModelOption = Annotated[
    str,
    typer.Option("--model", "-m", help="Hub id, folder, file of weights, or demo and demo-blip."),
]
DeviceOption = Annotated[
    str, typer.Option(help="cpu, cuda, cuda:1, mps; auto is cuda where there is one, else cpu.")
]
DtypeOption = Annotated[str, typer.Option(help="Of the weights: float32, bfloat16 or float16.")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="JSON Lines on stdout instead of a table.")
]
ImagesArgument = Annotated[
    list[str], typer.Argument(metavar="IMAGES", help="Files, folders or globs.")
]
TextsOption = Annotated[
    list[str] | None,
    typer.Option("--text", "--texts", "-t", help="A text; repeat for more. @FILE: one per line."),
]
LongTextOption = Annotated[
    str,
    typer.Option(help="Of a text beyond the context: truncate it, or mean of all its chunks."),
]
SaveOption = Annotated[
    Path | None, typer.Option("--save", help="Write a picture (.png, .jpg, ...) or page (.html).")
]
PictureOption = Annotated[Path | None, typer.Option("--save", help="Write a picture (.png, ...).")]
