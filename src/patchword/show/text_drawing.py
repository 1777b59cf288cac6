"""Letters in pictures: fonts, and texts broken into lines. Sizes are in pixels."""

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
BELOW = 11  # between a heading and what it is of, pixels
REMARKS = 3  # lines of small letters under a title
BREAKS = " /-_"  # after which a line may end
PAPER, INK, FAINT, LINE = (255, 255, 255), (26, 26, 32), (112, 112, 122), (226, 226, 232)
# Families that have Chinese, Japanese and Korean characters, where a system has them.
CJK = (
    "Noto Sans CJK SC",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "PingFang SC",
    "Hiragino Sans",
    "Microsoft YaHei",
    "Droid Sans Fallback",
)
ASIAN = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL")  # how Unicode's names of them begin


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
    """How much of `text` fits a line: up to a space, a slash, a hyphen or an underscore if there is
    one, else a letter; at least one."""
    fits = len(text)
    while fits > 1 and face.getlength(text[:fits]) > width:
        fits -= 1 + (fits > 200) * (fits // 8)
    if fits == len(text) or text[fits] == " ":
        return fits
    return max(text.rfind(each, 0, fits) for each in BREAKS) + 1 or fits


@lru_cache(maxsize=256)
def font(size: int, text: str = "", bold: bool = False) -> Font:
    """DejaVu Sans, which travels in matplotlib; for characters that it lacks, the family of the
    system that has most of them. A FontWarning says which none has."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    if _missing(path, text):
        path = min([path, *_cjk()], key=lambda other: len(_missing(other, text)))
        for each in _missing(path, text):
            name = unicodedata.name(each, "").split("-")[0].split(" ")[0]
            _warn("Chinese, Japanese or Korean characters" if name in ASIAN else repr(each))
    return ImageFont.truetype(str(path), size)


@lru_cache(maxsize=256)
def _warn(what: str) -> None:
    """One warning, however often something is drawn."""
    warn(
        f"no font of this system has {what}: boxes are drawn; install {CJK[0]}, or another that "
        "has them",
        FontWarning,
    )


def _missing(path: Path, text: str) -> list[str]:
    """The characters of a text that a font file lacks."""
    known = _characters(str(path))
    return [each for each in text if ord(each) not in known and not each.isspace()]


@lru_cache(maxsize=16)
def _characters(path: str) -> frozenset[int]:
    """The code points that a font file has."""
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(path).get_charmap())


@lru_cache(maxsize=1)
def _cjk() -> list[Path]:
    """The system's font files of the `CJK` families; matplotlib's own list of fonts may be older
    than they are."""
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
    """A title broken into lines, and what stands under it in small letters."""

    title: Sequence[str]
    remarks: Sequence[str]

    @property
    def height(self) -> int:
        """Pixels, with the space below it; 0 without words."""
        lines = len(self.title) * line_height(TEXT) + len(self.remarks) * line_height(SMALL)
        return lines and lines + BELOW

    def write(self, picture: Image.Image, x: int, y: int) -> None:
        draw = ImageDraw.Draw(picture)
        write(draw, self.title, x, y, TEXT, bold=True)
        write(draw, self.remarks, x, y + len(self.title) * line_height(TEXT), SMALL)


def heading(title: str, width: int, lines: int = 4) -> Heading:
    """A title of at most so many lines; what follows its first line break is a remark."""
    first, _, rest = title.partition("\n")
    words = wrap(first, font(TEXT, first, bold=True), width, lines)
    said = [line for each in rest.split("\n") for line in wrap(each, font(SMALL, each), width, 2)]
    return Heading(words, said[:REMARKS])


def text_width(lines: Sequence[str], size: int) -> int:
    """Of the longest line, in pixels."""
    return max((math.ceil(font(size, line).getlength(line)) for line in lines), default=0)


def line_height(size: int) -> int:
    """Height of a line of text."""
    return round(size * 1.35)
