"""--tiles, --tile-size and --each-tile, and the results of commands that have these options."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import typer

from patchword.cli.output import successes
from patchword.errors import ImageError

if TYPE_CHECKING:
    from patchword.cli.member_images import Source
    from patchword.images.views import Box
    from patchword.tasks.tiled import Tiled

R = TypeVar("R")

TilesOption = Annotated[
    bool,
    typer.Option(
        "--tiles",
        help="Process the whole photo and overlapping tiles of it, and join the results: for "
        "small details.",
    ),
]
TileSizeOption = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="PIXELS", help="With --tiles: the side of a tile, in pixels of the photo."
    ),
]
EachTileOption = Annotated[
    bool,
    typer.Option(
        "--each-tile", help="With --tiles: also print the result of each tile, with its box."
    ),
]


@dataclass(frozen=True)
class Tiles:
    """The three options. wanted: photos are looked at in tiles."""

    wanted: bool
    size: int | None
    each: bool


def tile_options(tiles: bool, size: int | None, each: bool) -> Tiles:
    """The three options; the others imply --tiles."""
    return Tiles(tiles or each or size is not None, size, each)


@dataclass
class Results(Generic[R]):
    """The results of a command: for each photo; for each row of its table, which with --each-tile
    are photos and their tiles; and the errors of photos that failed."""

    photos: list[tuple[Source, R]] = field(default_factory=list)
    rows: list[tuple[Source, R]] = field(default_factory=list)
    failed: list[ImageError] = field(default_factory=list)


def collect(
    results: Iterable[tuple[object, R | Tiled[R] | ImageError]],
    total: int,
    title: str,
    each_tile: bool,
    print_record: Callable[[dict[str, Any], R], None] | None,
) -> Results[R]:
    """Collect results as they come, with a progress bar. For --json, `print_record` is called with
    the fields that name a photo or a tile, and with its result."""
    from patchword.tasks.tiled import Tiled

    collected: Results[R] = Results()
    as_json = print_record is not None
    for source, result in successes(results, total, title, collected.failed, as_json):
        image = {"image": str(source)}
        if isinstance(result, Tiled):
            photo, views = result.joined, result.views if each_tile else ()
        else:
            photo, views = result, ()
        collected.photos.append((source, photo))
        rows: list[tuple[str, dict[str, Any], R]] = [(str(source), image, photo)]
        for box, view in views:
            left, top, right, bottom = box
            name = f"{source} [{left},{top} - {right},{bottom}]"
            rows.append((name, {**image, "tile": list(box)}, view))
        for name, fields, row in rows:
            collected.rows.append((name, row))
            if print_record:
                print_record(fields, row)
    return collected


def box_field(box: Box | None) -> dict[str, Any]:
    """The box of a record, where there is one."""
    return {} if box is None else {"box": list(map(int, box))}
