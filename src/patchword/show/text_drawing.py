"""Texts in pictures: fonts and line breaks. Sizes are in pixels."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from patchword.errors import FontWarning, warn

Font = ImageFont.FreeTypeFont

TEXT, SMALL = 18, 15  # font sizes
BELOW = 11  # space under a heading, pixels
REMARKS = 3  # lines of small letters under a title
BREAKS = " /-_"  # characters after which a line may end
PAPER, INK, FAINT, LINE = (255, 255, 255), (26, 26, 32), (112, 112, 122), (226, 226, 232)
# Font families with Chinese, Japanese and Korean characters, of various systems.
CJK = (
    "Noto Sans CJK SC",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "PingFang SC",
    "Hiragino Sans",
    "Microsoft YaHei",
    "Droid Sans Fallback",
)
ASIAN = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL")  # beginnings of their Unicode names


def wrap(text: str, face: Font, width: int, lines: int) -> list[str]:
    """Break text into at most `lines` lines of at most `width` pixels. A longer text is cut off
    and ends in "…"."""
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
    """How many characters of `text` fit a line, at least one: up to the last of `BREAKS`, or within
    a word if there is none."""
    fits = len(text)
    while fits > 1 and face.getlength(text[:fits]) > width:
        fits -= 1 + fits // 8 if fits > 200 else 1
    if fits == len(text) or text[fits] == " ":
        return fits
    after_break = max(text.rfind(character, 0, fits) for character in BREAKS) + 1
    return after_break or fits


@lru_cache(maxsize=256)
def font(size: int, text: str = "", bold: bool = False) -> Font:
    """DejaVu Sans, which is part of matplotlib, or the font of the system that has most of the
    text's characters. Gives a FontWarning for characters that no font has."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    if _missing(path, text):
        path = min([path, *_cjk()], key=lambda candidate: len(_missing(candidate, text)))
        for character in _missing(path, text):
            script = unicodedata.name(character, "").split("-")[0].split(" ")[0]
            asian = script in ASIAN
            _warn("Chinese, Japanese or Korean characters" if asian else repr(character))
    return ImageFont.truetype(str(path), size)


@lru_cache(maxsize=256)
def _warn(what: str) -> None:
    """Warn once, however often a text is drawn."""
    warn(
        f"no font of this system has {what}: boxes are drawn; install {CJK[0]}, or another that "
        "has them",
        FontWarning,
    )


def _missing(path: Path, text: str) -> list[str]:
    """The characters of a text that a font file lacks."""
    known = _characters(str(path))
    return [char for char in text if ord(char) not in known and not char.isspace()]


@lru_cache(maxsize=16)
def _characters(path: str) -> frozenset[int]:
    """The code points that a font file has."""
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(path).get_charmap())


@lru_cache(maxsize=1)
def _cjk() -> list[Path]:
    """The system's font files of the `CJK` families. Adds fonts that matplotlib's cached list does
    not have yet."""
    from matplotlib import font_manager

    known = {entry.fname for entry in font_manager.fontManager.ttflist}
    for path in font_manager.findSystemFonts():
        if path not in known:
            with suppress(OSError, RuntimeError):  # a broken file among them
                font_manager.fontManager.addfont(path)
    files = {entry.name: Path(entry.fname) for entry in font_manager.fontManager.ttflist}
    return [files[name] for name in CJK if name in files]


def write(
    draw: ImageDraw.ImageDraw, lines: Sequence[str], x: int, y: int, size: int, bold: bool = False
) -> None:
    for number, line in enumerate(lines):
        face = font(size, line, bold)
        draw.text((x, y + number * line_height(size) + size), line, INK, face, anchor="ls")


@dataclass(frozen=True)
class Heading:
    """A title broken into lines, and remarks under it in small letters."""

    title: Sequence[str]
    remarks: Sequence[str]

    @property
    def height(self) -> int:
        """Pixels, with the space below; 0 if it is empty."""
        if not self.title and not self.remarks:
            return 0
        lines = len(self.title) * line_height(TEXT) + len(self.remarks) * line_height(SMALL)
        return lines + BELOW

    def write(self, picture: Image.Image, x: int, y: int) -> None:
        draw = ImageDraw.Draw(picture)
        write(draw, self.title, x, y, TEXT, bold=True)
        write(draw, self.remarks, x, y + len(self.title) * line_height(TEXT), SMALL)


def heading(title: str, width: int, lines: int = 4) -> Heading:
    """A heading whose title is the first line of `title`, broken into at most `lines` lines; the
    other lines are its remarks."""
    first, *rest = title.split("\n")
    title_lines = wrap(first, font(TEXT, first, bold=True), width, lines)
    remarks: list[str] = []
    for remark in rest:
        remarks += wrap(remark, font(SMALL, remark), width, 2)
    return Heading(title_lines, remarks[:REMARKS])


def text_width(lines: Sequence[str], size: int) -> int:
    """Width of the longest line, in pixels."""
    return max((math.ceil(font(size, line).getlength(line)) for line in lines), default=0)


def line_height(size: int) -> int:
    """Height of a line of text."""
    return round(size * 1.35)
