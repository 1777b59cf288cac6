"""The page: one HTML document in the browser's language, and the files that it loads.

All its texts, in both languages, are in `words.json`; the Chinese forms of what the server answers
in English are in `chinese.json`. The document holds no script and no style of its own and loads
nothing from other addresses; its policy makes browsers hold it to that.
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
from patchword.serve.localisation import photo_of
from patchword.serve.photos import jpeg
from patchword.serve.server import router, server_of
from patchword.show.plots import fit

Language = Literal["en", "zh"]

TABS = ("search", "classify", "where", "ask", "compare", "inspect", "explore")
PREVIEW = 1024  # pixels, the longer side at most
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


routes = router("page")


@lru_cache(maxsize=1)
def words() -> dict[str, dict[Language, str]]:
    """Every word of the page: key -> language -> text."""
    text = files("patchword.serve").joinpath("words.json").read_text("utf-8")
    read: dict[str, dict[Language, str]] = json.loads(text)
    return read


@lru_cache(maxsize=1)
def translations() -> dict[str, list[tuple[str, str, str]]]:
    """What the server says: whole "sentences", "parts" of them, and "names" of clusters. Of each
    the longest of its words that stand together, without which no text needs to be looked at
    further; the English as a regular expression of JavaScript; the Chinese. Of two that match the
    first is meant.

    A {gap} is any text, one of a single letter a number; the Chinese has it as it is, or, as a
    [gap], in Chinese too, where it is a part."""
    text = files("patchword.serve").joinpath("chinese.json").read_text("utf-8")
    read: dict[str, dict[str, str]] = json.loads(text)
    return {
        kind: [(*_pattern(english), chinese) for english, chinese in table.items()]
        for kind, table in read.items()
    }


def _pattern(english: str) -> tuple[str, str]:
    """The longest piece without a gap, and the regular expression."""
    words = re.split(r"\{(\w+)\}", english)
    longest = max(words[::2], key=len)
    for place in range(0, len(words), 2):
        words[place] = re.escape(words[place])
    for place in range(1, len(words), 2):
        name = words[place]
        words[place] = rf"(?<{name}>{'.+' if len(name) > 1 else '-?[0-9][0-9.,e+-]*'})"
    return longest, f"^{''.join(words)}$"


def language(accepted: str) -> Language:
    """The language for an Accept-Language header (RFC 9110, section 12.5.4): the one of ours that
    it likes most, English where it names none."""
    liked: list[tuple[float, Language]] = []
    for item in accepted.split(","):
        name, _, weight = item.strip().partition(";q=")
        primary = name.strip().lower().split("-")[0]
        try:
            quality = float(weight or 1)
        except ValueError:
            quality = 0.0
        if primary == "zh" or primary == "en":
            liked.append((quality, "zh" if primary == "zh" else "en"))
    best = max(liked, key=lambda each: each[0], default=(0.0, "en"))
    return best[1] if best[0] > 0 else "en"


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
    own = {key: texts[chosen] for key, texts in words().items()}
    page = templates.get_template("page.html")
    return page.render(
        language=chosen, t=own, translations=translations() if chosen == "zh" else {}, tabs=TABS
    )


class PreviewBody(BaseModel):
    """An image that a browser may not be able to show."""

    model_config = example(image=TINY)
    image: Image


@routes.post("/v1/preview", summary="An image as browsers show it", response_class=Response)
async def preview(request: Request, body: PreviewBody) -> Response:
    server = server_of(request)
    opened = await server.models.first()
    with server.admission.of(1):
        photo = await photo_of(server, opened, body.image)
        side = min(PREVIEW, max(photo.shape[:2]))
        content = await server.decoder.run(lambda: jpeg(fit(photo, side)))
    return Response(content, media_type="image/jpeg")


@routes.get("/", include_in_schema=False)
async def page(lang: str = "", accept_language: str = Header("")) -> HTMLResponse:
    chosen = language(lang or accept_language)
    headers = {
        "Content-Security-Policy": POLICY,
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
