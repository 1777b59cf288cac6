"""The page: one HTML document in the browser's language, and the files that it loads.

Every word of it, in both languages, is in `words.json`. The document holds no script and no style
of its own and loads nothing from other addresses; its policy makes browsers hold it to that.
"""

from __future__ import annotations

import json
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
from patchword.serve.photos import jpeg
from patchword.serve.places import photo_of
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
    said = {key: texts[chosen] for key, texts in words().items()}
    page = templates.get_template("page.html")
    return page.render(language=chosen, t=said, tabs=TABS)


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
