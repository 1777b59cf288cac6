"""Cohere's and Voyage's APIs for embeddings."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt

from patchword.bundle import Vector
from patchword.errors import PatchwordError
from patchword.serve.bodies import FailFastList
from patchword.serve.error_responses import RefusalError, refusal_of
from patchword.serve.jobs import TINY
from patchword.serve.openai import Item, embed_items, encode_vector
from patchword.serve.server import (
    Server,
    large_answer,
    router,
    server_of,
    warn_of_unused,
    warn_of_unused_fields,
    with_warnings,
)
from patchword.visible_area import Sights

routes = router("cohere, voyage")
WITHOUT_EFFECT = {"input_type"}  # queries and documents get the same vector
PIXELS_PER_TOKEN = 560  # as Voyage counts


class Input(BaseModel):
    """One text or one image, in parts of a type."""

    model_config = ConfigDict(extra="allow")
    content: FailFastList[dict[str, Any]]


class Cohere(BaseModel):
    """Texts, images, or both as inputs."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"examples": [{"images": [TINY], "embedding_types": ["float"]}]},
    )
    model: str | None = None
    texts: FailFastList[str] | None = None
    images: FailFastList[str] | None = None
    inputs: FailFastList[Input] | None = None
    embedding_types: FailFastList[Literal["float", "base64"]] | None = Field(None, min_length=1)
    output_dimension: StrictInt | None = None
    truncate: Literal["NONE", "START", "END"] | None = Field(
        None, description="Texts are cut at their end in any case."
    )


class Voyage(BaseModel):
    """Inputs, each one text or one image."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [{"inputs": [{"content": [{"type": "text", "text": "a red ring"}]}]}]
        },
    )
    model: str | None = None
    inputs: FailFastList[Input]
    output_encoding: Literal["base64"] | None = None
    output_dimension: StrictInt | None = None
    truncation: StrictBool | None = Field(
        None, description="Texts are cut at their end in any case."
    )


@routes.post("/v2/embed", summary="Unit vectors, as Cohere has them")
async def cohere(request: Request, body: Cohere) -> Any:
    warn_of_unused_fields(body, WITHOUT_EFFECT)
    if body.truncate in ("NONE", "START"):
        warn_of_unused({f"truncate, {body.truncate}"})
    items: list[Item] = [("text", text) for text in body.texts or ()]
    items += [("image", image) for image in body.images or ()]
    items += [item_of(each) for each in body.inputs or ()]
    server = server_of(request)
    name, vectors, tokens = await embed_all(server, body.model, items, body.output_dimension)
    embeddings = {
        kind: [encode_vector(vector, kind == "base64") for vector in vectors]
        for kind in body.embedding_types or ["float"]
    }
    units = {"input_tokens": tokens, "images": sum(kind == "image" for kind, _ in items)}
    answer = {
        "response_type": "embeddings_by_type",
        "id": secrets.token_hex(8),
        "model": name,
        "embeddings": embeddings,
        "texts": body.texts or [],
        "meta": {"api_version": {"version": "2"}, "billed_units": units},
    }
    return await large_answer(with_warnings(answer))


@routes.post("/v1/multimodalembeddings", summary="Unit vectors, as Voyage has them")
async def voyage(request: Request, body: Voyage) -> Any:
    warn_of_unused_fields(body, WITHOUT_EFFECT)
    if body.truncation is False:
        warn_of_unused({"truncation, which is false"})
    items = [item_of(each) for each in body.inputs]
    server = server_of(request)
    sights = Sights()
    name, vectors, tokens = await embed_all(
        server, body.model, items, body.output_dimension, sights
    )
    as_base64 = body.output_encoding == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": encode_vector(vector, as_base64)}
        for index, vector in enumerate(vectors)
    ]
    usage = {
        "text_tokens": tokens,
        "image_pixels": sights.pixels,
        "total_tokens": tokens + sights.pixels // PIXELS_PER_TOKEN,
    }
    answer = {"object": "list", "data": data, "model": name, "usage": usage}
    return await large_answer(with_warnings(answer))


def item_of(embedding_input: Input) -> Item:
    """The one text or image of an input. Raises RefusalError for any other number of parts, and for
    other types."""
    if len(embedding_input.content) != 1:
        message = (
            f"an input has one text or one image; here are {len(embedding_input.content)} parts"
        )
        raise RefusalError(400, "input", message, "inputs")
    warn_of_unused_fields(embedding_input)
    part = embedding_input.content[0]
    kind = str(part.get("type"))
    value = part.get(kind)
    warn_of_unused(set(part) - {"type", kind})
    if isinstance(value, dict):
        warn_of_unused(set(value) - {"url"})
        value = value.get("url")
    if kind not in ("text", "image_url", "image_base64") or not isinstance(value, str):
        message = "the type of a part is text, image_url or image_base64, and its value beside it"
        raise RefusalError(400, "input", message, "inputs")
    return ("text" if kind == "text" else "image"), value


async def embed_all(
    server: Server,
    model: str | None,
    items: Sequence[Item],
    dimension: int | None,
    sights: Sights | None = None,
) -> tuple[str, list[Vector], int]:
    """The model's name, a vector for each item, and the number of tokens of all texts; sights: see
    `embed_items`. Raises RefusalError for the first item that cannot be embedded: these APIs have
    no errors of single items."""
    count = server.count_items(inputs=items)
    loaded = await server.models.get(model, "embed")
    loaded.check_dimension(dimension)
    with server.admission.admit(count):
        results, tokens = await embed_items(server, loaded, items, sights)
    vectors = []
    for result in results:
        if isinstance(result, (PatchwordError, RefusalError)):
            raise refusal_of(result, "inputs")
        vectors.append(result)
    return loaded.name, vectors, tokens
