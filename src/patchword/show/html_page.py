"""Answers as one HTML page: pictures inside, no script, nothing fetched, light and dark."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from patchword.show import plots
from patchword.show.plots import Photo

SIDE = 360  # longest side of a picture in the page, pixels
THUMB = 120  # of one in a table

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1a1a20; --faint: #63636e;
  --card: #f6f6f9; --line: #e2e2e8; --bar: #406ebe; --right: #1a7f4b; --wrong: #b3401f }
@media (prefers-color-scheme: dark) { :root { --paper: #15161a; --ink: #ececf1; --faint: #a0a0ac;
  --card: #1f2026; --line: #34353d; --bar: #7aa2e8; --right: #63c48f; --wrong: #ec8a66 } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 72rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans",
  "DejaVu Sans", sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .5rem }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .3rem }
h3 { font-size: 1rem; margin: 1.5rem 0 .6rem }
p { margin: 0 0 .8rem; max-width: 46rem }
p, small { color: var(--faint) }
code { font-size: .9em; background: var(--card); border: 1px solid var(--line);
  border-radius: 4px; padding: .1em .35em }
.cards { display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fill, minmax(min(10.5rem, 46%), 1fr)) }
.wide { grid-template-columns: 1fr 1fr }
@media (min-width: 48rem) { .wide { grid-template-columns: repeat(4, 1fr) } }
figure { margin: 0; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; overflow: hidden }
figure img { display: block; width: 100%; aspect-ratio: 1; object-fit: cover }
.wide figure img { aspect-ratio: auto; height: auto }
figcaption { padding: .5rem .7rem .7rem; font-size: .9rem; line-height: 1.35 }
figcaption small { display: block }
.right { color: var(--right) } .wrong { color: var(--wrong) }
.score { display: grid; grid-template-columns: 1fr auto; column-gap: .5rem; margin-top: .3rem;
  font-size: .82rem; color: var(--faint) }
.score i { grid-column: 1 / 3; height: 5px; border-radius: 3px; background: var(--line) }
.score i b { display: block; height: 5px; border-radius: 3px; background: var(--bar) }
.table { overflow-x: auto }
table { border-collapse: separate; border-spacing: 2px; font-size: .9rem }
th { font-weight: 400; font-size: .85rem; min-width: 5.5rem; padding: .3rem; line-height: 1.25;
  vertical-align: bottom }
tbody th { position: sticky; left: 0; background: var(--paper); min-width: 0; text-align: left }
tbody th img { display: block; width: 52px; height: 52px; object-fit: cover; border-radius: 6px }
td { text-align: center; border-radius: 4px; padding: .3rem; font-variant-numeric: tabular-nums }
td.best { font-weight: 700; outline: 2px solid currentColor; outline-offset: -4px }
"""


@dataclass(frozen=True)
class Card:
    """A picture and what is said about it. `verdict` colours the title."""

    picture: Photo | Image.Image
    title: str
    note: str = ""
    bars: Sequence[tuple[str, float]] = ()
    verdict: Literal["", "right", "wrong"] = ""


def page(title: str, intro: str, sections: Sequence[str]) -> str:
    """A whole HTML document from plain words and what the functions below made."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n<p>{escape(intro)}</p>\n" + "\n".join(sections) + "\n</body>\n"
        "</html>\n"
    )


def section(title: str, words: str, bodies: Sequence[str], command: str = "") -> str:
    """A titled part of a page; `command` is what gives the same in a terminal."""
    line = f"<p><code>{escape(command)}</code></p>\n" if command else ""
    head = f"<h2>{escape(title)}</h2>\n<p>{escape(words)}</p>\n"
    return f"<section>\n{head}{line}" + "\n".join(bodies) + "\n</section>"


def cards(items: Sequence[Card], title: str = "", wide: bool = False) -> str:
    """Cards side by side, as many as fit. wide: two or four, and pictures keep their shape."""
    heading = f"<h3>{escape(title)}</h3>\n" if title else ""
    kind = "cards wide" if wide else "cards"
    return f'{heading}<div class="{kind}">\n' + "\n".join(map(_card, items)) + "\n</div>"


def matrix(
    photos: Sequence[Photo],
    names: Sequence[str],
    texts: Sequence[str],
    values: NDArray[np.floating],
) -> str:
    """Cosines (I, T) as a coloured table, a row per photo; the best text of each is framed."""
    scale = float(np.nanmin(values)), float(np.nanmax(values))
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in texts)
    rows = []
    for photo, name, row in zip(photos, names, values, strict=True):
        picture = f'<img src="{data_url(photo, THUMB)}" alt="{escape(name)}">'
        cells = "".join(_cell(v, scale, v == np.nanmax(row)) for v in row.tolist())
        rows.append(f'<tr><th scope="row" title="{escape(name)}">{picture}</th>{cells}</tr>')
    return (
        f'<div class="table"><table>\n<thead><tr><td></td>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(rows)
        + "\n</tbody>\n</table></div>"
    )


def data_url(picture: Photo | Image.Image, side: int = SIDE) -> str:
    """A picture as text, JPEG, at most `side` pixels long."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image = image.copy()
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _card(card: Card) -> str:
    bars = "".join(
        f'<div class="score"><span>{escape(label)}</span><span>{value:.1%}</span>'
        f'<i><b style="width:{value:.1%}"></b></i></div>'
        for label, value in card.bars
    )
    sign = {"": "", "right": "✓ ", "wrong": "✗ "}[card.verdict]
    title = f'<span class="{card.verdict}">{sign}{escape(card.title)}</span>'
    note = f"<small>{escape(card.note)}</small>" if card.note else ""
    picture = f'<img src="{data_url(card.picture)}" alt="{escape(card.title)}" loading="lazy">'
    return f"<figure>{picture}<figcaption>{title}{note}{bars}</figcaption></figure>"


def _cell(value: float, scale: tuple[float, float], best: bool) -> str:
    if not np.isfinite(value):
        return "<td>–</td>"
    fill, ink = plots.shade(value, scale)
    kind = ' class="best"' if best else ""
    return f'<td{kind} style="background:rgb{fill};color:rgb{ink}">{value:.2f}</td>'
