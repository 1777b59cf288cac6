"""What clients of OpenAI's API ask for: models, embeddings."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from typing import Any, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from patchword.bundle import Vector
from patchword.errors import PatchwordError
from patchword.serve.bodies import Flag, Several, Whole
from patchword.serve.decoding import PhotoId
from patchword.serve.error_responses import RefusalError, item, refusal_of
from patchword.serve.jobs import TINY
from patchword.serve.models import JOBS, Opened
from patchword.serve.request_warnings import say
from patchword.serve.server import (
    Answer,
    Failed,
    Server,
    large_answer,
    router,
    say_ignored,
    say_unused,
    server_of,
    with_warnings,
)
from patchword.text import long_text as long_texts
from patchword.visible_area import Sights

routes = router("openai")
STARTED = int(time.time())
SILENT = {"user"}


@routes.get("/v1/models/", include_in_schema=False)
@routes.get("/v1/models", summary="The models, and what each can do")
async def models(request: Request) -> Answer:
    return Answer({"object": "list", "data": await _described(server_of(request))})


@routes.get("/v1/models/{name:path}", summary="One of them")
async def model(request: Request, name: str) -> Answer:
    for each in await _described(server_of(request)):
        if each["id"] == name:
            return Answer(each)
    raise RefusalError(404, "model_not_found", f"no model {name!r}", "model")


async def _described(server: Server) -> list[dict[str, Any]]:
    return [
        {
            "id": name,
            "object": "model",
            "created": STARTED,
            "owned_by": "patchword",
            "can": [job for job in JOBS if job not in why_not],
            "why_not": dict(why_not),
            "heatmaps": dict(heatmaps),
        }
        for name, why_not, heatmaps in await server.models.described()
    ]


class Part(BaseModel):
    """A text or an image, as Jina's API has them."""

    model_config = ConfigDict(extra="forbid")
    text: str | None = None
    image: str | PhotoId | None = None


class Embeddings(BaseModel):
    """Texts, images, or both; what other servers of embeddings take too."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"examples": [{"input": ["a red circle", TINY]}]},
    )
    model: str | None = None
    input: str | Part | Several[str | Part | Several[Whole]] | Several[Whole] | None = None
    messages: Several[dict[str, Any]] | None = Field(None, description="As vLLM takes an image.")
    modality: Literal["text", "image"] | None = Field(None, description="As infinity has it.")
    encoding_format: Literal["float", "base64"] | None = None
    embedding_type: Literal["float", "base64"] | None = Field(None, description="Jina's name.")
    dimensions: Whole | None = None
    normalized: Flag | None = Field(None, description="Vectors are of length 1 in any case.")


Item = tuple[Literal["text", "ids", "image"], Any]


@routes.post("/v1/embeddings", summary="Unit vectors of texts and images")
@routes.post("/embeddings", include_in_schema=False)
async def embeddings(request: Request, body: Embeddings) -> Answer:
    server = server_of(request)
    forms = {body.encoding_format, body.embedding_type} - {None}
    if len(forms) > 1:
        said = "encoding_format and embedding_type differ: which one is meant?"
        raise RefusalError(400, "invalid_request", said, "embedding_type")
    given = items_of(body)
    count = server.checked(input=given)
    opened = await server.models.get(body.model, "embed")
    opened.check_dimension(body.dimensions)
    say_unused(body, SILENT)
    say_ignored({"normalized, which is false"} if body.normalized is False else set())
    with server.admission.of(count):
        rows, tokens = await vectors(server, opened, given)
    failed = [row for row in rows if isinstance(row, Exception)]
    if len(failed) == len(rows):
        raise refusal_of(failed[0], "input")
    packed = "base64" in forms
    data = [
        item(number, row)
        if isinstance(row, (PatchwordError, RefusalError))
        else {"object": "embedding", "index": number, "embedding": numbers(row, packed)}
        for number, row in enumerate(rows)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    answer = {"object": "list", "data": data, "model": opened.name, "usage": usage}
    return await large_answer(with_warnings(answer))


def numbers(row: Vector, packed: bool) -> str | list[float]:
    """A vector as a list, or as the base64 of its float32, little-endian."""
    if not packed:
        return row.tolist()  # type: ignore[no-any-return]
    return base64.b64encode(row.astype("<f4").tobytes()).decode()


def items_of(body: Embeddings) -> list[Item]:
    """What is to be embedded, in order. Raises RefusalError for what cannot be."""
    if (body.input is None) == (body.messages is None):
        raise RefusalError(400, "empty", "give input, or messages", "input")
    if body.messages is not None:
        return _of_messages(body.messages)
    given = body.input
    if isinstance(given, list) and given and all(isinstance(one, int) for one in given):
        return [("ids", given)]
    several = given if isinstance(given, list) else [given]
    return [_item(one, body.modality) for one in several]


def _item(given: Any, modality: str | None) -> Item:
    if isinstance(given, list):
        return "ids", given
    if isinstance(given, Part):
        if (given.text is None) == (given.image is None):
            raise RefusalError(400, "input", "an item has text or image, one of them", "input")
        return ("image", given.image) if given.text is None else ("text", given.text)
    image = modality == "image" or (modality is None and given[:11].lower() == "data:image/")
    return ("image" if image else "text"), given


def _of_messages(messages: Sequence[dict[str, Any]]) -> list[Item]:
    """The one text or image of a conversation."""
    found: list[Item] = []
    for message in messages:
        content = message.get("content")
        parts = [{"text": content}] if isinstance(content, str) else content
        for part in parts if isinstance(parts, list) else []:
            address = part.get("image_url") if isinstance(part, dict) else None
            address = address.get("url") if isinstance(address, dict) else address
            if isinstance(address, str):
                found.append(("image", address))
            elif isinstance(part, dict) and str(part.get("text") or "").strip():
                found.append(("text", str(part["text"])))
    images = [one for one in found if one[0] == "image"]
    chosen = images or found
    if images and len(found) > len(images):  # an instruction, which other models take
        say(["not used here: texts beside the image to embed"])
    if len(chosen) != 1:
        said = f"messages hold one image or one text to embed; here are {len(chosen)}"
        raise RefusalError(400, "messages", said, "messages")
    return chosen


async def vectors(
    server: Server, opened: Opened, given: Sequence[Item], sights: Sights | None = None
) -> tuple[list[Vector | Failed], int]:
    """A unit vector or an error for each, and the tokens of all texts. sights: of the images, see
    `Server.embedded`."""
    texts = [(place, value) for place, (kind, value) in enumerate(given) if kind == "text"]
    lists = [(place, value) for place, (kind, value) in enumerate(given) if kind == "ids"]
    images = [(place, value) for place, (kind, value) in enumerate(given) if kind == "image"]
    found: dict[int, Any] = {}
    tokens = 0
    if texts:
        words = [value for _, value in texts if value]
        rows = iter(await server.text_rows(opened, words))
        tokens += await server.decoder.run(lambda: sum(map(len, opened.model.reader().rows(words))))
        found |= {place: next(rows) if value else empty(place) for place, value in texts}
    if lists:
        server.short(sum(len(value) for _, value in lists), "token numbers")
        ids = {place: whole(opened, value) for place, value in lists}
        good = {place: row for place, row in ids.items() if isinstance(row, list)}
        tokens += sum(map(len, good.values()))
        long_texts.warn_of_long(opened.model.reader(), list(good.values()))
        made = await opened.text_vectors(list(good.values()))
        found |= ids | dict(zip(good, made, strict=True))
    if images:
        each = await server.image_rows(opened, [value for _, value in images], sights)
        found |= zip([place for place, _ in images], each, strict=True)
    return [found[place] for place in range(len(given))], tokens


def empty(place: int) -> RefusalError:
    return RefusalError(400, "empty", f"input {place} is an empty text", "input")


def whole(opened: Opened, ids: Sequence[int]) -> list[int] | RefusalError:
    """A text's ids with the special tokens around them, where they are not there; an error for ids
    that the model does not have."""
    tokenizer = opened.model.reader()
    *before, end = tokenizer.rows([""])[0]
    if not ids or not all(0 <= one < tokenizer.vocab_size for one in ids):
        message = f"tokens are numbers from 0 to {tokenizer.vocab_size - 1} of {opened.name}'s own"
        return RefusalError(400, "tokens", f"{message} tokenizer", "input")
    row = list(ids)
    if before and row[: len(before)] != before:
        row = [*before, *row]
    return row if row[-1] == end else [*row, end]
