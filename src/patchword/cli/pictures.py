"""The files for the pictures of images, one for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from patchword.cli.held import Source
from patchword.cli.output import check_save

SaveOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The picture to write, with the image's name added for each of several; by default "
        "IMAGE-heatmap.png or IMAGE-attention.png in the current folder.",
    ),
]


def pictures(files: Sequence[Source], save: Path | None, kind: str) -> dict[Source, Path]:
    """The file for the picture of each image: that of --save, with the image's name in it where
    there are several images, else the image's name and the kind, in the current folder."""
    check_save(save)
    out: dict[Source, Path] = {}
    for file in dict.fromkeys(files):
        name = stem(str(file))
        if save:
            name = f"{save.stem}-{name}" if len(files) > 1 else save.stem
        end = save.suffix if save else f"-{kind}.png"
        folder = save.parent if save else Path()
        place, number = folder / f"{name}{end}", 2
        while place in out.values():  # images of the same name in several folders
            place, number = folder / f"{name}-{number}{end}", number + 1
        out[file] = place
    return out


def stem(image: str) -> str:
    """What to call a picture of an image: its name without suffix, and its page."""
    from patchword.images.pages import split

    name, page = split(image)
    return Path(name).stem if page is None else f"{Path(name).stem}-page-{page}"
