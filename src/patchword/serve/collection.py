"""The photos of an index: search, and photos by their numbers."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

import numpy as np
from fastapi import Request, Response
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt

from patchword.index.query import WITHOUT
from patchword.serve.decoding import Image
from patchword.serve.error_responses import RefusalError
from patchword.serve.jobs import single_result
from patchword.serve.models import LoadedModel
from patchword.serve.photos import Collection
from patchword.serve.request_warnings import add_warnings, current_warnings
from patchword.serve.server import Answer, Server, router, server_of

MAX_OFFSET = 10_000

routes = router("photos")


class Weights(BaseModel):
    """How much text and image of a query count, and what hits should not be like."""

    model_config = ConfigDict(extra="forbid")
    text: StrictFloat = Field(default=1.0, ge=0, allow_inf_nan=False)
    image: StrictFloat = Field(default=1.0, ge=0, allow_inf_nan=False)
    without: StrictFloat = Field(default=WITHOUT, ge=0, allow_inf_nan=False)


class Search(BaseModel):
    """What to look for: words, an image, or both."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"text": "a scratch on a wafer", "k": 3}]}
    )
    text: str | None = None
    image: Image | None = None
    without: str | None = Field(None, description="Words that hits should not be like.")
    weights: Weights = Field(default_factory=Weights)
    k: StrictInt = Field(20, ge=1, le=1000)
    offset: StrictInt = Field(0, ge=0, le=MAX_OFFSET)
    where: str | None = Field(None, description="A condition in SQL on columns of the index.")


@routes.get("/v1/index", summary="The index that is open")
async def index(request: Request) -> Answer:
    server = server_of(request)
    photos = collection_of(server)
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
    with server.admission.admit(1):
        answer = await search_index(server, body)
    return Answer(answer | {"warnings": list(current_warnings())})


async def search_index(server: Server, body: Search) -> dict[str, Any]:
    """The hits of a search, and the number of photos that meet its condition."""
    photos = collection_of(server)
    loaded = await server.models.get(photos.index.model_name, "embed")
    vector = await query_vector(server, loaded, body)
    hits = await server.decoder.run(
        lambda: photos.search(loaded.model, vector, body.k, body.offset, body.where)
    )
    return {"hits": hits, "total": await server.decoder.run(lambda: photos.count(body.where))}


async def query_vector(server: Server, loaded: LoadedModel, body: Search) -> NDArray[np.float64]:
    """The unit vector (D,) of a query: the weighted sum of the vectors of text and image, minus the
    weighted vector of `without`. Raises RefusalError for an empty query."""
    if body.text is None and body.image is None:
        raise RefusalError(400, "empty", "give text, image, or both to look for", "text")
    for name, words in (("text", body.text), ("without", body.without)):
        if words is not None and not words.strip():
            raise RefusalError(400, "empty", f"{name} has no words: {words[:20]!r}", name)
    weights = normalised_weights(body)
    total = np.zeros(loaded.model.dim)
    if body.text is not None:
        total += weights["text"] * (await server.text_vectors(loaded, [body.text]))[0]
    if body.image is not None:
        image = single_result(await server.image_vectors(loaded, [body.image]))
        total += weights["image"] * image
    if body.without is not None:
        without = (await server.text_vectors(loaded, [body.without]))[0]
        total -= weights["without"] * without
    length = float(np.linalg.norm(total))
    same = body.image is None and body.text == body.without and weights["without"]
    if length < 1e-6 or same:
        raise RefusalError(400, "empty", "what is looked for and what is not cancel out", "weights")
    return total / length


def normalised_weights(body: Search) -> dict[str, float]:
    """The weight of each part of a query, divided by the largest. Warns of weights of parts that
    the query does not have. Raises RefusalError if all weights are 0."""
    parts = [name for name in Weights.model_fields if getattr(body, name) is not None]
    unused = sorted(body.weights.model_fields_set - set(parts))
    if unused:
        names = ", ".join(unused)
        add_warnings([f"not used here: weights of {names}, which the query does not have"])
    largest = max(getattr(body.weights, name) for name in parts)
    if largest == 0:
        raise RefusalError(400, "empty", "all weights of what is looked for are 0", "weights")
    return {name: getattr(body.weights, name) / largest for name in parts}


PhotoNumber = Annotated[int, Field(ge=0, lt=1 << 53)]


@routes.get("/v1/images/{number}", summary="A photo of the index", response_class=Response)
async def photo(request: Request, number: PhotoNumber) -> Response:
    server = server_of(request)
    photos = collection_of(server)
    try:
        content, media_type = await server.decoder.run(lambda: photos.photo(number))
    except OSError as error:
        raise RefusalError(404, "gone", f"photo {number}: {error.strerror}") from error
    return picture_response(request, content, media_type)


@routes.get("/v1/images/{number}/info", summary="What the index knows of a photo")
async def info(request: Request, number: PhotoNumber) -> Answer:
    server = server_of(request)
    photos = collection_of(server)
    return Answer(await server.decoder.run(lambda: photos.row(number)))


@routes.get(
    "/v1/images/{number}/thumbnail", summary="A photo of the index, small", response_class=Response
)
async def thumbnail(request: Request, number: PhotoNumber) -> Response:
    server = server_of(request)
    photos = collection_of(server)
    content = await server.decoder.run(lambda: photos.thumbnail(number))
    return picture_response(request, content, "image/jpeg")


def picture_response(request: Request, content: bytes, media_type: str) -> Response:
    """A picture with an ETag. Browsers cache it and ask each time whether it has changed."""
    tag = f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
    headers = {"Cache-Control": "private, no-cache", "ETag": tag}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=media_type, headers=headers)


def collection_of(server: Server) -> Collection:
    """The photos of a server. Raises RefusalError if it has none."""
    if server.collection is None:
        message = "this server has no index; start it with one: patchword serve photos.index"
        raise RefusalError(404, "no_index", message)
    return server.collection
