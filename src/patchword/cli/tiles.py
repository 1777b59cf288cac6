"""--tiles, --tile-size and --each-tile, of commands that look at a photo in tiles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import typer

from patchword.errors import ImageError

if TYPE_CHECKING:
    from patchword.images.views import Box
    from patchword.tasks.tiled import Tiled

R = TypeVar("R")

TilesOption = Annotated[
    bool,
    typer.Option(
        "--tiles",
        help="Look at the whole photo and at overlapping tiles of it; what is found in one counts.",
    ),
]
TileSizeOption = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="PIXELS", help="With --tiles: the side of a tile, in pixels of the photo."
    ),
]
EachTileOption = Annotated[
    bool, typer.Option("--each-tile", help="With --tiles: also what each tile says, with its box.")
]


@dataclass
class Tiles(Generic[R]):
    """Whether and how photos are looked at in tiles, and what the tiles of the last one said."""

    wanted: bool
    size: int | None
    each: bool
    last: tuple[tuple[Box, R], ...] = field(default=())

    def joined(
        self, found: Iterable[tuple[object, Tiled[R] | ImageError]]
    ) -> Iterator[tuple[object, R | ImageError]]:
        """What is said of each photo as a whole."""
        for image, result in found:
            if isinstance(result, ImageError):
                yield image, result
                continue
            self.last = result.views if self.each else ()
            yield image, result.joined

    def rows(self, name: object, joined: R) -> Iterator[tuple[str, dict[str, Any], R]]:
        """A photo as it is called in a table, in a record, and its result; with --each-tile then
        those of its views."""
        yield str(name), {"image": str(name)}, joined
        for box, result in self.last:
            left, top, right, bottom = box
            called = f"{name} [{left},{top} - {right},{bottom}]"
            yield called, {"image": str(name), "tile": list(box)}, result


def tile_options(tiles: bool, size: int | None, each: bool) -> Tiles[Any]:
    """The three options; the others imply --tiles."""
    return Tiles(tiles or each or size is not None, size, each)


def box_field(box: Box | None) -> dict[str, Any]:
    """The box of a record, where there is one."""
    return {} if box is None else {"box": list(map(int, box))}
