"""The files that the pictures and maps of images are written to."""

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
        help="The picture to write; for several images their names are added. By default "
        "IMAGE-heatmap.png or IMAGE-attention.png in the current folder.",
    ),
]


def picture_paths(
    files: Sequence[Source], save: Path | None, kind: str, names: Sequence[str] = ()
) -> dict[Source, Path]:
    """The file for the picture of each image. It is that of --save, with the image's name added
    where there are several images; by default IMAGE-KIND.png in the current folder.

    names: what the files are called, where they are texts and not images.
    """
    check_save(save)
    folder, suffix = (save.parent, save.suffix) if save else (Path(), f"-{kind}.png")
    paths: dict[Source, Path] = {}
    taken: set[Path] = set()
    for file, name in zip(files, names or [stem(str(file)) for file in files], strict=True):
        if file in paths:
            continue
        if save:
            name = f"{save.stem}-{name}" if len(files) > 1 else save.stem
        paths[file] = _unused_path(folder, name, suffix, taken)
    refuse_overwriting(paths.values(), () if names else files)
    return paths


def map_paths(sources: Sequence[Source], folder: Path) -> dict[Source, Path]:
    """The file for the map of each photo, in the folder of a report."""
    taken: set[Path] = set()
    return {
        source: _unused_path(folder / "maps", stem(str(source)), ".tif", taken)
        for source in dict.fromkeys(sources)
    }


def _unused_path(folder: Path, name: str, suffix: str, taken: set[Path]) -> Path:
    """A path that is not taken, with a number behind the name where needed; it is then taken."""
    path, number = folder / f"{name}{suffix}", 2
    while path in taken:
        path, number = folder / f"{name}-{number}{suffix}", number + 1
    taken.add(path)
    return path


def stem(image: str) -> str:
    """The name of an image in file names: without its suffix, and with its page."""
    from patchword.images.pages import split

    name, page = split(image)
    return Path(name).stem if page is None else f"{Path(name).stem}-page-{page}"


def common_scale(grids: Sequence[NDArray[np.float32]]) -> tuple[float, float] | None:
    """From the smallest to the largest value of all maps; None without any."""
    known = [grid for grid in grids if grid.size]
    if not known:
        return None
    return min(float(grid.min()) for grid in known), max(float(grid.max()) for grid in known)
