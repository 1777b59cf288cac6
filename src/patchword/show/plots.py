"""Pictures of answers: maps over photos, photos with scores, matrices.

Arrays and words in, RGB PIL images out. Photos are uint8 (H, W, 3) of any size; they are drawn at
most `TILE` pixels long, small ones enlarged to that. Colours and fonts are matplotlib's, which is
imported only when something is drawn.
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
    wrap,
    write,
)

Photo = NDArray[np.uint8]  # (H, W, 3)

A_SIDE = {"JPEG": 65_500, "PDF": 65_500, "WEBP": 16_383}  # pixels at most
TILE = 360  # longer side of a photo in a panel, pixels
LONGEST = 2  # times as long, at most, a tall or wide photo is drawn
NARROWEST = 220  # of a cell, pixels: room for words under a tall photo
WIDE = 2.5  # times as wide as high: such photos stand one under another
STRIP = 9  # tiles in a row of a filmstrip
FRAME, SLIM = 220, 120  # of a filmstrip: longer side of a photo, least width of a cell, pixels
BAR_ROOM = 420  # most of the bar of a scale that all tiles share, pixels
GAP = 22  # around cells, pixels
CLEAR = 0.2  # of a scale: below it a map has no colour
RING, SMALLEST_RING = 11, 5  # radius of the mark of a peak, pixels
LINES = 4  # of a caption; what is longer ends in an ellipsis
BAR = (64, 110, 190)


@dataclass(frozen=True)
class Tile:
    """One photo of a panel and the text under it."""

    photo: Photo
    caption: str = ""
    note: str = ""  # in small letters under the caption
    values: Values | None = None  # (H, W): drawn over the photo, its scale under it
    scale: tuple[float, float] | None = None  # of the colours; None: the ends of the values
    ends: tuple[str, str] | None = None  # words at the ends of the scale; None: its numbers
    colours: str = MAP  # of the values
    ring: bool = False  # mark the peak of the values, where it has colour
    extent: NDArray[np.bool_] | None = None  # (H, W): a line runs around it
    bars: Sequence[tuple[str, float]] = ()  # words and how probable they are, 0 to 1


def save(picture: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write a picture; the suffix of `path` chooses the format. Raises UnsupportedError for one
    that no picture can be written in, or none so large."""
    Image.init()
    suffix = Path(path).suffix.lower()
    kind = Image.EXTENSION.get(suffix, "")
    if kind not in Image.SAVE or Path(path).is_dir():
        raise UnsupportedError(f"a picture's name must end in .png or .jpg: {str(path)!r}")
    if max(picture.size) > (most := A_SIDE.get(kind, max(picture.size))):
        raise UnsupportedError(
            f"{path}: the picture has {picture.width:,} x {picture.height:,} pixels, and {suffix} "
            f"at most {most:,} a side; write .png, or draw less"
        )
    with replacing(path) as part:
        picture.save(part)


def overlay(
    image: Photo,
    values: Values,
    scale: tuple[float, float] | None = None,
    colours: str = MAP,
) -> Image.Image:
    """A map (H, W) over its photo, which loses most of its colour so that the map's stands out.

    Colour and opacity follow the value between the ends of the scale, by default the smallest and
    the largest value, and the lowest fifth of it stays clear; a flat map leaves the photo bare.
    Where the map is NaN, nothing is known, the photo is veiled.
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
    """Of each text its map over the photo: values (T, H, W), NaN where nothing is known.

    drawn    which of the maps are; the others' photo is left bare
    each     each map has its own scale, else all have one; it is written under them, and a ring
             marks the peak of a map that has colour there
    numbers  the ends of the scale are numbers, else "low" and "high"
    scale    the ends of the colours of every map, whatever its values
    extents  of each text where it is (H, W); a line runs around it
    """
    kept = [True] * len(texts) if drawn is None else drawn
    if scale is None and not each and any(kept):
        scale = ends_of(values[np.array(kept)])
    ends = None if numbers else ("low", "high")
    return [
        Tile(image, text, "", v if show else None, scale, ends, colours, ring=True, extent=within)
        for text, v, show, within in zip(
            texts, values, kept, extents or [None] * len(texts), strict=True
        )
    ]


def maps_beside(tiles: Sequence[Tile], title: str = "") -> Image.Image:
    """The photo of tiles that all have the same one, and beside it the tiles."""
    image = tiles[0].photo
    return panel([Tile(image, "photo"), *tiles], title, side_of(image), _beside(image))


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures one under the other."""
    size = max(each.width for each in pictures), sum(each.height for each in pictures)
    out = Image.new("RGB", size, PAPER)
    top = 0
    for each in pictures:
        out.paste(each, (0, top))
        top += each.height
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
    """The photo, and over it each of the maps (K, H, W) under its title, under one for all. scale:
    of the colours of every map; None: each its own. strip: small and in long rows, as a text is
    read."""
    tiles = [
        Tile(image, each, values=v, scale=scale, colours=colours)
        for each, v in zip(titles, maps, strict=True)
    ]
    if scale is None and len(tiles) > 1:
        title += "\nEach map has its own scale, with its numbers under it."
    if not strip:
        return maps_beside(tiles, title)
    tiles = [Tile(image, "photo"), *tiles]
    rows = -(-len(tiles) // STRIP)
    return panel(tiles, title, side_of(image, FRAME), -(-len(tiles) // rows), SLIM)


def classify_panel(
    photos: Sequence[Photo],
    scores: Sequence[Sequence[tuple[str, float]]],
    names: Sequence[str],
    title: str = "",
    notes: Sequence[str] = (),
) -> Image.Image:
    """Each photo with its name, a note if there is one, and its (label, probability) pairs, best
    first, as bars."""
    rows = zip(photos, names, notes or [""] * len(names), scores, strict=True)
    tiles = [Tile(photo, name, note, bars=tuple(bars)) for photo, name, note, bars in rows]
    return panel(tiles, title)


def search_panel(
    photos: Sequence[Photo], names: Sequence[str], ranks: Sequence[str], title: str
) -> Image.Image:
    """Hits, best first, each with its name, and under it its rank; the query as title."""
    return panel([Tile(*each) for each in zip(photos, names, ranks, strict=True)], title)


def empty() -> Photo:
    """The placeholder of a photo that cannot be opened."""
    return np.full((TILE, TILE, 3), LINE, np.uint8)


def panel(
    tiles: Sequence[Tile],
    title: str = "",
    side: int = TILE,
    columns: int = 0,
    narrowest: int = NARROWEST,
) -> Image.Image:
    """Tiles in rows under a title, their photos `side` pixels long. columns: the most in a row; 0:
    three or four. narrowest: of a tile. Where all maps share a scale, it stands once at the end."""
    pictures = [picture(tile, side) for tile in tiles]
    shared = _shared(tiles)
    cell = max([narrowest, *(picture.width for picture in pictures)])
    most = columns or min((4, 3), key=lambda c: -len(tiles) % c)
    columns = len(tiles) if len(tiles) <= (columns or 4) else most
    rows = [range(i, min(i + columns, len(tiles))) for i in range(0, len(tiles), columns)]
    tops = [max(pictures[i].height for i in row) for row in rows]
    feet = [max(_foot(None, tiles[i], 0, 0, cell, shared) for i in row) for row in rows]
    width = GAP + max(columns, 1) * (cell + GAP)
    head = heading(title, width - 2 * GAP, LINES)
    top = GAP + head.height
    end = line_height(SMALL) + 12 + GAP if shared else 0
    height = top + sum(tops) + sum(feet) + GAP * len(rows) + end
    out = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(out)
    head.write(out, GAP, GAP)
    for row, high, foot in zip(rows, tops, feet, strict=True):
        for column, i in enumerate(row):
            left = GAP + column * (cell + GAP)
            out.paste(pictures[i], (left, top + (high - pictures[i].height)))
            _foot(draw, tiles[i], left, top + high, cell, shared)
        top += high + foot + GAP
    if shared:
        _scale(draw, shared, GAP, top, min(width - 2 * GAP, BAR_ROOM))
    return out


def _shared(tiles: Sequence[Tile]) -> Tile | None:
    """One of several maps that all have one scale and one set of colours; else None."""
    maps = [tile for tile in tiles if tile.values is not None]
    kinds = {(tile.scale, tile.ends, tile.colours) for tile in maps}
    return maps[0] if len(maps) > 1 and len(kinds) == 1 and maps[0].scale else None


def _scale(draw: ImageDraw.ImageDraw, tile: Tile, left: int, top: int, width: int) -> None:
    """The colours of a tile's map, with its numbers or words."""
    assert tile.values is not None
    ends = tile.ends or numbered(tile.scale or ends_of(tile.values))
    colour_bar(draw, tile.colours, ends, left, top, width)


def _beside(photo: Photo) -> int:
    """How many of a photo stand in a row; 0: as many as of others."""
    return int(photo.shape[1] > WIDE * photo.shape[0])


def side_of(photo: Photo, side: int = TILE) -> int:
    """The longer side at which a photo is drawn, pixels: more of one that is tall or wide."""
    ratio = max(photo.shape[:2]) / min(photo.shape[:2])
    return round(side * min(max(math.sqrt(ratio / 2), 1), LONGEST))


def fit(photo: Photo | Image.Image, side: int) -> Image.Image:
    """A photo scaled so that its longer side is `side` pixels."""
    picture = photo if isinstance(photo, Image.Image) else Image.fromarray(photo)
    scale = side / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS)


def shown(photo: Photo, longest: int = 0) -> Photo:
    """A photo no longer than it is shown; 0: with maps over it."""
    longest = longest or side_of(photo)
    return np.asarray(fit(photo, longest)) if max(photo.shape[:2]) > longest else photo


def picture(tile: Tile, side: int = TILE) -> Image.Image:
    """A tile's photo, its longer side `side` pixels, with its map and ring."""
    if tile.values is None:
        return fit(tile.photo, side)
    photo, values = tile.photo, tile.values
    if max(photo.shape[:2]) > (most := max(side, TILE)):  # as many pixels as are shown
        photo = np.asarray(fit(photo, most))
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
    """Mark a place, x and y in shares of the picture. At the border the ring is moved inwards, so
    that it is whole; on a strip that is lower than a ring it is as large as fits."""
    radius = min(RING, (min(picture.size) - 3) // 2)
    if radius < SMALLEST_RING:
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
    """Write the text under a photo, or only measure it: its height."""
    start = top
    top += 8
    lines = wrap(tile.caption, font(TEXT, tile.caption), width, LINES)
    if draw:
        write(draw, lines, left, top, TEXT)
    top += len(lines) * line_height(TEXT)
    note = wrap(tile.note, font(SMALL, tile.note), width, LINES)
    if draw:
        write(draw, note, left, top, SMALL)
    top += len(note) * line_height(SMALL)
    for label, value in tile.bars:
        top += 4
        if draw:
            _bar(draw, label, value, left, top, width)
        top += line_height(SMALL) + 12
    if tile.values is not None and not shared:
        top += 4
        if draw:
            _scale(draw, tile, left, top, width)
        top += line_height(SMALL) + 12
    return top - start


def _bar(
    draw: ImageDraw.ImageDraw, label: str, value: float, left: int, top: int, width: int
) -> None:
    """A label, its percentage at the right, and a bar below both."""
    number = share(value)
    face = font(SMALL)
    room = width - round(face.getlength(number)) - 10
    words = wrap(label, font(SMALL, label), room, 1)
    write(draw, words, left, top, SMALL)
    draw.text((left + width, top + SMALL), number, FAINT, face, anchor="rs")
    y = top + line_height(SMALL) + 1
    draw.rounded_rectangle((left, y, left + width - 1, y + 5), 3, LINE)
    if value * width >= 1:
        draw.rounded_rectangle((left, y, left + max(5, round(value * (width - 1))), y + 5), 3, BAR)
