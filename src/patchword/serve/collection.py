"""The photos of an index: searched, and shown by their numbers."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

import numpy as np
from fastapi import Request, Response
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from patchword.index.query import WITHOUT
from patchword.serve.bodies import Number, Whole
from patchword.serve.decoding import Image
from patchword.serve.error_responses import RefusalError
from patchword.serve.jobs import only
from patchword.serve.models import Opened
from patchword.serve.photos import Collection
from patchword.serve.request_warnings import said, say
from patchword.serve.server import Answer, Server, router, server_of

MOST_HITS = 10_000

routes = router("photos")


class Weights(BaseModel):
    """How much text and image of a query count, and what hits should not be like."""

    model_config = ConfigDict(extra="forbid")
    text: Number = Field(default=1.0, ge=0, allow_inf_nan=False)
    image: Number = Field(default=1.0, ge=0, allow_inf_nan=False)
    without: Number = Field(default=WITHOUT, ge=0, allow_inf_nan=False)


class Search(BaseModel):
    """What to look for: words, an image, or both."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"text": "a scratch on a wafer", "k": 3}]}
    )
    text: str | None = None
    image: Image | None = None
    without: str | None = Field(None, description="Words that hits should not be like.")
    weights: Weights = Field(default_factory=Weights)
    k: Whole = Field(20, ge=1, le=1000)
    offset: Whole = Field(0, ge=0, le=MOST_HITS)
    where: str | None = Field(None, description="A condition in SQL on columns of the index.")


@routes.get("/v1/index", summary="The index that is open")
async def index(request: Request) -> Answer:
    server = server_of(request)
    photos = of(server)
    count, columns = await server.decoder.run(lambda: (len(photos.index), photos.columns()))
    return Answer(
        {
            "images": count,
            "name": photos.index.path.rpartition("/")[2],
            "model": photos.index.model_name,
            "columns": columns,
            "where": True,
        }
    )


@routes.post("/v1/search", summary="Photos of the index, by words, an image, or both")
async def search(request: Request, body: Search) -> Answer:
    server = server_of(request)
    with server.admission.of(1):
        answer = await found(server, body)
    return Answer(answer | {"warnings": list(said())})


async def found(server: Server, body: Search) -> dict[str, Any]:
    """The hits of a search, and how many photos there are, of those that meet its condition."""
    photos = of(server)
    opened = await server.models.get(photos.index.model_name, "embed")
    vector = await query(server, opened, body)
    hits = await server.decoder.run(
        lambda: photos.search(opened.model, vector, body.k, body.offset, body.where)
    )
    return {"hits": hits, "total": await server.decoder.run(lambda: photos.count(body.where))}


async def query(server: Server, opened: Opened, body: Search) -> NDArray[np.float64]:
    """The unit vector (D,) of what is looked for: the weighted sum of those of text and image, less
    that of what hits should not be like."""
    if body.text is None and body.image is None:
        raise RefusalError(400, "empty", "give text, image, or both to look for", "text")
    for name in ("text", "without"):
        if (words := getattr(body, name)) is not None and not words.strip():
            raise RefusalError(400, "empty", f"{name} has no words: {words[:20]!r}", name)
    weight = weighed(body)
    total = np.zeros(opened.model.dim)
    if body.text is not None:
        total += weight["text"] * (await server.text_rows(opened, [body.text]))[0]
    if body.image is not None:
        row = only(await server.image_rows(opened, [body.image]))
        total += weight["image"] * row
    if body.without is not None:
        row = (await server.text_rows(opened, [body.without]))[0]
        total -= weight["without"] * row
    length = float(np.linalg.norm(total))
    same = body.image is None and body.text == body.without and weight["without"]
    if length < 1e-6 or same:
        raise RefusalError(400, "empty", "what is looked for and what is not cancel out", "weights")
    return total / length


def weighed(body: Search) -> dict[str, float]:
    """The weight of each part of a query, the largest 1: only how they compare means something.
    Raises RefusalError where all are 0. A weight of what is not there is named."""
    given = [name for name in Weights.model_fields if getattr(body, name) is not None]
    if idle := sorted(body.weights.model_fields_set - set(given)):
        say([f"not used here: weights of {', '.join(idle)}, which the query does not have"])
    most = max(getattr(body.weights, name) for name in given)
    if most == 0:
        raise RefusalError(400, "empty", "all weights of what is looked for are 0", "weights")
    return {name: getattr(body.weights, name) / most for name in given}


PhotoNumber = Annotated[int, Field(ge=0, lt=1 << 53)]


@routes.get("/v1/images/{number}", summary="A photo of the index", response_class=Response)
async def photo(request: Request, number: PhotoNumber) -> Response:
    server = server_of(request)
    photos = of(server)
    try:
        content, kind = await server.decoder.run(lambda: photos.photo(number))
    except OSError as error:
        raise RefusalError(404, "gone", f"photo {number}: {error.strerror}") from error
    return shown(request, content, kind)


@routes.get("/v1/images/{number}/info", summary="What the index knows of a photo")
async def info(request: Request, number: PhotoNumber) -> Answer:
    server = server_of(request)
    photos = of(server)
    return Answer(await server.decoder.run(lambda: photos.about(number)))


@routes.get(
    "/v1/images/{number}/thumbnail", summary="A photo of the index, small", response_class=Response
)
async def thumbnail(request: Request, number: PhotoNumber) -> Response:
    server = server_of(request)
    photos = of(server)
    content = await server.decoder.run(lambda: photos.thumbnail(number))
    return shown(request, content, "image/jpeg")


def shown(request: Request, content: bytes, kind: str) -> Response:
    """A picture, which a browser keeps and asks each time whether it has changed."""
    tag = f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
    headers = {"Cache-Control": "private, no-cache", "ETag": tag}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=kind, headers=headers)


def of(server: Server) -> Collection:
    """The photos of a server. Raises RefusalError where it has none."""
    if server.collection is None:
        message = "this server has no index; start it with one: patchword serve photos.index"
        raise RefusalError(404, "no_index", message)
    return server.collection
