"""The page: one HTML document in the browser's language, and the files that it loads.

Its texts, in both languages, are in `words.json`; the Chinese of the server's English answers is in
`chinese.json`. The document has no inline scripts or styles and loads nothing from other sites; the
Content-Security-Policy of `security` makes browsers enforce that.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

from fastapi import FastAPI, Header, Request, Response
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel

from patchword.serve.decoding import Image
from patchword.serve.jobs import TINY, example
from patchword.serve.localisation import open_photo
from patchword.serve.photos import jpeg
from patchword.serve.server import router, server_of
from patchword.show.plots import fit

Language = Literal["en", "zh"]

TABS = ("search", "classify", "where", "ask", "compare", "inspect", "explore")
PREVIEW = 1024  # longer side at most, pixels

routes = router("page")


@lru_cache(maxsize=1)
def words() -> dict[str, dict[Language, str]]:
    """Every text of the page: key -> language -> text."""
    text = files("patchword.serve").joinpath("words.json").read_text("utf-8")
    table: dict[str, dict[Language, str]] = json.loads(text)
    return table


@lru_cache(maxsize=1)
def translations() -> dict[str, list[tuple[str, str, str]]]:
    """The Chinese of the server's texts, in three tables: whole "sentences", "parts" of sentences,
    and "names" of clusters.

    Each row has the longest fixed piece of the English, which a text must contain; the English as a
    regular expression of JavaScript; and the Chinese. The first row that matches counts. A {gap}
    stands for any text, one of a single letter for a number. In the Chinese, {gap} is the same text
    unchanged; [gap] is its translation, if it is a part.
    """
    text = files("patchword.serve").joinpath("chinese.json").read_text("utf-8")
    tables: dict[str, dict[str, str]] = json.loads(text)
    return {
        kind: [(*_pattern(english), chinese) for english, chinese in table.items()]
        for kind, table in tables.items()
    }


def _pattern(english: str) -> tuple[str, str]:
    """The longest piece without a gap, and the regular expression."""
    pieces = re.split(r"\{(\w+)\}", english)  # fixed texts and names of gaps, in turn
    longest = max(pieces[::2], key=len)
    pattern = ""
    for place, piece in enumerate(pieces):
        if place % 2 == 0:
            pattern += re.escape(piece)
        elif len(piece) == 1:
            pattern += rf"(?<{piece}>-?[0-9][0-9.,e+-]*)"
        else:
            pattern += f"(?<{piece}>.+)"
    return longest, f"^{pattern}$"


def language(accepted: str) -> Language:
    """The language for an Accept-Language header (RFC 9110, section 12.5.4): the preferred one of
    English and Chinese, English if the header names neither."""
    chosen: Language = "en"
    best = 0.0
    for item in accepted.split(","):
        name, _, weight = item.strip().partition(";q=")
        primary = name.strip().lower().split("-")[0]
        try:
            quality = float(weight or 1)
        except ValueError:
            continue
        if primary in ("zh", "en") and quality > best:
            chosen, best = "zh" if primary == "zh" else "en", quality
    return chosen


@lru_cache(maxsize=2)
def document(chosen: Language) -> str:
    """The whole page in a language."""
    templates = Environment(
        loader=PackageLoader("patchword.serve"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    texts = {key: by_language[chosen] for key, by_language in words().items()}
    return templates.get_template("page.html").render(
        language=chosen,
        t=texts,
        translations=translations() if chosen == "zh" else {},
        tabs=TABS,
    )


class PreviewBody(BaseModel):
    """An image that a browser may not be able to show."""

    model_config = example(image=TINY)
    image: Image


@routes.post("/v1/preview", summary="An image as browsers show it", response_class=Response)
async def preview(request: Request, body: PreviewBody) -> Response:
    server = server_of(request)
    loaded = await server.models.first()
    with server.admission.admit(1):
        photo = await open_photo(server, loaded, body.image)
        side = min(PREVIEW, max(photo.shape[:2]))
        content = await server.decoder.run(lambda: jpeg(fit(photo, side)))
    return Response(content, media_type="image/jpeg")


@routes.get("/", include_in_schema=False)
async def page(lang: str = "", accept_language: str = Header("")) -> HTMLResponse:
    chosen = language(lang or accept_language)
    headers = {
        "Content-Language": "zh-CN" if chosen == "zh" else "en",
        "Vary": "Accept-Language",
    }
    return HTMLResponse(document(chosen), headers=headers)


def add_page(app: FastAPI) -> None:
    """Serve the page at / and its files below /static. `/?lang=en` and `/?lang=zh` override the
    browser's language."""
    app.include_router(routes)
    static = StaticFiles(directory=Path(__file__).parent / "static")
    app.mount("/static", static, name="static")
