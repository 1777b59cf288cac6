"""Pictures of results: maps over photos, and photos with scores.

The functions take arrays and texts and return RGB images. Photos are uint8 (H, W, 3) of any size;
they are scaled to `TILE` pixels. Colours and fonts are those of matplotlib, which is imported only
when something is drawn.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from patchword.atomic_write import replacing
from patchword.errors import UnsupportedError
from patchword.show.colours import MAP, Values, colour_bar, ends_of, flat, numbered, table, unit
from patchword.show.outline import outlined
from patchword.show.peak import peak
from patchword.show.percent import share
from patchword.show.text_drawing import (
    FAINT,
    INK,
    LINE,
    PAPER,
    SMALL,
    TEXT,
    font,
    heading,
    line_height,
    text_width,
    wrap,
    write,
)

Photo = NDArray[np.uint8]  # (H, W, 3)

MAX_SIDES = {"JPEG": 65_500, "PDF": 65_500, "WEBP": 16_383}  # of a format, pixels
TILE = 360  # longer side of a photo in a panel, pixels
MAX_ENLARGED = 2  # times TILE: longer side of a very tall or wide photo
MIN_CELL = 220  # width of a cell, pixels: room for words under a tall photo
WIDE = 2.5  # width by height, above which photos stand one below another
STRIP_COLUMNS = 9  # of a filmstrip
STRIP_PHOTO, STRIP_CELL = 220, 120  # longer side of a photo, least width of a cell, pixels
BAR_ROOM = 420  # longest colour bar that all tiles share, pixels
GAP = 22  # around cells, pixels
CLEAR = 0.2  # of a scale, below which a map is transparent
RING, MIN_RING = 11, 5  # radius of the ring around a peak, pixels
LINES = 4  # of a caption; longer captions end in an ellipsis
BAR = (64, 110, 190)
BAR_HEIGHT = 32  # of a bar with its label, pixels


@dataclass(frozen=True)
class Tile:
    """One photo of a panel and the text under it.

    note     in small letters under the caption
    values   (H, W): a map that is drawn over the photo, with its scale below
    scale    values at the ends of the colours; None: the smallest and the largest
    ends     texts at the ends of the scale; None: its numbers
    colours  name of a colour map
    ring     whether to mark the peak of the values, if it is not transparent
    extent   (H, W): a region to outline
    bars     labels and their probabilities, 0 to 1
    limit    that the probabilities are compared with
    """

    photo: Photo
    caption: str = ""
    note: str = ""
    values: Values | None = None
    scale: tuple[float, float] | None = None
    ends: tuple[str, str] | None = None
    colours: str = MAP
    ring: bool = False
    extent: NDArray[np.bool_] | None = None
    bars: Sequence[tuple[str, float]] = ()
    limit: float | None = None


def save(picture: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write a picture; the suffix of `path` chooses the format. Raises UnsupportedError for a
    format that is unknown, or too small for the picture."""
    Image.init()
    suffix = Path(path).suffix.lower()
    kind = Image.EXTENSION.get(suffix, "")
    if kind not in Image.SAVE or Path(path).is_dir():
        raise UnsupportedError(f"a picture's name must end in .png or .jpg: {str(path)!r}")
    max_side = MAX_SIDES.get(kind, math.inf)
    if max(picture.size) > max_side:
        raise UnsupportedError(
            f"{path}: the picture has {picture.width:,} x {picture.height:,} pixels, and {suffix} "
            f"at most {max_side:,} a side; write .png, or draw less"
        )
    with replacing(path) as part:
        picture.save(part)


def overlay(
    image: Photo,
    values: Values,
    scale: tuple[float, float] | None = None,
    colours: str = MAP,
) -> Image.Image:
    """A map (H, W) over its photo, which is nearly grey so that the map stands out.

    Colour and opacity follow the values on the scale; None: from the smallest to the largest value.
    The lowest fifth of the scale is transparent, and so is a flat map. Where the map is NaN, that
    is unknown, the photo is veiled in grey.
    """
    photo = image.astype(np.float32)
    base = 0.3 * photo + 0.7 * photo.mean(axis=-1, keepdims=True)
    level = unit(values, *(scale or ends_of(values)))
    step = ((level - CLEAR) / (1 - CLEAR)).clip(0, 1)
    opacity = 0.75 * (step * step * (3 - 2 * step))[..., None]
    mixed = base + opacity * (table(colours)[(level * 255).astype(np.uint8)] - base)
    veiled = 0.25 * base + 0.75 * 214
    out = np.where(np.isfinite(values)[..., None], mixed, veiled)
    return Image.fromarray(out.astype(np.uint8))


def heatmap_tiles(
    image: Photo,
    values: Values,
    texts: Sequence[str],
    drawn: Sequence[bool] | None = None,
    each: bool = True,
    numbers: bool = True,
    scale: tuple[float, float] | None = None,
    colours: str = MAP,
    extents: Sequence[NDArray[np.bool_] | None] | None = None,
) -> list[Tile]:
    """A tile for each text with its map over the photo: values (T, H, W), NaN where unknown.

    drawn    for each text whether its map is drawn
    each     each map has its own scale; otherwise all have the same
    numbers  whether numbers stand at the ends of a scale, or "low" and "high"
    scale    the values at its ends, for all maps
    extents  for each text a region to outline (H, W)
    """
    drawn = [True] * len(texts) if drawn is None else drawn
    extents = [None] * len(texts) if extents is None else extents
    if scale is None and not each and any(drawn):
        scale = ends_of(values[np.array(drawn)])
    ends = None if numbers else ("low", "high")
    tiles = []
    for text, one_map, is_drawn, extent in zip(texts, values, drawn, extents, strict=True):
        shown_map = one_map if is_drawn else None
        tiles.append(
            Tile(image, text, "", shown_map, scale, ends, colours, ring=True, extent=extent)
        )
    return tiles


def maps_beside(tiles: Sequence[Tile], title: str = "") -> Image.Image:
    """The photo that all tiles have, and beside it the tiles."""
    image = tiles[0].photo
    columns = 1 if image.shape[1] > WIDE * image.shape[0] else 0
    return panel([Tile(image, "photo"), *tiles], title, side_of(image), columns)


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures one below another."""
    size = max(picture.width for picture in pictures), sum(picture.height for picture in pictures)
    out = Image.new("RGB", size, PAPER)
    top = 0
    for picture in pictures:
        out.paste(picture, (0, top))
        top += picture.height
    return out


def maps_panel(
    image: Photo,
    maps: Values,
    titles: Sequence[str],
    title: str = "",
    scale: tuple[float, float] | None = None,
    colours: str = MAP,
    strip: bool = False,
) -> Image.Image:
    """The photo, and each of the maps (K, H, W) over it with its title. scale: values at the ends
    of the colours of all maps; None: each map has its own. strip: small and in long rows, for the
    words of a text."""
    tiles = [
        Tile(image, caption, values=values, scale=scale, colours=colours)
        for caption, values in zip(titles, maps, strict=True)
    ]
    if scale is None and len(tiles) > 1:
        title += "\nEach map has its own scale, with its numbers under it."
    if not strip:
        return maps_beside(tiles, title)
    tiles = [Tile(image, "photo"), *tiles]
    rows = math.ceil(len(tiles) / STRIP_COLUMNS)
    columns = math.ceil(len(tiles) / rows)
    return panel(tiles, title, side_of(image, STRIP_PHOTO), columns, STRIP_CELL)


def classify_panel(
    photos: Sequence[Photo],
    scores: Sequence[Sequence[tuple[str, float]]],
    names: Sequence[str],
    title: str = "",
    notes: Sequence[str] = (),
    limit: float | None = None,
) -> Image.Image:
    """Each photo with its name, its note, and its (label, probability) pairs as bars. limit: that
    the probabilities are compared with."""
    rows = zip(photos, names, notes or [""] * len(names), scores, strict=True)
    tiles = [Tile(photo, name, note, bars=bars, limit=limit) for photo, name, note, bars in rows]
    return panel(tiles, title)


def search_panel(
    photos: Sequence[Photo], names: Sequence[str], ranks: Sequence[str], title: str
) -> Image.Image:
    """The hits of a search with their names and ranks; title: the query."""
    return panel([Tile(*each) for each in zip(photos, names, ranks, strict=True)], title)


def empty() -> Photo:
    """The placeholder of a photo that cannot be opened."""
    return np.full((TILE, TILE, 3), LINE, np.uint8)


def panel(
    tiles: Sequence[Tile],
    title: str = "",
    side: int = TILE,
    max_columns: int = 0,
    min_cell: int = MIN_CELL,
) -> Image.Image:
    """Tiles in rows under a title, their photos `side` pixels long. max_columns: 0: three or four,
    whichever fills the rows better. A scale that all maps share stands once at the end."""
    pictures = [picture(tile, side) for tile in tiles]
    shared = _shared_scale(tiles)
    cell = max([min_cell, *(picture.width for picture in pictures)])
    if len(tiles) <= (max_columns or 4):
        columns = len(tiles)
    else:
        columns = max_columns or min((4, 3), key=lambda columns: -len(tiles) % columns)
    rows = [range(i, min(i + columns, len(tiles))) for i in range(0, len(tiles), columns)]
    photo_heights = [max(pictures[i].height for i in row) for row in rows]
    foot_heights = [max(_foot(None, tiles[i], 0, 0, cell, shared) for i in row) for row in rows]
    width = GAP + max(columns, 1) * (cell + GAP)
    head = heading(title, width - 2 * GAP, LINES)
    top = GAP + head.height
    height = top + sum(photo_heights) + sum(foot_heights) + GAP * len(rows)
    if shared:
        height += BAR_HEIGHT + GAP
    out = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(out)
    head.write(out, GAP, GAP)
    for row, photo_height, foot_height in zip(rows, photo_heights, foot_heights, strict=True):
        for column, i in enumerate(row):
            left = GAP + column * (cell + GAP)
            out.paste(pictures[i], (left, top + (photo_height - pictures[i].height)))
            _foot(draw, tiles[i], left, top + photo_height, cell, shared)
        top += photo_height + foot_height + GAP
    if shared:
        _draw_scale(draw, shared, GAP, top, min(width - 2 * GAP, BAR_ROOM))
    return out


def _shared_scale(tiles: Sequence[Tile]) -> Tile | None:
    """A tile with the scale that several maps share; None if they share none."""
    maps = [tile for tile in tiles if tile.values is not None]
    scales = {(tile.scale, tile.ends, tile.colours) for tile in maps}
    return maps[0] if len(maps) > 1 and len(scales) == 1 and maps[0].scale else None


def _draw_scale(draw: ImageDraw.ImageDraw, tile: Tile, left: int, top: int, width: int) -> None:
    assert tile.values is not None
    ends = tile.ends or numbered(tile.scale or ends_of(tile.values))
    colour_bar(draw, tile.colours, ends, left, top, width)


def side_of(photo: Photo, side: int = TILE) -> int:
    """The longer side at which a photo is drawn, pixels: more for tall and wide photos."""
    ratio = max(photo.shape[:2]) / min(photo.shape[:2])
    return round(side * min(max(math.sqrt(ratio / 2), 1), MAX_ENLARGED))


def fit(photo: Photo | Image.Image, side: int) -> Image.Image:
    """A photo scaled so that its longer side is `side` pixels."""
    picture = photo if isinstance(photo, Image.Image) else Image.fromarray(photo)
    scale = side / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS)


def shown(photo: Photo, longest: int = 0) -> Photo:
    """A photo that is at most `longest` pixels long; 0: as long as a photo with maps is drawn."""
    longest = longest or side_of(photo)
    return np.asarray(fit(photo, longest)) if max(photo.shape[:2]) > longest else photo


def picture(tile: Tile, side: int = TILE) -> Image.Image:
    """A tile's photo with its map, outline and ring, `side` pixels long."""
    if tile.values is None:
        return fit(tile.photo, side)
    photo, values = tile.photo, tile.values
    longest = max(side, TILE)
    if max(photo.shape[:2]) > longest:  # no more pixels than are shown
        photo = np.asarray(fit(photo, longest))
        (height, width), (rows, columns) = photo.shape[:2], values.shape
        values = values[np.arange(height) * rows // height][:, np.arange(width) * columns // width]
    picture = fit(overlay(photo, values, tile.scale, tile.colours), side)
    if tile.extent is not None:
        picture = outlined(picture, tile.extent)
    ends = ends_of(values)
    low, high = tile.scale or ends
    if tile.ring and not flat(*ends) and ends[1] > low + CLEAR * (high - low):
        _, x, y = peak(np.where(np.isfinite(values), values, np.nan))
        rows, columns = values.shape
        _ring(picture, ((x + 0.5) / columns, (y + 0.5) / rows))
    return picture


def _ring(picture: Image.Image, at: tuple[float, float]) -> None:
    """Draw a ring around a place, x and y from 0 to 1. Near the border it is moved inwards; on a
    narrow picture it is smaller."""
    radius = min(RING, (min(picture.size) - 3) // 2)
    if radius < MIN_RING:
        return
    centre = [
        min(max(place * side, radius + 1), max(side - radius - 2, radius + 1))
        for place, side in zip(at, picture.size, strict=True)
    ]
    draw = ImageDraw.Draw(picture)
    draw.circle(centre, radius, outline=INK, width=5)
    draw.circle(centre, radius - 1, outline=PAPER, width=3)


def _foot(
    draw: ImageDraw.ImageDraw | None,
    tile: Tile,
    left: int,
    top: int,
    width: int,
    shared: Tile | None,
) -> int:
    """Draw what stands under a photo. Returns its height. draw: None only measures."""
    start = top
    top += 8
    lines = wrap(tile.caption, font(TEXT, tile.caption), width, LINES)
    if draw:
        write(draw, lines, left, top, TEXT)
    top += len(lines) * line_height(TEXT)
    note_lines = wrap(tile.note, font(SMALL, tile.note), width, LINES)
    if draw:
        write(draw, note_lines, left, top, SMALL)
    top += len(note_lines) * line_height(SMALL)
    for label, value in tile.bars:
        top += 4
        if draw:
            draw_bar(draw, label, value, left, top, width, tile.limit)
        top += BAR_HEIGHT
    if tile.values is not None and not shared:
        top += 4
        if draw:
            _draw_scale(draw, tile, left, top, width)
        top += BAR_HEIGHT
    return top - start


def draw_bar(
    draw: ImageDraw.ImageDraw,
    label: str,
    value: float,
    left: int,
    top: int,
    width: int,
    limit: float | None = None,
) -> None:
    """A label, its percentage at the right, and a bar below both; value: 0 to 1; limit: that it is
    compared with."""
    percent = share(value, limit)
    room = width - text_width([percent], SMALL) - 10
    write(draw, wrap(label, font(SMALL, label), room, 1), left, top, SMALL)
    draw.text((left + width, top + SMALL), percent, FAINT, font(SMALL), anchor="rs")
    y = top + line_height(SMALL) + 1
    draw.rounded_rectangle((left, y, left + width - 1, y + 5), 3, LINE)
    if value * width >= 1:
        length = max(5, round(value * (width - 1)))
        draw.rounded_rectangle((left, y, left + length, y + 5), 3, BAR)
