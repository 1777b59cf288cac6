"""Vectors of images and texts as Cohere's and Voyage's APIs have them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from patchword.bundle import Vector
from patchword.serve.bodies import Flag, Several, Whole
from patchword.serve.error_responses import RefusalError, refusal_of
from patchword.serve.jobs import TINY
from patchword.serve.openai import Item, numbers, vectors
from patchword.serve.server import (
    Server,
    large_answer,
    router,
    say_ignored,
    say_unused,
    server_of,
    with_warnings,
)
from patchword.visible_area import Sights

routes = router("cohere, voyage")
SILENT = {"input_type"}  # one vector serves queries and documents
PIXELS = 560  # that Voyage counts as a token


class Input(BaseModel):
    """One text or one image, in parts of a type."""

    model_config = ConfigDict(extra="allow")
    content: Several[dict[str, Any]]


class Cohere(BaseModel):
    """Texts, images, or both as inputs."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"examples": [{"images": [TINY], "embedding_types": ["float"]}]},
    )
    model: str | None = None
    texts: Several[str] | None = None
    images: Several[str] | None = None
    inputs: Several[Input] | None = None
    embedding_types: Several[Literal["float", "base64"]] | None = Field(None, min_length=1)
    output_dimension: Whole | None = None
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
    inputs: Several[Input]
    output_encoding: Literal["base64"] | None = None
    output_dimension: Whole | None = None
    truncation: Flag | None = Field(None, description="Texts are cut at their end in any case.")


@routes.post("/v2/embed", summary="Unit vectors, as Cohere has them")
async def cohere(request: Request, body: Cohere) -> Any:
    say_unused(body, SILENT)
    say_ignored({f"truncate, {body.truncate}"} if body.truncate in ("NONE", "START") else set())
    given: list[Item] = [("text", text) for text in body.texts or ()]
    given += [("image", image) for image in body.images or ()]
    given += [part_of(one) for one in body.inputs or ()]
    server = server_of(request)
    name, rows, tokens = await embedded(server, body.model, given, body.output_dimension)
    kinds = {
        kind: [numbers(row, kind == "base64") for row in rows]
        for kind in body.embedding_types or ["float"]
    }
    units = {"input_tokens": tokens, "images": sum(kind == "image" for kind, _ in given)}
    answer = {
        "response_type": "embeddings_by_type",
        "id": secrets.token_hex(8),
        "model": name,
        "embeddings": kinds,
        "texts": body.texts or [],
        "meta": {"api_version": {"version": "2"}, "billed_units": units},
    }
    return await large_answer(with_warnings(answer))


@routes.post("/v1/multimodalembeddings", summary="Unit vectors, as Voyage has them")
async def voyage(request: Request, body: Voyage) -> Any:
    say_unused(body, SILENT)
    say_ignored({"truncation, which is false"} if body.truncation is False else set())
    given = [part_of(one) for one in body.inputs]
    server = server_of(request)
    sights = Sights()
    name, rows, tokens = await embedded(server, body.model, given, body.output_dimension, sights)
    packed = body.output_encoding == "base64"
    data = [
        {"object": "embedding", "index": number, "embedding": numbers(row, packed)}
        for number, row in enumerate(rows)
    ]
    usage = {
        "text_tokens": tokens,
        "image_pixels": sights.pixels,
        "total_tokens": tokens + sights.pixels // PIXELS,
    }
    answer = {"object": "list", "data": data, "model": name, "usage": usage}
    return await large_answer(with_warnings(answer))


def part_of(given: Input) -> Item:
    """The one text or image of an input. Raises RefusalError for more."""
    if len(given.content) != 1:
        said = f"an input has one text or one image; here are {len(given.content)} parts"
        raise RefusalError(400, "input", said, "inputs")
    say_unused(given)
    part = given.content[0]
    kind = str(part.get("type"))
    value = part.get(kind)
    say_ignored(set(part) - {"type", kind})
    if isinstance(value, dict):
        say_ignored(set(value) - {"url"})
        value = value.get("url")
    if kind not in ("text", "image_url", "image_base64") or not isinstance(value, str):
        said = "the type of a part is text, image_url or image_base64, and its value beside it"
        raise RefusalError(400, "input", said, "inputs")
    return ("text" if kind == "text" else "image"), value


async def embedded(
    server: Server,
    model: str | None,
    given: Sequence[Item],
    dimension: int | None,
    sights: Sights | None = None,
) -> tuple[str, list[Vector], int]:
    """The model's name, a vector for each, and the tokens of all texts; sights: see `vectors`.
    Raises RefusalError for the first that cannot be embedded: these forms have no errors of
    items."""
    count = server.checked(inputs=given)
    opened = await server.models.get(model, "embed")
    opened.check_dimension(dimension)
    with server.admission.of(count):
        rows, tokens = await vectors(server, opened, given, sights)
    for row in rows:
        if isinstance(row, Exception):
            raise refusal_of(row, "inputs")
    return opened.name, [row for row in rows if not isinstance(row, Exception)], tokens
