"""Answers as one HTML page: pictures inside, no script, nothing fetched, light and dark."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from patchword.show.colours import shade
from patchword.show.percent import share
from patchword.show.plots import Photo

if TYPE_CHECKING:
    from jinja2 import Environment

SIDE = 480  # longest side of a picture in the page, pixels
THUMB = 120  # of one in a table
NARROW = 10.5  # rem: least width of a card, of which six stand in a row
LEAST = {4: 16.0, 5: 13.0}  # of so many or fewer, which make one row


@dataclass(frozen=True)
class Card:
    """A picture with a title and texts. `verdict` colours the title.

    beside    a second picture of the same shape; where a card has one, each is twice as wide
    commands  that give the same in a terminal
    """

    picture: Photo | Image.Image
    title: str
    note: str = ""
    bars: Sequence[tuple[str, float]] = ()
    verdict: Literal["", "right", "wrong"] = ""
    answers: Sequence[tuple[str, str]] = ()  # with their questions before them
    beside: Photo | Image.Image | None = None
    commands: Sequence[str] = ()


def page(title: str, intro: str, sections: Sequence[str]) -> str:
    """A whole HTML document from plain words and what the functions below made."""
    return render("page", title=title, intro=intro, sections=sections)


def pieces(title: str, intro: str, sections: Iterable[str]) -> Iterator[str]:
    """A `page` whose sections are made while it is written, so that one of them at a time is in
    memory."""
    template = _environment().get_template("page.html.jinja")
    return template.generate(title=title, intro=intro, sections=sections)


def section(title: str, words: str, bodies: Sequence[str], commands: Sequence[str] = ()) -> str:
    """A titled part of a page; `commands` give the same in a terminal."""
    return render("section", title=title, words=words, bodies=bodies, commands=commands)


def cards(items: Sequence[Card], title: str = "", commands: Sequence[str] = ()) -> str:
    """Cards side by side, as many as fit. commands: that give the same in a terminal."""
    pictures = [[card.picture] if card.beside is None else [card.picture, card.beside]
                for card in items]  # fmt: skip
    shown = [
        {
            "sources": [data_url(each) for each in both],
            "title": card.title,
            "verdict": card.verdict,
            "note": card.note,
            "bars": card.bars,
            "answers": card.answers,
            "commands": card.commands,
        }
        for card, both in zip(items, pictures, strict=True)
    ]
    pairs = any(len(both) > 1 for both in pictures)
    least = LEAST.get(max(len(items), 4), NARROW)
    return render(
        "cards", cards=shown, title=title, commands=commands, pairs=pairs, least=least, share=share
    )


def matrix(
    photos: Sequence[Photo],
    names: Sequence[str],
    texts: Sequence[str],
    values: NDArray[np.floating],
) -> str:
    """Cosines (I, T) as a coloured table, a row per photo; the best text of each is framed."""
    scale = float(np.nanmin(values)), float(np.nanmax(values))
    rows = [
        {
            "name": name,
            "source": data_url(photo, THUMB),
            "cells": [_cell(value, scale, value == np.nanmax(row)) for value in row.tolist()],
        }
        for photo, name, row in zip(photos, names, values, strict=True)
    ]
    return render("matrix", texts=texts, rows=rows)


def render(template: str, **values: Any) -> str:
    """HTML of one of the templates beside this file. What is filled in is escaped, unless it is
    itself what this function gave."""
    from markupsafe import Markup

    return Markup(_environment().get_template(f"{template}.html.jinja").render(**values))


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("patchword.show"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def data_url(picture: Photo | Image.Image, side: int = SIDE) -> str:
    """A picture as text, JPEG, at most `side` pixels long."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image = image.copy()
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _cell(value: float, scale: tuple[float, float], best: bool) -> dict[str, Any] | None:
    """A cell of `matrix`; None where there is no number."""
    if not np.isfinite(value):
        return None
    fill, ink = shade(value, scale)
    return {"value": f"{value:.2f}", "fill": fill, "ink": ink, "best": best}
