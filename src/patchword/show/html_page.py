"""Results as an HTML page in one file, with its pictures, without scripts or other files."""

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

SIDE = 480  # longer side of a picture, pixels
THUMB = 120  # longer side of a picture in a table, pixels
CARD_WIDTH = 10.5  # least width of a card, rem: six stand in a row
WIDE_CARDS = {4: 16.0, 5: 13.0}  # number of cards -> their least width, rem: they fill one row


@dataclass(frozen=True)
class Card:
    """A picture with a title and texts.

    bars      labels and probabilities, 0 to 1
    limit     that the probabilities are compared with
    verdict   colours the title
    answers   (question, answer)
    beside    a second picture of the same shape; then all cards are twice as wide
    commands  of the terminal with the same result
    """

    picture: Photo | Image.Image
    title: str
    note: str = ""
    bars: Sequence[tuple[str, float]] = ()
    verdict: Literal["", "right", "wrong"] = ""
    answers: Sequence[tuple[str, str]] = ()
    beside: Photo | Image.Image | None = None
    commands: Sequence[str] = ()
    limit: float | None = None


def page(title: str, intro: str, sections: Sequence[str]) -> str:
    """A whole HTML document. sections: from `section`."""
    return render("page", title=title, intro=intro, sections=sections)


def pieces(title: str, intro: str, sections: Iterable[str]) -> Iterator[str]:
    """A `page` in pieces. Its sections are made while it is written, so that only one is in
    memory."""
    template = _environment().get_template("page.html.jinja")
    return template.generate(title=title, intro=intro, sections=sections)


def section(title: str, words: str, bodies: Sequence[str], commands: Sequence[str] = ()) -> str:
    """A part of a page. commands: of the terminal with the same result."""
    return render("section", title=title, words=words, bodies=bodies, commands=commands)


def cards(items: Sequence[Card], title: str = "", commands: Sequence[str] = ()) -> str:
    """Cards side by side, as many as fit. commands: of the terminal with the same result."""
    with_sources = []
    for card in items:
        sources = [data_url(card.picture)]
        if card.beside is not None:
            sources.append(data_url(card.beside))
        with_sources.append((card, sources))
    return render(
        "cards",
        cards=with_sources,
        title=title,
        commands=commands,
        pairs=any(card.beside is not None for card in items),
        least=WIDE_CARDS.get(max(len(items), 4), CARD_WIDTH),
        share=share,
    )


def matrix(
    photos: Sequence[Photo],
    names: Sequence[str],
    texts: Sequence[str],
    values: NDArray[np.floating],
) -> str:
    """Cosines (I, T) as a coloured table with a row for each photo, whose best text is framed."""
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
    """HTML of a template in `templates`. Values are escaped, except HTML that this function
    returned."""
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
    """A picture as a data URL: a JPEG, at most `side` pixels long."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image = image.copy()
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _cell(value: float, scale: tuple[float, float], best: bool) -> dict[str, Any] | None:
    """A cell of `matrix`; None for NaN."""
    if not np.isfinite(value):
        return None
    fill, ink = shade(value, scale)
    return {"value": f"{value:.2f}", "fill": fill, "ink": ink, "best": best}
