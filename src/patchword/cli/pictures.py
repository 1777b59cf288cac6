"""The files for the pictures of images, one for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchword.cli.member_images import Source
from patchword.cli.output import check_save, refuse_overwriting

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SaveOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The picture to write, with the image's name added for each of several; by default "
        "IMAGE-heatmap.png or IMAGE-attention.png in the current folder.",
    ),
]


def pictures(
    files: Sequence[Source], save: Path | None, kind: str, names: Sequence[str] = ()
) -> dict[Source, Path]:
    """The file for the picture of each image: that of --save, with the image's name in it where
    there are several images, else the image's name and the kind, in the current folder. names:
    what they are called instead, where they are no images."""
    check_save(save)
    out: dict[Source, Path] = {}
    for file, given in zip(files, names or [""] * len(files), strict=True):
        if file in out:
            continue
        name = given or stem(str(file))
        if save:
            name = f"{save.stem}-{name}" if len(files) > 1 else save.stem
        end = save.suffix if save else f"-{kind}.png"
        folder = save.parent if save else Path()
        place, number = folder / f"{name}{end}", 2
        while place in out.values():  # images of the same name in several folders
            place, number = folder / f"{name}-{number}{end}", number + 1
        out[file] = place
    refuse_overwriting(out.values(), () if names else files)
    return out


def stem(image: str) -> str:
    """What to call a picture of an image: its name without suffix, and its page."""
    from patchword.images.pages import split

    name, page = split(image)
    return Path(name).stem if page is None else f"{Path(name).stem}-page-{page}"


def maps_of(sources: Sequence[Source], folder: Path | None) -> dict[Source, Path]:
    """The file for the map of each photo, whose names differ."""
    out: dict[Source, Path] = {}
    taken: set[str] = set()
    for source in dict.fromkeys(sources) if folder else ():
        name, number = stem(str(source)), 1
        while (unique := name if number == 1 else f"{name}-{number}") in taken:
            number += 1
        taken.add(unique)
        out[source] = (folder or Path()) / "maps" / f"{unique}.tif"
    return out


def common_scale(grids: Sequence[NDArray[np.float32]]) -> tuple[float, float] | None:
    """From the smallest to the largest value of all maps; None without any."""
    known = [grid for grid in grids if grid.size]
    if not known:
        return None
    return min(float(grid.min()) for grid in known), max(float(grid.max()) for grid in known)
