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
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from patchword.atomic_write import replacing
from patchword.errors import UnsupportedError
from patchword.show.peak import peak
from patchword.show.percent import share

Photo = NDArray[np.uint8]  # (H, W, 3)
Values = NDArray[np.floating]
Font = ImageFont.FreeTypeFont
RGB = tuple[int, int, int]

TILE = 360  # longer side of a photo in a panel, pixels
NARROWEST = 220  # of a cell, pixels: room for words under a tall photo
GAP = 22  # around cells, pixels
TEXT, SMALL = 18, 15  # font sizes, pixels
CLEAR = 0.2  # of a scale: below it a map has no colour
RING = 11  # radius of the mark of a peak, pixels
LINES = 4  # of a caption; what is longer ends in an ellipsis
PAPER, INK, FAINT, LINE = (255, 255, 255), (26, 26, 32), (112, 112, 122), (226, 226, 232)
MAP, MATRIX, SHARES = "inferno", "viridis", "Blues"  # colour maps of matplotlib
BAR = (64, 110, 190)
# Families that have Chinese, Japanese and Korean signs, where a system has them.
CJK = (
    "Noto Sans CJK SC",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "PingFang SC",
    "Hiragino Sans",
    "Microsoft YaHei",
    "Droid Sans Fallback",
)


@dataclass(frozen=True)
class Tile:
    """One photo of a panel and the text under it."""

    photo: Photo
    caption: str = ""
    note: str = ""  # in small letters under the caption
    values: Values | None = None  # (H, W): drawn over the photo, its scale under it
    scale: tuple[float, float] | None = None  # of the colours; None: the ends of the values
    ends: tuple[str, str] | None = None  # words at the ends of the scale; None: its numbers
    ring: bool = False  # mark the peak of the values, where it has colour
    bars: Sequence[tuple[str, float]] = ()  # words and how probable they are, 0 to 1


def save(picture: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write a picture; the suffix of `path` chooses the format. Raises UnsupportedError for one
    that no picture can be written in."""
    Image.init()
    if Image.EXTENSION.get(Path(path).suffix.lower()) not in Image.SAVE or Path(path).is_dir():
        raise UnsupportedError(f"a picture's name must end in .png or .jpg: {str(path)!r}")
    with replacing(path) as part:
        picture.save(part)


def overlay(image: Photo, values: Values, scale: tuple[float, float] | None = None) -> Image.Image:
    """A map (H, W) over its photo, which loses most of its colour so that the map's stands out.

    Colour and opacity follow the value between the ends of the scale, by default the smallest and
    the largest value, and the lowest fifth of it stays clear; a flat map leaves the photo bare.
    Where the map is NaN, nothing is known, the photo is veiled.
    """
    photo = image.astype(np.float32)
    base = 0.3 * photo + 0.7 * photo.mean(axis=-1, keepdims=True)
    level = _unit(values, *(scale or ends_of(values)))
    step = ((level - CLEAR) / (1 - CLEAR)).clip(0, 1)
    opacity = 0.75 * (step * step * (3 - 2 * step))[..., None]
    mixed = base + opacity * (_colours(MAP)[(level * 255).astype(np.uint8)] - base)
    veiled = 0.25 * base + 0.75 * 214
    out = np.where(np.isfinite(values)[..., None], mixed, veiled)
    return Image.fromarray(out.astype(np.uint8))


def heatmap_panel(
    image: Photo,
    values: Values,
    texts: Sequence[str],
    drawn: Sequence[bool] | None = None,
    each: bool = True,
    title: str = "",
    numbers: bool = True,
) -> Image.Image:
    """The photo, and over it the map of each text: values (T, H, W), NaN where nothing is known.

    drawn    which of the maps are; the others' photo is left bare
    each     each map has its own scale, else all have one; it is written under them, and a ring
             marks the peak of a map that has colour there
    numbers  the ends of the scale are numbers, else "low" and "high"
    """
    kept = [True] * len(texts) if drawn is None else drawn
    scale = None if each or not any(kept) else ends_of(values[np.array(kept)])
    ends = None if numbers else ("low", "high")
    maps = [
        Tile(image, text, values=v if show else None, scale=scale, ends=ends, ring=True)
        for text, v, show in zip(texts, values, kept, strict=True)
    ]
    return panel([Tile(image, "photo"), *maps], title)


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures one under the other."""
    size = max(each.width for each in pictures), sum(each.height for each in pictures)
    out = Image.new("RGB", size, PAPER)
    top = 0
    for each in pictures:
        out.paste(each, (0, top))
        top += each.height
    return out


def maps_panel(image: Photo, maps: Values, titles: Sequence[str], title: str = "") -> Image.Image:
    """The photo, and over it each of the maps (K, H, W) under its title, under one for all."""
    tiles = [Tile(image, each, values=v) for each, v in zip(titles, maps, strict=True)]
    return panel([Tile(image, "photo"), *tiles], title)


def classify_panel(
    photos: Sequence[Photo],
    scores: Sequence[Sequence[tuple[str, float]]],
    names: Sequence[str],
    title: str = "",
) -> Image.Image:
    """Each photo with its name and its (label, probability) pairs, best first, as bars."""
    rows = zip(photos, names, scores, strict=True)
    return panel([Tile(photo, name, bars=tuple(bars)) for photo, name, bars in rows], title)


def search_panel(
    photos: Sequence[Photo], names: Sequence[str], ranks: Sequence[str], title: str
) -> Image.Image:
    """Hits, best first, each with its name, and under it its rank; the query as title."""
    return panel([Tile(*each) for each in zip(photos, names, ranks, strict=True)], title)


def empty() -> Photo:
    """The placeholder of a photo that cannot be opened."""
    return np.full((TILE, TILE, 3), LINE, np.uint8)


def panel(tiles: Sequence[Tile], title: str = "") -> Image.Image:
    """Tiles in rows of at most four, under a title."""
    pictures = [picture(tile) for tile in tiles]
    columns = len(tiles) if len(tiles) <= 4 else min((4, 3), key=lambda c: -len(tiles) % c)
    cell = max([NARROWEST, *(picture.width for picture in pictures)])
    rows = [range(i, min(i + columns, len(tiles))) for i in range(0, len(tiles), columns)]
    tops = [max(pictures[i].height for i in row) for row in rows]
    feet = [max(_foot(None, tiles[i], 0, 0, cell) for i in row) for row in rows]
    width = GAP + max(columns, 1) * (cell + GAP)
    heading = wrap(title, font(TEXT, title, bold=True), width - 2 * GAP, LINES) if title else []
    top = GAP + len(heading) * line_height(TEXT) + (GAP // 2 if heading else 0)
    out = Image.new("RGB", (width, top + sum(tops) + sum(feet) + GAP * len(rows)), PAPER)
    draw = ImageDraw.Draw(out)
    write(draw, heading, GAP, GAP, TEXT, bold=True)
    for row, high, foot in zip(rows, tops, feet, strict=True):
        for column, i in enumerate(row):
            left = GAP + column * (cell + GAP)
            out.paste(pictures[i], (left, top + (high - pictures[i].height)))
            _foot(draw, tiles[i], left, top + high, cell)
        top += high + foot + GAP
    return out


def wrap(text: str, face: Font, width: int, lines: int) -> list[str]:
    """Break text into at most `lines` lines of at most `width` pixels; a cut ends in "…"."""
    out, rest = [], " ".join(text.split())
    while rest:
        cut = _cut(rest, face, width)
        out.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
        if rest and len(out) == lines:
            last = out[-1]
            while last and face.getlength(last + "…") > width:
                last = last[:-1]
            out[-1] = last.rstrip() + "…"
            break
    return out


def _cut(text: str, face: Font, width: int) -> int:
    """How much of `text` fits a line: up to a space or after a slash if there is one, else a
    letter; at least one."""
    fits = len(text)
    while fits > 1 and face.getlength(text[:fits]) > width:
        fits -= 1 + (fits > 200) * (fits // 8)
    if fits == len(text) or text[fits] == " ":
        return fits
    return max(text.rfind(" ", 0, fits), text.rfind("/", 0, fits)) + 1 or fits


@lru_cache(maxsize=64)
def font(size: int, text: str = "", bold: bool = False) -> Font:
    """DejaVu Sans, which travels in matplotlib; for signs that it lacks, a family of the system
    that has them, where there is one."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    if text and not _has(str(path), text):
        path = next((p for p in _cjk() if _has(str(p), text)), path)
    return ImageFont.truetype(str(path), size)


def _has(path: str, text: str) -> bool:
    return all(ord(sign) in _signs(path) or sign.isspace() for sign in text)


@lru_cache(maxsize=16)
def _signs(path: str) -> frozenset[int]:
    """The code points that a font file has."""
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(path).get_charmap())


@lru_cache(maxsize=1)
def _cjk() -> list[Path]:
    """The system's font files of the `CJK` families."""
    from matplotlib.font_manager import fontManager

    files = {entry.name: Path(entry.fname) for entry in fontManager.ttflist}
    return [files[name] for name in CJK if name in files]


@lru_cache(maxsize=4)
def _colours(name: str) -> NDArray[np.float32]:
    """A perceptually uniform colour map of matplotlib, (256, 3) of 0 to 255."""
    from matplotlib import colormaps

    return np.asarray(colormaps[name](np.arange(256))[:, :3] * 255, np.float32)


def ends_of(values: Values) -> tuple[float, float]:
    """Smallest and largest finite value; (0, 0) when there is none."""
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def _unit(values: Values, low: float, high: float) -> NDArray[np.float32]:
    """low..high -> 0..1; NaN -> 0; all 0 where low and high are the same but for rounding."""
    span = high - low
    if span <= 1e-6 * max(abs(low), abs(high)):
        return np.zeros(values.shape, np.float32)
    level: NDArray[np.float32] = np.nan_to_num((values - low) / span).clip(0, 1)
    return level.astype(np.float32)


def fit(photo: Photo | Image.Image, side: int) -> Image.Image:
    """A photo scaled so that its longer side is `side` pixels."""
    picture = photo if isinstance(photo, Image.Image) else Image.fromarray(photo)
    scale = side / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS)


def shown(photo: Photo, longest: int = TILE) -> Photo:
    """A photo no longer than it is shown."""
    return np.asarray(fit(photo, longest)) if max(photo.shape[:2]) > longest else photo


def picture(tile: Tile) -> Image.Image:
    """A tile's photo, its longer side `TILE` pixels, with its map and ring."""
    if tile.values is None:
        return fit(tile.photo, TILE)
    photo, values = tile.photo, tile.values
    if max(photo.shape[:2]) > TILE:  # no more pixels are coloured than are shown
        photo = np.asarray(fit(photo, TILE))
        (height, width), (rows, columns) = photo.shape[:2], values.shape
        values = values[np.arange(height) * rows // height][:, np.arange(width) * columns // width]
    picture = fit(overlay(photo, values, tile.scale), TILE)
    low, high = tile.scale or ends_of(values)
    if tile.ring and np.nanmax(values, initial=low) > low + CLEAR * (high - low):
        _, x, y = peak(values)
        zoom = picture.width / values.shape[1]
        # At the border the ring is moved inwards, so that it is whole.
        centre = [
            min(max((place + 0.5) * zoom, RING + 1), max(side - RING - 2, RING + 1))
            for place, side in zip((x, y), picture.size, strict=True)
        ]
        draw = ImageDraw.Draw(picture)
        draw.circle(centre, RING, outline=INK, width=5)
        draw.circle(centre, RING - 1, outline=PAPER, width=3)
    return picture


def _foot(draw: ImageDraw.ImageDraw | None, tile: Tile, left: int, top: int, width: int) -> int:
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
    if tile.values is not None:
        top += 4
        if draw:
            ends = tile.ends or numbered(tile.scale or ends_of(tile.values))
            colour_bar(draw, MAP, ends, left, top, width)
        top += line_height(SMALL) + 12
    return top - start


def write(
    draw: ImageDraw.ImageDraw, lines: Sequence[str], x: int, y: int, size: int, bold: bool = False
) -> None:
    for number, line in enumerate(lines):
        face = font(size, line, bold)
        draw.text((x, y + number * line_height(size) + size), line, INK, face, anchor="ls")


def text_width(lines: Sequence[str], size: int, bold: bool = False) -> int:
    """Of the longest line, in pixels."""
    return max((math.ceil(font(size, line, bold).getlength(line)) for line in lines), default=0)


def line_height(size: int) -> int:
    """Height of a line of text."""
    return round(size * 1.35)


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


def numbered(scale: tuple[float, float]) -> tuple[str, str]:
    """The ends of a scale as words."""
    return f"{scale[0]:.3f}", f"{scale[1]:.3f}"


def colour_bar(
    draw: ImageDraw.ImageDraw, name: str, ends: tuple[str, str], left: int, top: int, width: int
) -> None:
    """The colours of a map, with words at the ends."""
    colours = _colours(name).astype(int)
    for x in range(width):
        r, g, b = colours[x * 255 // max(1, width - 1)].tolist()
        draw.line((left + x, top, left + x, top + 7), (r, g, b))
    baseline = top + 10 + SMALL
    draw.text((left, baseline), ends[0], FAINT, font(SMALL), anchor="ls")
    draw.text((left + width, baseline), ends[1], FAINT, font(SMALL), anchor="rs")


def shade(value: float, scale: tuple[float, float], colours: str = MATRIX) -> tuple[RGB, RGB]:
    """The colour in a matrix of a value between the ends of a scale, and what to write on it: the
    ink that stands out more."""
    level = int(_unit(np.array(value), *scale) * 255)
    r, g, b = _colours(colours)[level].astype(int).tolist()
    linear = (np.array([r, g, b]) / 255) ** 2.2
    bright = float(linear @ (0.2126, 0.7152, 0.0722))
    # Black ink's contrast falls below white's where the luminance is under about 0.2 (WCAG 2.2).
    return (r, g, b), INK if bright > 0.2 else PAPER
